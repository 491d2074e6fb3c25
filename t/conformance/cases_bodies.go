package conformance

import (
	"fmt"
	"hash/fnv"
	"strings"

	"ngx-http-wasm-handler/conformance/client"
	"ngx-http-wasm-handler/conformance/guest"
)

// sizes around the 2048 bytes that the published guest SDKs read at a time, and up to what no buffer holds.
var sizes = []int{0, 1, 2047, 2048, 2049, 5000, 100_000}

// digest is the FNV-1a that guests compute.
func digest(s string) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(s))

	return fmt.Sprint(h.Sum32())
}

const (
	headLength = `(call $tell_number &"x-length" (local.get $i)) (call $tell_number &"x-digest" (call $digest (local.get $i)))`

	arrival = "when the bytes arrive"

	keepBody = "the reference host lets the guest use up the body"
)

func bodyCases() []Case {
	var cases []Case

	for _, size := range sizes {
		body := text(size)
		send := client.Request{Method: "POST", Body: []byte(body), HasBody: true}
		told := map[string]string{"X-Length": count(size), "X-Digest": digest(body)}
		readBody := fmt.Sprintf("%d bytes", size)
		kept, decision := orNothing(body), keepBody
		varies := arrival
		if size == 0 {
			decision, varies = "", ""
		}

		cases = append(cases,
			Case{
				ID: "read_body/request, steps, " + readBody, Doc: "reads in steps of 2048 to the end", Ref: "ABI read_body",
				Guest: guest.Guest{Request: "(local.set $i (call $read_all REQUEST #2048))" + headLength, Result: guest.Stop},
				Send:  send, Want: Want{Header: told},
			},
			Case{
				ID: "read_body/kept, buffer_request, " + readBody, Doc: "with buffer_request the backend gets all of what the guest has read", Ref: "ABI read_body",
				Varies: varies,
				Guest:  guest.Guest{Features: guest.BufferRequest, Request: "(local.set $i (call $read_all REQUEST #2048))" + headLength},
				Send:   send, Want: Want{Header: told, Backend: &Upstream{Body: kept}},
			},
			Case{
				ID: "read_body/kept, " + readBody, Doc: "so it does without", Ref: "ABI read_body", Decision: decision,
				Guest: guest.Guest{Request: "(local.set $i (call $read_all REQUEST #2048))" + headLength},
				Send:  send, Want: Want{Header: told, Backend: &Upstream{Body: kept}},
			},
			Case{
				ID: "read_body/unread, " + readBody, Doc: "what no guest asks for reaches the backend", Ref: "ABI read_body",
				Send: send, Want: Want{Backend: &Upstream{Body: kept}},
			},
			Case{
				ID: "read_body/response, steps, " + readBody, Doc: "reads the backend's body in steps of 2048, and the client still gets it", Ref: "ABI read_body",
				Guest: guest.Guest{Features: guest.BufferResponse, Response: "(local.set $i (call $read_all RESPONSE #2048))" + headLength},
				Reply: Reply{Body: body, NoBody: size == 0}, Want: Want{Header: told, Body: kept},
			},
			Case{
				ID: "write_body/request, " + readBody, Doc: "the backend gets what the guest wrote", Ref: "ABI write_body",
				Guest: guest.Guest{Request: fmt.Sprintf("(memory.fill BUF #97 #%d) (call $write_body REQUEST BUF #%[1]d)", size)},
				Send:  client.Request{Method: "POST", Body: []byte("original")},
				Want:  Want{Backend: &Upstream{Body: strings.Repeat("a", size) + Nothing}},
			},
			Case{
				ID: "write_body/response, " + readBody, Doc: "the client gets what the guest wrote", Ref: "ABI write_body",
				Guest: guest.Guest{Features: guest.BufferResponse,
					Response: fmt.Sprintf("(memory.fill BUF #97 #%d) (call $write_body RESPONSE BUF #%[1]d)", size)},
				Want: Want{Body: orNothing(strings.Repeat("a", size))},
			},
		)
	}

	cases = append(cases, readCases()...)
	cases = append(cases, writeCases()...)
	cases = append(cases, lengthCases()...)

	return append(cases, phaseBodies()...)
}

