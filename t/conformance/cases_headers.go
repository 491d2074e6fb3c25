package conformance

import (
	"strings"

	"ngx-http-wasm-handler/conformance/client"
	"ngx-http-wasm-handler/conformance/guest"
)

const (
	d5 = "the reference host refuses every change without buffer_response; headers and status are still open when we call handle_response"

	invalidField = "the ABI says nothing about validity; such a field would split the message or make it invalid"
)

func headerCases() []Case {
	cases := []Case{
		// Reading request headers.
		{
			ID: "get_header_names/request", Doc: "every name once and in lower case, each ended by NUL", Ref: "ABI get_header_names",
			Guest: guest.Guest{Request: `
				(local.set $r (call $get_header_names REQUEST BUF #10000))
				(call $tell &"x-names" (call $low (call $get_header_values REQUEST &"x-two" BUF #0)))
				(local.set $r (call $get_header_names REQUEST BUF #10000))
				(local.set $i #0)
				(block $end (loop $next
					(br_if $end (i32.ge_u (local.get $i) (call $low (local.get $r))))
					(if (i32.eqz (i32.load8_u (i32.add BUF (local.get $i)))) (then (i32.store8 (i32.add BUF (local.get $i)) #44)))
					(local.set $i (i32.add (local.get $i) #1)) (br $next)))
				(call $tell &"x-names" (call $low (local.get $r)))
				(call $tell_number &"x-count" (call $high (local.get $r)))`,
				Result: guest.Stop},
			Send: client.Request{Header: []string{"X-One: 1", "X-Two: a", "x-two: b", "X-Empty:"}},
			Do: func(x *Run) {
				res := x.Exchange(x.Send, Want{})
				names := strings.Split(strings.TrimSuffix(client.Lines(res.Header, "X-Names"), ","), ",")
				seen := make(map[string]int)
				for _, name := range names {
					seen[name]++
					if name != strings.ToLower(name) {
						x.Errorf("name %q is not in lower case", name)
					}
				}
				for _, name := range []string{"x-one", "x-two", "x-empty", "host"} {
					x.Equal("times "+name+" is listed", seen[name], 1)
				}
				x.Equal("number of names", client.Lines(res.Header, "X-Count"), count(len(names)))
			},
		},
		{
			ID: "get_header_names/limit", Doc: "a list that does not fit is not written, its size is returned", Ref: "ABI get_header_names",
			Guest: guest.Guest{Request: `
				(local.set $r (call $get_header_names REQUEST BUF #0))
				(call $fill)
				(call $is64 (call $get_header_names REQUEST BUF (i32.sub (call $low (local.get $r)) #1)) (local.get $r))
				(call $is_untouched #0)
				(call $is64 (call $get_header_names REQUEST BUF (call $low (local.get $r))) (local.get $r))
				(call $is_untouched (call $low (local.get $r)))
				(call $is (i32.load8_u (i32.add (i32.const 65535) (call $low (local.get $r)))) #0)`},
		},
		{
			ID: "get_header_names/many", Doc: "a hundred headers", Ref: "ABI get_header_names",
			Guest: guest.Guest{Request: `
				(call $is (i32.ge_u (call $high (call $get_header_names REQUEST BUF #10000)) #100) #1)
				(call $is_list (call $get_header_values REQUEST &"x-99" BUF #100) #1 &"v99\00")`},
			Send: client.Request{Header: hundred()},
		},
		{
			ID: "get_header_names/out of range", Doc: "a list whose place is outside the memory traps", Ref: "reference host",
			Guest: guest.Guest{Request: "(drop (call $get_header_names REQUEST " + memoryEnd + " #10000))"},
			Want:  Want{Trap: InRequest, In: "get_header_names"},
		},
		{
			ID: "get_header_names/bad kind", Doc: "a kind other than 0 to 3 traps", Ref: "reference host",
			Guest: guest.Guest{Request: "(drop (call $get_header_names #4 BUF #100))"},
			Want:  Want{Trap: InRequest, In: "get_header_names"},
		},
		{
			ID: "get_header_names/empty response", Doc: "before next there are no response headers but the guest's own", Ref: "reference host",
			Guest: guest.Guest{Request: `
				(call $is64 (call $get_header_names RESPONSE BUF #100) (i64.const 0))
				(call $set_header_value RESPONSE &"X-Mine" &"1")
				(call $is_list (call $get_header_names RESPONSE BUF #100) #1 &"x-mine\00")`},
			Want: Want{Header: map[string]string{"X-Mine": "1"}},
		},
		{
			ID: "get_header_names/response", Doc: "after next those of the backend and the guest's", Ref: "ABI get_header_names",
			Guest: guest.Guest{
				Request: `(call $set_header_value RESPONSE &"X-Mine" &"1")`,
				Response: `
				(local.set $r (call $get_header_names RESPONSE BUF #10000))
				(call $is (i32.ge_u (call $high (local.get $r)) #3) #1)
				(call $is_list (call $get_header_values RESPONSE &"x-mine" BUF #100) #1 &"1\00")
				(call $is_list (call $get_header_values RESPONSE &"X-backend" BUF #100) #2 &"a, b\00c\00")
				(call $is_list (call $get_header_values RESPONSE &"content-type" BUF #100) #1 &"text/x-test; charset=utf-8\00")`,
			},
			Reply: Reply{Header: []string{"X-Backend: a, b", "X-Backend: c", "Content-Type: text/x-test; charset=utf-8"}},
		},
		{
			ID: "get_header_names/response length", Doc: "a length that the backend set is a header like others", Ref: "ABI get_header_names",
			Guest: guest.Guest{
				Response: `(call $is_list (call $get_header_values RESPONSE &"content-length" BUF #100) #1 &"4\00")`,
			},
			Reply: Reply{Header: []string{"Content-Length: 4"}},
		},

		{
			ID: "get_header_values/one", Doc: "one value, ended by NUL", Ref: "ABI get_header_values",
			Guest: guest.Guest{Request: `(call $is_list (call $get_header_values REQUEST &"x-one" BUF #100) #1 &"value\00")`},
			Send:  client.Request{Header: []string{"X-One: value"}},
		},
		{
			ID: "get_header_values/case", Doc: "names are matched in any case", Ref: "ABI get_header_values",
			Guest: guest.Guest{Request: `(call $is_list (call $get_header_values REQUEST &"X-oNe" BUF #100) #1 &"value\00")`},
			Send:  client.Request{Header: []string{"x-One: value"}},
		},
		{
			ID: "get_header_values/lines", Doc: "every line is a value, in order; commas do not split and nothing is joined", Ref: "ABI get_header_values",
			Guest: guest.Guest{Request: `(call $is_list (call $get_header_values REQUEST &"x-forwarded-for" BUF #100) #2 &"client, proxy1\00proxy2\00")`},
			Send:  client.Request{Header: []string{"X-Forwarded-For: client, proxy1", "X-Forwarded-For: proxy2"}},
		},
		{
			ID: "get_header_values/empty", Doc: "an empty value is one value, a lone NUL", Ref: "reference host",
			Guest: guest.Guest{Request: `(call $is_list (call $get_header_values REQUEST &"x-one" BUF #100) #1 &"\00")`},
			Send:  client.Request{Header: []string{"X-One:"}},
		},
		{
			ID: "get_header_values/empty among others", Doc: "an empty line keeps its place", Ref: "reference host",
			Guest: guest.Guest{Request: `(call $is_list (call $get_header_values REQUEST &"x-one" BUF #100) #3 &"a\00\00b\00")`},
			Send:  client.Request{Header: []string{"X-One: a", "X-One:", "X-One: b"}},
		},
		{
			ID: "get_header_values/missing", Doc: "no such header is 0", Ref: "ABI get_header_values",
			Guest: guest.Guest{Request: `(call $is64 (call $get_header_values REQUEST &"x-none" BUF #100) (i64.const 0))`},
		},
		{
			ID: "get_header_values/prefix", Doc: "a name is matched as a whole", Ref: "ABI get_header_values",
			Guest: guest.Guest{Request: `(call $is64 (call $get_header_values REQUEST &"x-on" BUF #100) (i64.const 0))`},
			Send:  client.Request{Header: []string{"X-One: 1"}},
		},
		{
			ID: "get_header_values/limit", Doc: "a list that does not fit is not written, its size is returned", Ref: "ABI get_header_values",
			Guest: guest.Guest{Request: `
				(call $fill)
				(call $is64 (call $get_header_values REQUEST &"x-one" BUF #6) (i64.const 0x200000007))
				(call $is64 (call $get_header_values REQUEST &"x-one" #-1 #0) (i64.const 0x200000007))
				(call $is_untouched #0)
				(call $is_list (call $get_header_values REQUEST &"x-one" BUF #7) #2 &"p, q\00r\00")
				(call $is_untouched #7)`},
			Send: client.Request{Header: []string{"X-One: p, q", "X-One: r"}},
		},
		{
			ID: "get_header_values/bytes", Doc: "values are bytes, not text", Ref: "reference host",
			Guest: guest.Guest{Request: `(call $is_list (call $get_header_values REQUEST &"x-one" BUF #100) #1 &"\c3\a9\ff\t~\00")`},
			Send:  client.Request{Header: []string{"X-One: \xc3\xa9\xff\t~"}},
		},
		{
			ID: "get_header_values/long", Doc: "a value of 4000 bytes", Ref: "ABI get_header_values",
			Guest: guest.Guest{Request: `(call $is64 (call $get_header_values REQUEST &"x-one" BUF #4001) (i64.const 0x100000fa1))
				(call $is (i32.load8_u (i32.add BUF #3999)) #97) (call $is (i32.load8_u (i32.add BUF #4000)) #0)`},
			Send: client.Request{Header: []string{"X-One: " + strings.Repeat("a", 4000)}},
		},
		{
			ID: "get_header_values/well known", Doc: "headers that hosts keep apart are headers like others", Ref: "ABI get_header_values",
			Guest: guest.Guest{Request: `
				(call $is_list (call $get_header_values REQUEST &"user-agent" BUF #100) #1 &"test/1\00")
				(call $is_list (call $get_header_values REQUEST &"authorization" BUF #100) #1 &"Basic eDp5\00")
				(call $is_list (call $get_header_values REQUEST &"range" BUF #100) #1 &"bytes=0-1\00")
				(call $is_list (call $get_header_values REQUEST &"content-type" BUF #100) #1 &"text/plain\00")
				(call $is_list (call $get_header_values REQUEST &"content-length" BUF #100) #1 &"3\00")
				(call $is_list (call $get_header_values REQUEST &"if-none-match" BUF #100) #1 &"\"x\"\00")`},
			Send: client.Request{Method: "POST", Body: []byte("abc"), Header: []string{"User-Agent: test/1",
				"Authorization: Basic eDp5", "Range: bytes=0-1", "Content-Type: text/plain", `If-None-Match: "x"`}},
		},
		{
			ID: "get_header_values/cookies", Doc: "two lines of cookies are two values", Ref: "reference host",
			Guest: guest.Guest{Request: `(call $is_list (call $get_header_values REQUEST &"cookie" BUF #100) #2 &"a=1; b=2\00c=3\00")`},
			Send:  client.Request{Header: []string{"Cookie: a=1; b=2", "Cookie: c=3"}},
			Only:  []string{client.HTTP1}, OnlyWhy: "HTTP/2 and HTTP/3 split and join cookies (RFC 9113 8.2.3)",
		},
		{
			ID: "get_header_values/empty name", Doc: "an empty name traps", Ref: "reference host",
			Guest: guest.Guest{Request: "(drop (call $get_header_values REQUEST #0 #0 BUF #100))"},
			Want:  Want{Trap: InRequest, In: "get_header_values"},
		},
		{
			ID: "get_header_values/bad kind", Doc: "a kind other than 0 to 3 traps", Ref: "reference host",
			Guest: guest.Guest{Request: `(drop (call $get_header_values #4 &"x" BUF #100))`},
			Want:  Want{Trap: InRequest, In: "get_header_values"},
		},
		{
			ID: "get_header_values/name out of range", Doc: "a name outside the memory traps", Ref: "reference host",
			Guest: guest.Guest{Request: "(drop (call $get_header_values REQUEST " + outside + " BUF #100))"},
			Want:  Want{Trap: InRequest, In: "get_header_values"},
		},
		{
			ID: "get_header_values/out of range", Doc: "values whose place is outside the memory trap", Ref: "reference host",
			Guest: guest.Guest{Request: `(drop (call $get_header_values REQUEST &"x-one" ` + memoryEnd + ` #100))`},
			Send:  client.Request{Header: []string{"X-One: value"}},
			Want:  Want{Trap: InRequest, In: "get_header_values"},
		},
		{
			ID: "get_header_values/request in response", Doc: "handle_response can still read the request", Ref: "ABI get_header_values",
			Guest: guest.Guest{Response: `(call $is_list (call $get_header_values REQUEST &"x-one" BUF #100) #2 &"a\00b\00")`},
			Send:  client.Request{Header: []string{"X-One: a", "X-One: b"}},
		},

		// Host.
		{
			ID: "host/get", Doc: "the Host is a request header, listed once", Ref: "reference host",
			Guest: guest.Guest{Request: `(call $tell &"x-host" (i32.sub (call $low (call $get_header_values REQUEST &"Host" BUF #100)) #1))
				(call $is (call $high (call $get_header_values REQUEST &"host" BUF #100)) #1)`, Result: guest.Stop},
			Do: func(x *Run) {
				x.Exchange(x.Send, Want{Header: map[string]string{"X-Host": x.host}})
			},
		},
		{
			ID: "host/set", Doc: "the backend gets the new Host, once", Ref: "ABI set_header_value",
			Guest: guest.Guest{Request: `(call $set_header_value REQUEST &"host" &"other.example")
				(call $is_list (call $get_header_values REQUEST &"Host" BUF #100) #1 &"other.example\00")`},
			Want: Want{Backend: &Upstream{Host: "other.example"}},
		},
		{
			ID: "host/add", Doc: "there is never a second Host", Ref: "RFC 9112 3.2",
			Guest: guest.Guest{Request: `(call $add_header_value REQUEST &"Host" &"other.example")
				(call $is (call $high (call $get_header_values REQUEST &"host" BUF #100)) #1)`},
		},
		{
			ID: "host/remove", Doc: "the Host stays", Ref: "RFC 9112 3.2",
			Guest: guest.Guest{Request: `(call $remove_header REQUEST &"host")
				(call $is (call $high (call $get_header_values REQUEST &"host" BUF #100)) #1)`},
			Do: func(x *Run) {
				x.Exchange(x.Send, Want{Backend: &Upstream{Host: x.host}})
			},
		},
	}

	cases = append(cases, requestWrites()...)
	cases = append(cases, responseWrites()...)
	cases = append(cases, invalidFields()...)

	return append(cases, mergeCases()...)
}

