package conformance

import (
	"fmt"
	"regexp"
	"strings"

	"ngx-http-wasm-handler/conformance/client"
	"ngx-http-wasm-handler/conformance/guest"
)

// The end of the memory of every guest, and a range that begins below it and ends behind.
const (
	memoryEnd = "#524288"
	outside   = "#524287 #1000"
)

// getters share one rule about their buffer.
func getterCases() []Case {
	var cases []Case

	for _, g := range []string{"get_config", "get_method", "get_uri", "get_protocol_version", "get_source_addr"} {
		size := fmt.Sprintf("(local.set $i (call $%s #0 #0))\n", g)
		call := func(buf, limit string) string { return fmt.Sprintf("(call $%s %s %s)", g, buf, limit) }
		add := func(rule, doc, text string) *Case {
			cases = append(cases, Case{
				ID: g + "/" + rule, Doc: doc, Ref: "ABI " + g, Config: ptr("some config"),
				Guest: guest.Guest{Request: size + text},
			})

			return &cases[len(cases)-1]
		}

		add("limit 0", "asks for the length and writes nothing",
			"(call $fill) (call $is "+call("BUF", "#0")+" (local.get $i)) (call $is_untouched #0) (call $is (i32.eqz (local.get $i)) #0)")
		add("limit 0, any pointer", "the pointer is not looked at when nothing can be written",
			"(call $is "+call("#-1", "#0")+" (local.get $i))")
		add("exact limit", "a value that fits exactly is written, and no byte more",
			"(call $fill) (call $is "+call("BUF", "(local.get $i)")+" (local.get $i)) (call $is_untouched (local.get $i))"+
				"(call $is (i32.ne (i32.load8_u BUF) #170) #1)")
		add("short limit", "a value that does not fit is not truncated: nothing is written, its length is returned",
			"(call $fill) (call $is "+call("BUF", "(i32.sub (local.get $i) #1)")+" (local.get $i)) (call $is_untouched #0)")
		add("huge limit", "the limit is unsigned and may exceed the memory, as long as the value fits",
			"(call $is "+call("BUF", "#-1")+" (local.get $i))")
		add("end of memory", "a value may end with the last byte of the memory",
			"(call $is "+call("(i32.sub "+memoryEnd+" (local.get $i))", "(local.get $i)")+" (local.get $i))")
		add("stable", "the same value again: guests ask twice when their buffer is too small",
			"(drop "+call("BUF", "#4096")+") (drop "+call("(i32.add BUF #4096)", "#4096")+")"+
				"(call $is (call $equal BUF (i32.add BUF #4096) (local.get $i)) #1)")
		c := add("out of range", "a value whose place is outside the memory traps", "(drop "+call(memoryEnd, "#4096")+")")
		c.Decision = "a guest's bug; the reference host writes nothing and says nothing"
		c.Want = Want{Trap: InRequest, In: g}

		cases = append(cases, Case{
			ID: g + "/response", Doc: "handle_response gets the same value as handle_request", Ref: "ABI " + g,
			Config: ptr("some config"),
			Guest: guest.Guest{
				Request:  "(drop " + call("BUF", "#4096") + ")",
				Response: size + "(drop " + call("(i32.add BUF #4096)", "#4096") + ") (call $is (call $equal BUF (i32.add BUF #4096) (local.get $i)) #1)",
			},
		})
	}

	return append(cases, values()...)
}

var ipPort = regexp.MustCompile(`^127\.0\.0\.1:[1-9][0-9]{0,4}$`)