func orNothing(s string) string {
	if s == "" {
		return Nothing
	}

	return s
}

func readCases() []Case {
	post := client.Request{Method: "POST", Body: []byte("hello world")}
	chunked := post
	chunked.Chunks = []int{1, 2, 3}

	cases := []Case{
		{
			ID: "read_body/chunked", Doc: "a body without a length is read like any other", Ref: "ABI read_body", Varies: arrival,
			Guest: guest.Guest{Features: guest.BufferRequest, Request: `(call $is_body (call $read_body REQUEST BUF #2048) #1 &"hello world")`},
			Send:  chunked, Want: Want{Backend: &Upstream{Body: "hello world"}},
		},
		{
			ID: "read_body/end with the data", Doc: "the end is reported with the last bytes", Ref: "reference host",
			Guest: guest.Guest{Request: `(call $is_body (call $read_body REQUEST BUF #2048) #1 &"hello world")`, Result: guest.Stop},
			Send:  post,
		},
		{
			ID: "read_body/exact fit", Doc: "so it is when the last bytes fill the buffer", Ref: "reference host", Varies: arrival,
			Guest: guest.Guest{Request: `(call $is_body (call $read_body REQUEST BUF #11) #1 &"hello world")`, Result: guest.Stop},
			Send:  post,
		},
		{
			ID: "read_body/exact fit, chunked", Doc: "so it is for a body without a length", Ref: "reference host", Varies: arrival,
			Guest: guest.Guest{Request: `(call $is_body (call $read_body REQUEST BUF #11) #1 &"hello world")`, Result: guest.Stop},
			Send:  chunked,
		},
		{
			ID: "read_body/one by one", Doc: "the cursor goes on from call to call", Ref: "ABI read_body",
			Guest: guest.Guest{Request: `
				(call $is_body (call $read_body REQUEST BUF #4) #0 &"hell")
				(call $is_body (call $read_body REQUEST BUF #1) #0 &"o")
				(call $is_body (call $read_body REQUEST BUF #100) #1 &" world")`, Result: guest.Stop},
			Send: post,
		},
		{
			ID: "read_body/after the end", Doc: "there is nothing any more, and it is still the end", Ref: "reference host",
			Guest: guest.Guest{Request: `
				(call $is_body (call $read_body REQUEST BUF #100) #1 &"hello world") (call $fill)
				(call $is64 (call $read_body REQUEST BUF #100) (i64.const 0x100000000))
				(call $is64 (call $read_body REQUEST BUF #1) (i64.const 0x100000000)) (call $is_untouched #0)`, Result: guest.Stop},
			Send: post,
		},
		{
			ID: "read_body/no body", Doc: "a request without a body is at its end", Ref: "ABI read_body",
			Guest: guest.Guest{Request: `(call $is64 (call $read_body REQUEST BUF #100) (i64.const 0x100000000))`},
		},
		{
			ID: "read_body/only what was asked for", Doc: "bytes behind the limit are not touched", Ref: "ABI read_body",
			Guest: guest.Guest{Request: `(call $fill) (drop (call $read_body REQUEST BUF #5)) (call $is_untouched #5)`, Result: guest.Stop},
			Send:  post,
		},
		{
			ID: "read_body/huge limit", Doc: "a limit that exceeds the memory traps", Ref: "reference host",
			Guest: guest.Guest{Request: `(drop (call $read_body REQUEST BUF #-1))`}, Send: post,
			Want: Want{Trap: InRequest, In: "read_body"},
		},
		{
			ID: "read_body/limit 0", Doc: "traps: there is nothing to ask for", Ref: "reference host",
			Guest: guest.Guest{Request: `(drop (call $read_body REQUEST BUF #0))`}, Send: post,
			Want: Want{Trap: InRequest, In: "read_body"},
		},
		{
			ID: "read_body/bad kind", Doc: "a kind other than 0 and 1 traps", Ref: "reference host",
			Guest: guest.Guest{Request: `(drop (call $read_body #2 BUF #10))`}, Send: post,
			Want: Want{Trap: InRequest, In: "read_body"},
		},
		{
			ID: "read_body/out of range", Doc: "a buffer outside the memory traps", Ref: "reference host",
			Guest: guest.Guest{Request: "(drop (call $read_body REQUEST " + outside + "))"}, Send: post,
			Want: Want{Trap: InRequest, In: "read_body"},
		},
		{
			ID: "read_body/partly, buffer_request", Doc: "a body that was read in part reaches the backend whole", Ref: "ABI read_body",
			Guest: guest.Guest{Features: guest.BufferRequest, Request: `(drop (call $read_body REQUEST BUF #2048))`},
			Send:  client.Request{Method: "POST", Body: []byte(text(5000))}, Want: Want{Backend: &Upstream{Body: text(5000)}},
		},
		{
			ID: "read_body/partly", Doc: "so it does without buffer_request", Ref: "ABI read_body", Decision: keepBody,
			Guest: guest.Guest{Request: `(drop (call $read_body REQUEST BUF #2048))`},
			Send:  client.Request{Method: "POST", Body: []byte(text(5000))}, Want: Want{Backend: &Upstream{Body: text(5000)}},
		},
		{
			ID: "read_body/enabled late", Doc: "buffer_request can be enabled by the request", Ref: "ABI enable_features",
			Guest: guest.Guest{Request: `(drop (call $enable_features #1)) (call $is (call $read_all REQUEST #2048) #5000)`},
			Send:  client.Request{Method: "POST", Body: []byte(text(5000))}, Want: Want{Backend: &Upstream{Body: text(5000)}},
		},
		{
			ID: "read_body/request in response", Doc: "with buffer_request handle_response can read the request's body from its start", Ref: "ABI read_body",
			Decision: "nobody says where it starts; the reference host gives what the backend left over",
			Guest: guest.Guest{Features: guest.BufferRequest, Request: `(drop (call $read_body REQUEST BUF #4))`,
				Response: `(call $is_body (call $read_body REQUEST BUF #100) #1 &"hello world")`},
			Send: post,
		},
		{
			ID: "read_body/response, exact fit", Doc: "the end is reported with the last bytes", Ref: "reference host",
			Decision: "the reference host reports it with the next call, other than for requests",
			Guest:    guest.Guest{Features: guest.BufferResponse, Response: `(call $is_body (call $read_body RESPONSE BUF #4) #1 &"NEXT")`},
		},
		{
			ID: "read_body/response, one by one", Doc: "the cursor goes on from call to call", Ref: "ABI read_body",
			Guest: guest.Guest{Features: guest.BufferResponse, Response: `
				(call $is_body (call $read_body RESPONSE BUF #3) #0 &"NEX")
				(call $is_body (call $read_body RESPONSE BUF #100) #1 &"T")
				(call $is64 (call $read_body RESPONSE BUF #100) (i64.const 0x100000000))`},
		},
		{
			ID: "read_body/response, before next", Doc: "before next there is no response: the end at once", Ref: "ABI read_body",
			Guest: guest.Guest{Features: guest.BufferResponse, Request: `(call $is64 (call $read_body RESPONSE BUF #100) (i64.const 0x100000000))`},
		},
		{
			ID: "read_body/response, cursor", Doc: "handle_response reads from the start, whatever handle_request read", Ref: "ABI read_body",
			Decision: "nobody says; in the reference host a look before next hides the body for good",
			Guest: guest.Guest{Features: guest.BufferResponse, Request: `(drop (call $read_body RESPONSE BUF #100))`,
				Response: `(call $is_body (call $read_body RESPONSE BUF #100) #1 &"NEXT")`},
		},
		{
			ID: "read_body/response, after a write", Doc: "what is being read does not change by writing", Ref: "reference host",
			Guest: guest.Guest{Features: guest.BufferResponse, Response: `
				(call $is_body (call $read_body RESPONSE BUF #1) #0 &"N")
				(call $write_body RESPONSE &"other")
				(call $is_body (call $read_body RESPONSE BUF #100) #1 &"EXT")`},
			Want: Want{Body: "other"},
		},
		{
			ID: "read_body/request, after a write", Doc: "reads stay with what the client sent", Ref: "reference host",
			Guest: guest.Guest{Features: guest.BufferRequest, Request: `
				(call $is_body (call $read_body REQUEST BUF #5) #0 &"hello")
				(call $write_body REQUEST &"other")
				(call $is_body (call $read_body REQUEST BUF #100) #1 &" world")`},
			Send: post, Want: Want{Backend: &Upstream{Body: "other"}},
		},
		{
			ID: "read_body/large steps", Doc: "100,000 bytes in one call", Ref: "ABI read_body",
			Guest: guest.Guest{Request: `(call $is64 (call $read_body REQUEST BUF #200000) (i64.const 0x1000186a0))`, Result: guest.Stop},
			Send:  client.Request{Method: "POST", Body: []byte(text(100_000))},
		},
		{
			ID: "read_body/large chunks", Doc: "chunks of all sizes reach guest and backend as one body", Ref: "ABI read_body", Varies: arrival,
			Guest: guest.Guest{Features: guest.BufferRequest, Request: `(call $is (call $read_all REQUEST #400000) #300000)`},
			Send:  client.Request{Method: "POST", Body: []byte(text(300_000)), Chunks: []int{1, 100, 16384, 70_000, 3, 65536}},
			Want:  Want{Backend: &Upstream{Body: text(300_000)}},
		},
	}

	return cases
}