func hundred() []string {
	var lines []string
	for i := range 100 {
		lines = append(lines, "X-"+count(i)+": v"+count(i))
	}

	return lines
}

// writes are what set, add and remove do to two lines "a" and "b, c" of X-Old.
var writes = []struct{ id, doc, wat, name, want string }{
	{"set_header_value/%s, new", "a new header", `(call $set_header_value KIND &"X-New" &"1")`, "X-New", "1"},
	{"set_header_value/%s, existing", "replaces all lines by one, in any case of the name", `(call $set_header_value KIND &"x-OLD" &"1, 2")`, "X-Old", "1, 2"},
	{"set_header_value/%s, empty", "an empty value is a value", `(call $set_header_value KIND &"X-Old" #0 #0)`, "X-Old", ""},
	{"set_header_value/%s, twice", "the last one counts", `(call $set_header_value KIND &"X-New" &"1") (call $set_header_value KIND &"x-new" &"2")`, "X-New", "2"},
	{"add_header_value/%s, new", "a new header", `(call $add_header_value KIND &"X-New" &"1")`, "X-New", "1"},
	{"add_header_value/%s, existing", "one more line behind the others, in any case of the name", `(call $add_header_value KIND &"x-old" &"d")`, "X-Old", "a | b, c | d"},
	{"add_header_value/%s, empty", "an empty line is a line", `(call $add_header_value KIND &"X-Old" #0 #0)`, "X-Old", "a | b, c | "},
	{"add_header_value/%s, same", "the same value again is another line", `(call $add_header_value KIND &"X-Old" &"a")`, "X-Old", "a | b, c | a"},
	{"add_header_value/%s, after remove", "begins anew", `(call $remove_header KIND &"X-Old") (call $add_header_value KIND &"X-Old" &"z")`, "X-Old", "z"},
	{"remove_header/%s, existing", "all lines, in any case of the name", `(call $remove_header KIND &"x-Old")`, "X-Old", Absent},
	{"remove_header/%s, missing", "nothing to do is no error", `(call $remove_header KIND &"X-New")`, "X-Old", "a | b, c"},
	{"remove_header/%s, after set", "what the guest set can be removed", `(call $set_header_value KIND &"X-New" &"1") (call $remove_header KIND &"x-new")`, "X-New", Absent},
}