func values() []Case {
	method := func(name, method string) Case {
		return Case{
			ID: "get_method/" + name, Doc: "the method as it was sent", Ref: "ABI get_method",
			Guest: guest.Guest{Request: `(call $is_text (call $get_method BUF #100) &"` + method + `")`},
			Send:  client.Request{Method: method}, Want: Want{Backend: &Upstream{Method: method}},
		}
	}

	cases := []Case{
		method("GET", "GET"), method("HEAD", "HEAD"), method("POST", "POST"), method("PUT", "PUT"),
		method("DELETE", "DELETE"), method("OPTIONS", "OPTIONS"), method("PATCH", "PATCH"),
		method("extension", "PROPFIND"), method("unknown", "BREW"), method("hyphen", "M-SEARCH"),

		{
			ID: "set_method/new", Doc: "the backend gets the new method, get_method returns it", Ref: "ABI set_method",
			Guest: guest.Guest{Request: `(call $set_method &"POST") (call $is_text (call $get_method BUF #100) &"POST")`},
			Want:  Want{Backend: &Upstream{Method: "POST"}},
		},
		{
			ID: "set_method/unknown", Doc: "any token is a method", Ref: "RFC 9110 9.1",
			Guest: guest.Guest{Request: `(call $set_method &"BREW")`},
			Want:  Want{Backend: &Upstream{Method: "BREW"}},
		},
		{
			ID: "set_method/case", Doc: "methods are case-sensitive: nothing is folded", Ref: "RFC 9110 9.1",
			Guest: guest.Guest{Request: `(call $set_method &"Purge") (call $is_text (call $get_method BUF #100) &"Purge")`},
			Want:  Want{Backend: &Upstream{Method: "Purge"}},
		},
		{
			ID: "set_method/in response", Doc: "handle_response still gets the method that was set", Ref: "ABI get_method",
			Guest: guest.Guest{Request: `(call $set_method &"POST")`, Response: `(call $is_text (call $get_method BUF #100) &"POST")`},
		},
		{
			ID: "set_method/HEAD to GET", Doc: "a request that came as HEAD is answered as HEAD, whatever the backend was asked",
			Ref:   "RFC 9110 9.3.2",
			Guest: guest.Guest{Request: `(call $set_method &"GET")`},
			Send:  client.Request{Method: "HEAD"}, Want: Want{Backend: &Upstream{Method: "GET"}, Body: Nothing},
		},
		{
			ID: "set_method/with body", Doc: "the body goes along with the new method", Ref: "ABI set_method",
			Guest: guest.Guest{Request: `(call $set_method &"PUT")`},
			Send:  client.Request{Method: "POST", Body: []byte("content")},
			Want:  Want{Backend: &Upstream{Method: "PUT", Body: "content"}},
		},
		{
			ID: "set_method/empty", Doc: "an empty method traps", Ref: "reference host",
			Guest: guest.Guest{Request: `(call $set_method #0 #0)`}, Want: Want{Trap: InRequest, In: "set_method"},
		},
		{
			ID: "set_method/out of range", Doc: "bytes outside the memory trap", Ref: "reference host",
			Guest: guest.Guest{Request: "(call $set_method " + outside + ")"}, Want: Want{Trap: InRequest, In: "set_method"},
		},

		{
			ID: "get_protocol_version/value", Doc: "HTTP/1.1, HTTP/2.0 or HTTP/3.0: the version of the client's request", Ref: "ABI get_protocol_version",
			Guest: guest.Guest{Request: `(call $tell &"x-version" (call $get_protocol_version BUF #100))`, Result: guest.Stop},
			Do: func(x *Run) {
				x.Exchange(x.Send, Want{Header: map[string]string{"X-Version": x.Proto}})
			},
		},
		{
			ID: "get_protocol_version/HTTP/1.0", Doc: "a request of HTTP/1.0 says so, and needs no host", Ref: "ABI get_protocol_version",
			Default: true, Only: []string{client.HTTP1}, OnlyWhy: "the request is one of HTTP/1.0",
			Guest: guest.Guest{Request: `(call $is_text (call $get_protocol_version BUF #100) &"HTTP/1.0")`, Result: guest.Stop},
			Send:  client.Request{Version: "HTTP/1.0"},
		},
		{
			ID: "get_source_addr/value", Doc: "address and port of the peer", Ref: "ABI get_source_addr",
			Guest: guest.Guest{Request: `(call $tell &"x-addr" (call $get_source_addr BUF #100))`, Result: guest.Stop},
			Do: func(x *Run) {
				res := x.Exchange(x.Send, Want{})
				if got := client.Lines(res.Header, "X-Addr"); !ipPort.MatchString(got) {
					x.Errorf("source address: got %q, expected 127.0.0.1 and a port", got)
				}
			},
		},
		{
			ID: "get_source_addr/not forwarded", Doc: "the address of the peer, whatever X-Forwarded-For says", Ref: "ABI get_source_addr",
			Guest: guest.Guest{Request: `(drop (call $get_source_addr BUF #100)) (call $is (call $equal BUF &"127.0.0.1:") #1)`},
			Send:  client.Request{Header: []string{"X-Forwarded-For: 192.0.2.1", "Forwarded: for=192.0.2.1"}},
		},

		{
			ID: "get_config/value", Doc: "the configuration byte by byte, control bytes and all", Ref: "ABI get_config",
			Config: ptr("{\"a\":\"\xc3\xa9\"}\n\t\x01\xff"),
			Guest:  guest.Guest{Request: `(call $is_text (call $get_config BUF #100) &"{\"a\":\"\c3\a9\"}\n\t\01\ff")`},
		},
		{
			ID: "get_config/none", Doc: "without a configuration the length is 0 and nothing is written", Ref: "ABI get_config",
			Guest: guest.Guest{Request: `(call $fill) (call $is (call $get_config BUF #100) #0) (call $is_untouched #0)`},
		},
		{
			ID: "get_config/large", Doc: "64 KiB come whole", Ref: "ABI get_config",
			Config: ptr(strings.Repeat("0123456789abcdef", 4096)),
			Guest: guest.Guest{Request: `(call $is (call $get_config BUF #65535) #65536)
				(call $is (call $get_config BUF #65536) #65536)
				(call $is (call $equal (i32.add BUF #65520) &"0123456789abcdef") #1)`},
		},
		{
			ID: "get_config/start", Doc: "a start function can read it", Ref: "ABI get_config",
			Config: ptr("some config"),
			Guest:  guest.Guest{Start: `(call $is_text (call $get_config BUF #100) &"some config")`},
		},
	}

	for _, t := range []struct{ id, wat, want string }{
		{"space", "GE T", ""}, {"control", `GE\01T`, ""}, {"line break", `GET\r\nX: y`, ""}, {"separator", "GET/", ""},
	} {
		cases = append(cases, Case{
			ID: "set_method/" + t.id, Doc: "a method that is not a token traps", Ref: "RFC 9110 9.1",
			Decision: "the ABI says nothing about validity; what is not a token splits the request line of the next hop",
			Guest:    guest.Guest{Request: `(call $set_method &"` + t.wat + `")`}, Want: Want{Trap: InRequest, In: "set_method"},
		})
	}

	return cases
}