func writeCases() []Case {
	post := client.Request{Method: "POST", Body: []byte("original")}

	return []Case{
		{
			ID: "write_body/request, append", Doc: "the first write replaces, the others append", Ref: "ABI write_body",
			Guest: guest.Guest{Request: `(call $write_body REQUEST &"one") (call $write_body REQUEST &" two") (call $write_body REQUEST &" three")`},
			Send:  post, Want: Want{Backend: &Upstream{Body: "one two three"}},
		},
		{
			ID: "write_body/request, empty", Doc: "an empty first write leaves no body", Ref: "reference host",
			Guest: guest.Guest{Request: `(call $write_body REQUEST #-1 #0)`},
			Send:  post, Want: Want{Backend: &Upstream{Body: Nothing}},
		},
		{
			ID: "write_body/request, empty later", Doc: "an empty later write changes nothing", Ref: "ABI write_body",
			Guest: guest.Guest{Request: `(call $write_body REQUEST &"one") (call $write_body REQUEST #-1 #0)`},
			Send:  post, Want: Want{Backend: &Upstream{Body: "one"}},
		},
		{
			ID: "write_body/request without body", Doc: "a GET gets a body", Ref: "reference host",
			Guest: guest.Guest{Request: `(call $write_body REQUEST &"one")`},
			Want:  Want{Backend: &Upstream{Method: "GET", Body: "one"}},
		},
		{
			ID: "write_body/request, chunked", Doc: "replaces a body that came without a length", Ref: "ABI write_body",
			Guest: guest.Guest{Request: `(call $write_body REQUEST &"one")`},
			Send:  client.Request{Method: "POST", Body: []byte("original"), Chunks: []int{2}},
			Want:  Want{Backend: &Upstream{Body: "one"}},
		},
		{
			ID: "write_body/request, after reading", Doc: "a guest can turn a body into another", Ref: "ABI write_body",
			Guest: guest.Guest{Features: guest.BufferRequest, Request: `(local.set $i (call $read_all REQUEST #3))
				(call $write_body REQUEST &"<") (call $write_body REQUEST BUF (local.get $i)) (call $write_body REQUEST &">")`},
			Send: post, Want: Want{Backend: &Upstream{Body: "<original>"}},
		},
		{
			ID: "write_body/guest's response", Doc: "the first write begins the response, the others append", Ref: "ABI write_body",
			Guest: guest.Guest{Request: `(call $write_body RESPONSE &"one") (call $write_body RESPONSE &" two")`, Result: guest.Stop},
			Want:  Want{Body: "one two"},
		},
		{
			ID: "write_body/guest's response, large", Doc: "100,000 bytes", Ref: "ABI write_body",
			Guest: guest.Guest{Request: `(memory.fill BUF #97 #100000) (call $write_body RESPONSE BUF #100000)`, Result: guest.Stop},
			Want:  Want{Body: strings.Repeat("a", 100_000)},
		},
		{
			ID: "write_body/response, append", Doc: "the first write replaces the backend's body, the others append", Ref: "ABI write_body",
			Guest: guest.Guest{Features: guest.BufferResponse, Response: `(call $write_body RESPONSE &"one") (call $write_body RESPONSE &" two")`},
			Want:  Want{Body: "one two"},
		},
		{
			ID: "write_body/response, empty", Doc: "an empty first write leaves no body", Ref: "reference host",
			Guest: guest.Guest{Features: guest.BufferResponse, Response: `(call $write_body RESPONSE #-1 #0)`},
			Want:  Want{Body: Nothing},
		},
		{
			ID: "write_body/both phases", Doc: "the first write of handle_response replaces what handle_request wrote, too", Ref: "ABI write_body",
			Guest: guest.Guest{Features: guest.BufferResponse, Request: `(call $write_body RESPONSE &"before")`,
				Response: `(call $write_body RESPONSE &"after")`},
			Want: Want{Body: "after"},
		},
		{
			ID: "write_body/longer than before", Doc: "a body may grow", Ref: "ABI write_body",
			Guest: guest.Guest{Features: guest.BufferResponse, Response: `(local.set $i (call $read_all RESPONSE #2048))
				(call $write_body RESPONSE BUF (local.get $i)) (call $write_body RESPONSE BUF (local.get $i))`},
			Reply: Reply{Body: text(50_000)}, Want: Want{Body: text(50_000) + text(50_000)},
		},
		{
			ID: "write_body/for HEAD", Doc: "is discarded", Ref: "RFC 9110 9.3.2",
			Guest: guest.Guest{Request: `(call $write_body RESPONSE &"one")`, Result: guest.Stop},
			Send:  client.Request{Method: "HEAD"}, Want: Want{Body: Nothing},
		},
		{
			ID: "write_body/for 204", Doc: "is discarded", Ref: "RFC 9110 15.3.5",
			Guest: guest.Guest{Request: `(call $set_status_code #204) (call $write_body RESPONSE &"one")`, Result: guest.Stop},
			Want:  Want{Status: 204},
		},
		{
			ID: "write_body/for 304", Doc: "is discarded", Ref: "RFC 9110 15.4.5",
			Guest: guest.Guest{Request: `(call $set_status_code #304) (call $write_body RESPONSE &"one")`, Result: guest.Stop},
			Want:  Want{Status: 304},
		},
		{
			ID: "write_body/after next, HEAD", Doc: "with buffer_response, too", Ref: "RFC 9110 9.3.2",
			Guest: guest.Guest{Features: guest.BufferResponse, Response: `(call $write_body RESPONSE &"one")`},
			Send:  client.Request{Method: "HEAD"}, Want: Want{Body: Nothing},
		},
		{
			ID: "write_body/bad kind", Doc: "a kind other than 0 and 1 traps", Ref: "reference host",
			Guest: guest.Guest{Request: `(call $write_body #2 &"x")`}, Want: Want{Trap: InRequest, In: "write_body"},
		},
		{
			ID: "write_body/out of range", Doc: "bytes outside the memory trap", Ref: "reference host",
			Guest: guest.Guest{Request: "(call $write_body REQUEST " + outside + ")"}, Want: Want{Trap: InRequest, In: "write_body"},
		},
		{
			ID: "write_body/huge length", Doc: "so does a length that exceeds the memory", Ref: "reference host",
			Guest: guest.Guest{Request: "(call $write_body RESPONSE BUF #-1)"}, Want: Want{Trap: InRequest, In: "write_body"},
		},
		{
			ID: "write_body/memory reused", Doc: "the host keeps what it was given, not where", Ref: "ABI write_body",
			Guest: guest.Guest{Request: `(memory.fill BUF #97 #4) (call $write_body REQUEST BUF #4)
				(call $write_body RESPONSE BUF #4) (call $fill)`},
			Want: Want{Body: "aaaaNEXT", Backend: &Upstream{Body: "aaaa"}},
		},
	}
}