var oldLines = []string{"X-Old: a", "X-Old: b, c"}

// readBack checks that the guest sees what it did.
func readBack(kind, name, want string) string {
	values := strings.Split(want, " | ")
	list := `&"` + strings.Join(values, `\00`) + `\00"`
	n := "#" + count(len(values))
	if want == Absent {
		n, list = "#0", "#0 #0"
	}

	return `(call $is_list (call $get_header_values ` + kind + ` &"` + name + `" BUF #100) ` + n + ` ` + list + `)`
}

func requestWrites() []Case {
	var cases []Case
	for _, w := range writes {
		function, _, _ := strings.Cut(w.id, "/")
		cases = append(cases, Case{
			ID: strings.Replace(w.id, "%s", "request", 1), Doc: w.doc, Ref: "ABI " + function,
			Guest: guest.Guest{Request: strings.ReplaceAll(w.wat, "KIND", "REQUEST") + readBack("REQUEST", w.name, w.want)},
			Send:  client.Request{Header: oldLines},
			Want:  Want{Backend: &Upstream{Header: map[string]string{w.name: w.want}}},
		})
	}

	return append(cases,
		Case{
			ID: "set_header_value/well known", Doc: "headers that hosts keep apart change like others", Ref: "ABI set_header_value",
			Guest: guest.Guest{Request: `
				(call $set_header_value REQUEST &"user-agent" &"guest/1")
				(call $set_header_value REQUEST &"content-type" &"text/guest")
				(call $set_header_value REQUEST &"cookie" &"a=1")
				(call $remove_header REQUEST &"authorization")
				(call $add_header_value REQUEST &"x-forwarded-for" &"192.0.2.2")`},
			Send: client.Request{Header: []string{"User-Agent: test/1", "Authorization: Basic eDp5", "X-Forwarded-For: 192.0.2.1"}},
			Want: Want{Backend: &Upstream{Header: map[string]string{"User-Agent": "guest/1", "Content-Type": "text/guest",
				"Cookie": "a=1", "Authorization": Absent, "X-Forwarded-For": "192.0.2.1 | 192.0.2.2"}}},
		},
		Case{
			ID: "set_header_value/request length", Doc: "the host frames the request: a length that the guest sets is ignored", Ref: "RFC 9112 6",
			Decision: "the reference host hands on a length that is not that of the body",
			Guest:    guest.Guest{Request: `(call $set_header_value REQUEST &"content-length" &"3")`},
			Send:     client.Request{Method: "POST", Body: []byte("content")},
			Want:     Want{Backend: &Upstream{Body: "content", Header: map[string]string{"Content-Length": "7"}}},
		},
		Case{
			ID: "set_header_value/transfer-encoding", Doc: "the host frames the request: a coding that the guest sets is ignored", Ref: "RFC 9112 6",
			Guest: guest.Guest{Request: `(call $set_header_value REQUEST &"transfer-encoding" &"chunked")`},
			Send:  client.Request{Method: "POST", Body: []byte("content")},
			Want:  Want{Backend: &Upstream{Body: "content"}},
		},
		Case{
			ID: "set_header_value/many", Doc: "a hundred new headers", Ref: "ABI set_header_value",
			Guest: guest.Guest{Request: `(loop $next
				(i32.store8 BUF #120) (i32.store8 (i32.add BUF #1) #45)
				(i32.store8 (i32.add BUF #2) (i32.add #48 (i32.div_u (local.get $i) #10)))
				(i32.store8 (i32.add BUF #3) (i32.add #48 (i32.rem_u (local.get $i) #10)))
				(call $set_header_value REQUEST BUF #4 BUF #4)
				(call $set_header_value RESPONSE BUF #4 BUF #4)
				(br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) #1)) #100)))`},
			Want: Want{
				Header:  map[string]string{"X-00": "x-00", "X-50": "x-50", "X-99": "x-99"},
				Backend: &Upstream{Header: map[string]string{"X-00": "x-00", "X-50": "x-50", "X-99": "x-99"}},
			},
		},
		Case{
			ID: "set_header_value/memory reused", Doc: "the host keeps what it was given, not where", Ref: "ABI set_header_value",
			Guest: guest.Guest{Request: `
				(i32.store BUF (i32.const 0x61612d78))
				(call $set_header_value REQUEST BUF #4 BUF #4) (call $set_header_value RESPONSE BUF #4 BUF #4)
				(call $fill)`},
			Want: Want{Header: map[string]string{"X-Aa": "x-aa"}, Backend: &Upstream{Header: map[string]string{"X-Aa": "x-aa"}}},
		},
	)
}

func responseWrites() []Case {
	var cases []Case
	for _, w := range writes {
		function, _, _ := strings.Cut(w.id, "/")
		wat := strings.ReplaceAll(w.wat, "KIND", "RESPONSE")
		add := func(when string, c Case) {
			c.ID = strings.Replace(w.id, "%s", "response "+when, 1)
			c.Doc, c.Ref = w.doc, "ABI "+function
			c.Want = Want{Header: map[string]string{w.name: w.want}, Body: c.Want.Body}
			cases = append(cases, c)
		}
		old := `(call $add_header_value RESPONSE &"X-Old" &"a") (call $add_header_value RESPONSE &"X-Old" &"b, c")`

		add("of the guest", Case{Guest: guest.Guest{
			Request: old + wat + readBack("RESPONSE", w.name, w.want), Result: guest.Stop,
		}})
		add("before next", Case{Guest: guest.Guest{
			Request: old + wat + readBack("RESPONSE", w.name, w.want),
		}})
		add("after next", Case{
			Decision: d5,
			Guest:    guest.Guest{Response: wat + readBack("RESPONSE", w.name, w.want)},
			Reply:    Reply{Header: oldLines},
		})
		add("after next, buffered", Case{
			Guest: guest.Guest{Features: guest.BufferResponse, Response: wat + readBack("RESPONSE", w.name, w.want)},
			Reply: Reply{Header: oldLines},
		})
	}

	wellKnown := `
		(call $set_header_value RESPONSE &"content-type" &"text/guest")
		(call $set_header_value RESPONSE &"etag" &"\"g\"")
		(call $set_header_value RESPONSE &"last-modified" &"Thu, 01 Jan 1970 00:00:01 GMT")
		(call $set_header_value RESPONSE &"location" &"/guest")
		(call $set_header_value RESPONSE &"cache-control" &"no-store")
		(call $add_header_value RESPONSE &"set-cookie" &"a=b, c=d")
		(call $add_header_value RESPONSE &"set-cookie" &"e=f")`
	wellKnownWant := map[string]string{
		"Content-Type": "text/guest", "Etag": `"g"`, "Last-Modified": "Thu, 01 Jan 1970 00:00:01 GMT", "Location": "/guest",
		"Cache-Control": "no-store", "Set-Cookie": "a=b, c=d | e=f",
	}

	return append(cases,
		Case{
			ID: "set_header_value/well known, guest", Doc: "headers that hosts keep apart are headers like others", Ref: "ABI set_header_value",
			Guest: guest.Guest{Request: wellKnown, Result: guest.Stop}, Want: Want{Header: wellKnownWant},
		},
		Case{
			ID: "set_header_value/well known, after next", Doc: "headers that hosts keep apart change like others", Ref: "ABI set_header_value", Decision: d5,
			Guest: guest.Guest{Response: wellKnown}, Want: Want{Header: wellKnownWant},
			Reply: Reply{Header: []string{"Content-Type: text/plain", `ETag: "b"`, "Last-Modified: Thu, 01 Jan 1970 00:00:00 GMT"}},
		},
		Case{
			ID: "remove_header/well known, buffered", Doc: "headers that hosts keep apart can be removed", Ref: "ABI remove_header",
			Guest: guest.Guest{Features: guest.BufferResponse, Response: `
				(call $remove_header RESPONSE &"etag") (call $remove_header RESPONSE &"last-modified")
				(call $remove_header RESPONSE &"Content-Language")
				(call $is64 (call $get_header_values RESPONSE &"etag" BUF #100) (i64.const 0))`},
			Want:  Want{Header: map[string]string{"Etag": Absent, "Last-Modified": Absent, "Content-Language": Absent}},
			Reply: Reply{Header: []string{`ETag: "b"`, "Last-Modified: Thu, 01 Jan 1970 00:00:00 GMT", "Content-Language: de"}},
		},
		Case{
			ID: "set_header_value/after write_body", Doc: "a header set after the body is sent all the same", Ref: "ABI set_header_value",
			Decision: "the reference host has sent the headers with the first byte of the body",
			Guest: guest.Guest{Request: `(call $write_body RESPONSE &"body") (call $set_header_value RESPONSE &"x-late" &"1")
				(call $set_status_code #404)`, Result: guest.Stop},
			Want: Want{Status: 404, Body: "body", Header: map[string]string{"X-Late": "1"}},
		},
	)
}