func lengthCases() []Case {
	const why = "the reference host never looks at the length again"
	four := Reply{Header: []string{"Content-Length: 4"}}

	return []Case{
		{
			ID: "content-length/longer", Doc: "a body that has grown is sent with its length", Ref: "RFC 9110 8.6",
			Guest: guest.Guest{Features: guest.BufferResponse, Response: `(call $write_body RESPONSE &"hello world")`},
			Reply: four, Want: Want{Body: "hello world", Header: map[string]string{"Content-Length": "11"}},
		},
		{
			ID: "content-length/shorter", Doc: "a body that has shrunk is sent with its length", Ref: "RFC 9110 8.6",
			Guest: guest.Guest{Features: guest.BufferResponse, Response: `(call $write_body RESPONSE &"abc")`},
			Reply: four, Want: Want{Body: "abc", Header: map[string]string{"Content-Length": "3"}},
		},
		{
			ID: "content-length/from 0", Doc: "an empty body that has grown is sent with its length", Ref: "RFC 9110 8.6",
			Guest: guest.Guest{Features: guest.BufferResponse, Response: `(call $write_body RESPONSE &"abc")`},
			Reply: Reply{NoBody: true, Header: []string{"Content-Length: 0"}}, Want: Want{Body: "abc", Header: map[string]string{"Content-Length": "3"}},
		},
		{
			ID: "content-length/request, longer", Doc: "a request body that has grown has its length at the backend", Ref: "RFC 9110 8.6",
			Guest: guest.Guest{Request: `(call $write_body REQUEST &"hello world")`},
			Send:  client.Request{Method: "POST", Body: []byte("abc")}, Want: Want{Backend: &Upstream{Body: "hello world", Length: "11"}},
		},
		{
			ID: "content-length/request, shorter", Doc: "so has one that has shrunk", Ref: "RFC 9110 8.6",
			Guest: guest.Guest{Request: `(call $write_body REQUEST &"a")`},
			Send:  client.Request{Method: "POST", Body: []byte("abc")}, Want: Want{Backend: &Upstream{Body: "a", Length: "1"}},
		},
		{
			ID: "content-length/request, empty", Doc: "so has one that is empty now", Ref: "RFC 9110 8.6",
			Guest: guest.Guest{Request: `(call $write_body REQUEST #0 #0)`},
			Send:  client.Request{Method: "POST", Body: []byte("abc")}, Want: Want{Backend: &Upstream{Body: Nothing, Length: "0"}},
		},
		{
			ID: "content-length/request, new", Doc: "so has one that was not there", Ref: "RFC 9110 8.6",
			Guest: guest.Guest{Request: `(call $write_body REQUEST &"abc")`},
			Want:  Want{Backend: &Upstream{Body: "abc", Length: "3"}},
		},
		{
			ID: "content-length/request, chunked", Doc: "so has one that came without", Ref: "RFC 9110 8.6",
			Guest: guest.Guest{Request: `(call $write_body REQUEST &"abc")`},
			Send:  client.Request{Method: "POST", Body: []byte("original"), Chunks: []int{2}},
			Want:  Want{Backend: &Upstream{Body: "abc", Length: "3"}},
		},
		{
			ID: "content-length/removed", Doc: "a guest that removes the length gets the right one", Ref: "reference host",
			Guest: guest.Guest{Features: guest.BufferResponse, Response: `(call $remove_header RESPONSE &"content-length") (call $write_body RESPONSE &"hello world")`},
			Reply: four, Want: Want{Body: "hello world", Header: map[string]string{"Content-Length": "11"}},
		},
		{
			ID: "content-length/set to 0", Doc: "a guest that sets the length to 0 empties the body", Ref: "reference host",
			Guest: guest.Guest{Features: guest.BufferResponse, Response: `(call $set_header_value RESPONSE &"content-length" &"0")`},
			Reply: Reply{Body: "SECRET"}, Want: Want{Body: Nothing, Header: map[string]string{"Content-Length": "0"}},
		},
		{
			ID: "content-length/set to 0, then write", Doc: "a later write is sent all the same", Ref: "RFC 9110 8.6", Decision: why,
			Guest: guest.Guest{Features: guest.BufferResponse, Response: `(call $set_header_value RESPONSE &"content-length" &"0") (call $write_body RESPONSE &"abc")`},
			Want:  Want{Body: "abc", Header: map[string]string{"Content-Length": "3"}},
		},
		{
			ID: "content-length/set wrong", Doc: "any other length that the guest sets is replaced by the right one", Ref: "RFC 9110 8.6", Decision: why,
			Guest: guest.Guest{Features: guest.BufferResponse, Response: `(call $set_header_value RESPONSE &"content-length" &"99") (call $write_body RESPONSE &"abc")`},
			Want:  Want{Body: "abc", Header: map[string]string{"Content-Length": "3"}},
		},
		{
			ID: "content-length/set in own response", Doc: "a wrong length of the guest's response is replaced by the right one", Ref: "RFC 9110 8.6", Decision: why,
			Guest: guest.Guest{Request: `(call $set_header_value RESPONSE &"content-length" &"99") (call $write_body RESPONSE &"abc")`, Result: guest.Stop},
			Want:  Want{Body: "abc", Header: map[string]string{"Content-Length": "3"}},
		},
		{
			ID: "content-length/own response", Doc: "the guest's response has a length", Ref: "RFC 9110 8.6", Decision: "chunks would do",
			Guest: guest.Guest{Request: `(call $write_body RESPONSE &"abc")`, Result: guest.Stop},
			Want:  Want{Body: "abc", Header: map[string]string{"Content-Length": "3"}},
		},
		{
			ID: "content-length/untouched", Doc: "a body that nobody touches keeps its length", Ref: "RFC 9110 8.6",
			Guest: guest.Guest{Response: ""},
			Reply: four, Want: Want{Header: map[string]string{"Content-Length": "4"}},
		},
		{
			ID: "content-length/buffered, untouched", Doc: "so does one that was only read", Ref: "RFC 9110 8.6",
			Guest: guest.Guest{Features: guest.BufferResponse, Response: `(drop (call $read_all RESPONSE #100))`},
			Reply: four, Want: Want{Header: map[string]string{"Content-Length": "4"}},
		},
	}
}

// phaseBodies combine all features: the body comes through whatever is enabled.
func phaseBodies() []Case {
	var cases []Case
	for features := range 8 {
		cases = append(cases, Case{
			ID:  fmt.Sprintf("bodies/untouched, features %d", features),
			Doc: "bodies that no guest touches come through both ways", Ref: "ABI enable_features",
			Guest: guest.Guest{Features: features},
			Send:  client.Request{Method: "POST", Body: []byte(text(70_000))},
			Reply: Reply{Body: text(80_000)},
			Want:  Want{Backend: &Upstream{Body: text(70_000)}},
		})
	}

	return append(cases, Case{
		ID: "bodies/redact", Doc: "a guest rewrites both bodies in one exchange", Ref: "ABI read_body, write_body",
		Guest: guest.Guest{Features: guest.BufferRequest | guest.BufferResponse,
			Request: `(local.set $i (call $read_all REQUEST #2048)) (i32.store8 BUF #35)
				(call $write_body REQUEST BUF (local.get $i))`,
			Response: `(local.set $i (call $read_all RESPONSE #2048)) (i32.store8 BUF #35)
				(call $write_body RESPONSE BUF (local.get $i))`},
		Send:  client.Request{Method: "POST", Body: []byte(text(9_000))},
		Reply: Reply{Body: text(10_000)},
		Want:  Want{Body: "#" + text(10_000)[1:], Backend: &Upstream{Body: "#" + text(9_000)[1:]}},
	})
}