// invalidFields must not get through, in any of three functions, in any phase.
func invalidFields() []Case {
	var cases []Case
	for _, t := range []struct{ id, name, value string }{
		{"name with space", "x y", "v"}, {"name with colon", "x:", "v"}, {"name with line break", `x\0d\0aY`, "v"},
		{"name with NUL", `x\00`, "v"}, {"name of other bytes", `x\c3\a9`, "v"},
		{"value with line break", "x", `v\0d\0aY: z`}, {"value with LF", "x", `v\0aY: z`}, {"value with CR", "x", `v\0dY: z`},
		{"value with NUL", "x", `v\00`},
	} {
		for _, f := range []string{"set_header_value", "add_header_value"} {
			for _, kind := range []string{"REQUEST", "RESPONSE"} {
				cases = append(cases, Case{
					ID: f + "/" + strings.ToLower(kind) + ", " + t.id, Doc: "traps", Ref: "RFC 9110 5", Decision: invalidField,
					Guest: guest.Guest{Request: `(call $` + f + ` ` + kind + ` &"` + t.name + `" &"` + t.value + `")`},
					Want:  Want{Trap: InRequest, In: f},
				})
			}
		}
		cases = append(cases, Case{
			ID: "set_header_value/buffered, " + t.id, Doc: "traps", Ref: "RFC 9110 5", Decision: invalidField,
			Guest: guest.Guest{Features: guest.BufferResponse, Response: `(call $set_header_value RESPONSE &"` + t.name + `" &"` + t.value + `")`},
			Want:  Want{Trap: InResponse, In: "set_header_value"},
		})
	}

	for _, f := range []string{"set_header_value", "add_header_value", "remove_header"} {
		value := ` &"v"`
		if f == "remove_header" {
			value = ""
		}
		add := func(id, doc, wat string) {
			cases = append(cases, Case{
				ID: f + "/" + id, Doc: doc, Ref: "reference host",
				Guest: guest.Guest{Request: "(call $" + f + " " + wat + ")"}, Want: Want{Trap: InRequest, In: f},
			})
		}
		add("empty name", "an empty name traps", "REQUEST #0 #0"+value)
		add("bad kind", "a kind other than 0 to 3 traps", `#4 &"x"`+value)
		add("negative kind", "a kind is unsigned", `#-1 &"x"`+value)
		add("name out of range", "a name outside the memory traps", "REQUEST "+outside+value)
		if value != "" {
			add("value out of range", "a value outside the memory traps", `REQUEST &"x" `+outside)
			add("range wraps", "pointer and length do not wrap around", `REQUEST &"x" #-4 #8`)
			cases = append(cases, Case{
				ID: f + "/empty value, any pointer", Doc: "the pointer to nothing is not looked at", Ref: "reference host",
				Guest: guest.Guest{Request: `(call $` + f + ` REQUEST &"X-New" #-1 #0)`},
				Want:  Want{Backend: &Upstream{Header: map[string]string{"X-New": ""}}},
			})
		}
	}

	return cases
}

// mergeCases are about a guest and a backend that both have something to say.
func mergeCases() []Case {
	return []Case{
		{
			ID: "merge/headers", Doc: "headers of guest and backend both reach the client", Ref: "ABI set_header_value",
			Guest: guest.Guest{Request: `(call $set_header_value RESPONSE &"X-Guest" &"1")`},
			Reply: Reply{Header: []string{"X-Backend: 2"}},
			Want:  Want{Header: map[string]string{"X-Guest": "1", "X-Backend": "2"}},
		},
		{
			ID: "merge/same header", Doc: "lines of one name from both are both sent", Ref: "reference host",
			Guest: guest.Guest{Request: `(call $set_header_value RESPONSE &"X-Both" &"guest")`},
			Reply: Reply{Header: []string{"X-Both: backend"}},
			Want:  Want{Header: map[string]string{"X-Both": "guest | backend"}},
		},
		{
			ID: "merge/single header", Doc: "of a header that there is once the backend's is sent", Ref: "RFC 9110 5.3",
			Decision: "nobody says; a second line would be invalid",
			Guest: guest.Guest{Request: `(call $set_header_value RESPONSE &"Content-Type" &"text/guest")
				(call $set_header_value RESPONSE &"ETag" &"\"guest\"") (call $set_header_value RESPONSE &"Location" &"/guest")`},
			Reply: Reply{Header: []string{"Content-Type: text/backend", `ETag: "backend"`, "Location: /backend"}},
			Want:  Want{Header: map[string]string{"Content-Type": "text/backend", "Etag": `"backend"`, "Location": "/backend"}},
		},
		{
			ID: "merge/body", Doc: "a body written before next is sent before that of the backend, with the length of both", Ref: "reference host (TCK get_protocol_version)",
			Guest: guest.Guest{Request: `(call $write_body RESPONSE &"guest ")`},
			Reply: Reply{Header: []string{"Content-Length: 4"}},
			Want:  Want{Body: "guest NEXT"},
		},
		{
			ID: "merge/body, buffered", Doc: "so it is with buffer_response, and handle_response reads both", Ref: "reference host",
			Guest: guest.Guest{Features: guest.BufferResponse, Request: `(call $write_body RESPONSE &"guest ")`,
				Response: `(call $is_body (call $read_body RESPONSE BUF #100) #1 &"guest NEXT")`},
			Want: Want{Body: "guest NEXT"},
		},
		{
			ID: "merge/body, empty backend", Doc: "a backend without a body leaves the guest's", Ref: "reference host (TCK get_protocol_version)",
			Guest: guest.Guest{Request: `(call $write_body RESPONSE &"guest")`},
			Reply: Reply{Header: []string{"Content-Length: 0"}, NoBody: true},
			Want:  Want{Body: "guest"},
		},
		{
			ID: "merge/status", Doc: "the backend's status counts, the guest's is that of its own response", Ref: "reference host",
			Decision: "the reference host has already sent the guest's unless it buffers",
			Guest:    guest.Guest{Request: `(call $set_status_code #404)`},
			Reply:    Reply{Status: 203},
			Want:     Want{Status: 203},
		},
		{
			ID: "merge/status, buffered", Doc: "the backend's status counts, the guest's is that of its own response", Ref: "reference host",
			Guest: guest.Guest{Features: guest.BufferResponse, Request: `(call $set_status_code #404)`},
			Reply: Reply{Status: 203}, Want: Want{Status: 203},
		},
		{
			ID: "merge/HEAD", Doc: "to HEAD there is no body, whoever wrote one", Ref: "RFC 9110 9.3.2",
			Guest: guest.Guest{Request: `(call $write_body RESPONSE &"guest ")`},
			Send:  client.Request{Method: "HEAD"}, Want: Want{Body: Nothing},
		},
		{
			ID: "merge/304", Doc: "304 has no body, whoever wrote one", Ref: "RFC 9110 15.4.5",
			Guest: guest.Guest{Features: guest.BufferResponse, Request: `(call $write_body RESPONSE &"guest ")`},
			Reply: Reply{Status: 304, NoBody: true}, Want: Want{Status: 304, Body: Nothing},
		},
		{
			ID: "merge/204", Doc: "204 has no body, whoever wrote one", Ref: "RFC 9110 15.3.5",
			Guest: guest.Guest{Features: guest.BufferResponse, Request: `(call $write_body RESPONSE &"guest ")`},
			Reply: Reply{Status: 204, NoBody: true}, Want: Want{Status: 204, Body: Nothing},
		},
	}
}
