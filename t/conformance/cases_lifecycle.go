package conformance

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"ngx-http-wasm-handler/conformance/client"
	"ngx-http-wasm-handler/conformance/guest"
)

func lifecycleCases() []Case {
	cases := []Case{
		// The guest's own response.
		{
			ID: "answer/empty", Doc: "a guest that stops and says nothing answers 200 without a body", Ref: "ABI handle_request",
			Guest: guest.Guest{Result: guest.Stop}, Want: Want{Status: 200},
		},
		{
			ID: "answer/status", Doc: "with the status that it set", Ref: "ABI set_status_code",
			Guest: guest.Guest{Request: `(call $set_status_code #403)`, Result: guest.Stop}, Want: Want{Status: 403},
		},
		{
			ID: "answer/all", Doc: "with status, headers and body", Ref: "ABI handle_request",
			Guest: guest.Guest{Request: `(call $set_header_value RESPONSE &"WWW-Authenticate" &"Basic realm=\"test\"")
				(call $set_status_code #401)
				(call $write_body RESPONSE &"denied")`, Result: guest.Stop},
			Want: Want{Status: 401, Body: "denied", Header: map[string]string{"Www-Authenticate": `Basic realm="test"`}},
		},
		{
			ID: "answer/redirect", Doc: "a Location is sent as it was set", Ref: "ABI set_header_value",
			Guest: guest.Guest{Request: `(call $set_header_value RESPONSE &"location" &"/other?x=1") (call $set_status_code #302)`, Result: guest.Stop},
			Want:  Want{Status: 302, Header: map[string]string{"Location": "/other?x=1"}},
		},
		{
			ID: "answer/HEAD", Doc: "to HEAD with the headers only", Ref: "RFC 9110 9.3.2",
			Guest: guest.Guest{Request: `(call $set_header_value RESPONSE &"x-a" &"1") (call $write_body RESPONSE &"body")`, Result: guest.Stop},
			Send:  client.Request{Method: "HEAD"}, Want: Want{Header: map[string]string{"X-A": "1"}},
		},
		{
			ID: "answer/unread body", Doc: "without reading what the client sent", Ref: "ABI handle_request",
			Guest: guest.Guest{Request: `(call $set_status_code #403)`, Result: guest.Stop},
			Send:  client.Request{Method: "POST", Body: []byte("ignored")}, Want: Want{Status: 403},
		},
		{
			ID: "answer/no handle_response", Doc: "handle_response is not called when handle_request stops", Ref: "ABI handle_response",
			Guest: guest.Guest{Request: `(call $say &"<request>")`, Result: guest.Stop, Response: `(call $say &"<response>")`},
			Do: func(x *Run) {
				x.Exchange(x.Send, Want{Log: []string{"<request>"}})
			},
			Finally: never("<response>"),
		},
		{
			ID: "answer/context ignored", Doc: "a context without next stops as well", Ref: "ABI handle_request",
			Guest: guest.Guest{Request: `(call $set_status_code #404)`, Result: "(i64.const 0x1000000000)", Response: `(call $say &"<response>")`},
			Do: func(x *Run) {
				x.backend.take()
				x.Equal("status", x.Request(x.Send).Status, 404)
				x.Equal("requests at the backend", len(x.backend.take()), 0)
			},
			Finally: never("<response>"),
		},

		// Context.
		{
			ID: "context/any next", Doc: "any lower half but 0 is next", Ref: "reference host",
			Guest: guest.Guest{Result: "(i64.const 0x80000000)", Response: `(call $is (local.get $ctx) #0)`},
		},
		{
			ID: "is_error/success", Doc: "is_error is 0 when there was a response", Ref: "ABI handle_response",
			Guest: guest.Guest{Response: `(call $is (local.get $is_error) #0)`},
		},
		{
			ID: "is_error/error status", Doc: "a response of 500 is no error", Ref: "ABI handle_response",
			Guest: guest.Guest{Response: `(call $is (local.get $is_error) #0)`},
			Reply: Reply{Status: 500}, Want: Want{Status: 500},
		},
		{
			ID: "is_error/cut, buffered", Doc: "a cut response is held back: handle_response sees is_error 1, or the error that is sent instead", Ref: "ABI handle_response",
			Guest: guest.Guest{Features: guest.BufferResponse, Response: `(call $say &"<response>")
				(if (i32.eqz (local.get $is_error)) (then (call $is (i32.ge_u (call $get_status_code) #500) #1)))`},
			Reply: Reply{Cut: true},
			Do: func(x *Run) {
				x.whole(x.Request(x.Send))
				x.WaitLog("<response>", 1)
				x.explain(client.Response{})
			},
			Finally: once("<response>"),
		},
		{
			ID: "handle_response/cut", Doc: "handle_response runs once when the backend cuts its response, and no whole one is sent", Ref: "ABI handle_response",
			Guest: guest.Guest{Response: `(call $say &"<response>")`},
			Reply: Reply{Cut: true},
			Do: func(x *Run) {
				x.whole(x.Request(x.Send))
				x.WaitLog("<response>", 1)
			},
			Finally: once("<response>"),
		},
		{
			ID: "handle_response/no response", Doc: "handle_response runs once when the backend closes without a response", Ref: "ABI handle_response",
			Guest: guest.Guest{Response: `(call $say &"<response>")`},
			Reply: Reply{Handler: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }},
			Do: func(x *Run) {
				if res := x.Request(x.Send); res.Err == nil && res.Status < 500 {
					x.Errorf("status: got %d, expected an error", res.Status)
				}
				x.WaitLog("<response>", 1)
			},
			Finally: once("<response>"),
		},
		{
			ID: "handle_response/no response, buffered", Doc: "so it does with buffer_response", Ref: "ABI handle_response",
			Guest: guest.Guest{Features: guest.BufferResponse, Response: `(call $say &"<response>")`},
			Reply: Reply{Handler: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }},
			Do: func(x *Run) {
				if res := x.Request(x.Send); res.Err == nil && res.Status < 500 {
					x.Errorf("status: got %d, expected an error", res.Status)
				}
				x.WaitLog("<response>", 1)
			},
			Finally: once("<response>"),
		},
		abort("handle_response/abort", "the client goes away while the backend works", 0),
		abort("handle_response/abort, buffered", "so it does with buffer_response", guest.BufferResponse),
		{
			ID: "handle_response/once", Doc: "handle_response runs exactly once for each request that was passed on", Ref: "ABI handle_response",
			Guest: guest.Guest{Response: `(call $say &"<response>")`},
			Do: func(x *Run) {
				for range 5 {
					x.Exchange(x.Send, Want{})
				}
				x.WaitLog("<response>", 5)
				x.Equal("handle_response calls", strings.Count(x.Log(), "<response>"), 5)
			},
		},
		{
			ID: "handle_response/HEAD", Doc: "so it does for HEAD", Ref: "ABI handle_response",
			Guest: guest.Guest{Features: guest.BufferResponse, Response: `(call $say &"<response>") (call $set_header_value RESPONSE &"x-a" &"1")`},
			Send:  client.Request{Method: "HEAD"}, Want: Want{Header: map[string]string{"X-A": "1"}, Log: []string{"<response>"}},
			Finally: once("<response>"),
		},
		{
			ID: "handle_response/204", Doc: "and for a response without a body", Ref: "ABI handle_response",
			Guest: guest.Guest{Features: guest.BufferResponse, Response: `(call $say &"<response>") (call $set_header_value RESPONSE &"x-a" &"1")`},
			Reply: Reply{Status: 204, NoBody: true}, Want: Want{Status: 204, Body: Nothing, Header: map[string]string{"X-A": "1"}, Log: []string{"<response>"}},
			Finally: once("<response>"),
		},
		{
			ID: "handle_response/empty body", Doc: "and for an empty one", Ref: "ABI handle_response",
			Guest: guest.Guest{Features: guest.BufferResponse, Response: `(call $is64 (call $read_body RESPONSE BUF #10) (i64.const 0x100000000))
				(call $write_body RESPONSE &"new")`},
			Reply: Reply{NoBody: true}, Want: Want{Body: "new"},
		},

		// Instances.
		{
			ID: "instance/pinned", Doc: "handle_response runs on the instance of its handle_request, and no other request runs there in between", Ref: "reference host",
			Guest: guest.Guest{
				Module:   "(global $mine (mut i32) #0)",
				Request:  `(global.set $mine (call $read_number &"x-n"))`,
				Result:   `(i64.or (i64.const 1) (i64.shl (i64.extend_i32_u (call $read_number &"x-n")) (i64.const 32)))`,
				Response: `(call $is (global.get $mine) (local.get $ctx)) (call $is (call $read_number &"x-n") (local.get $ctx))`,
			},
			Do: pinned,
		},
		{
			ID: "instance/features per request", Doc: "what a request enables is gone in the next one", Ref: "reference host",
			Guest: guest.Guest{Request: `(call $is (call $enable_features #0) #0) (call $is (call $enable_features #1) #1)`},
			Do: func(x *Run) {
				for range 6 {
					x.Exchange(x.Send, Want{})
				}
			},
		},
		{
			ID: "instance/after a trap", Doc: "an instance that trapped is not used again", Ref: "WebAssembly", Varies: collector,
			Decision: "nobody says; the reference host goes on with whatever state the trap left behind",
			Guest: guest.Guest{Module: "(global $calls (mut i32) #0)", Request: `
				(global.set $calls (i32.add (global.get $calls) #1))
				(if (i32.gt_u (global.get $calls) #1) (then (call $set_status_code #418) (return (i64.const 0))))
				(unreachable)`},
			Do: func(x *Run) {
				for range 6 {
					x.Equal("status", x.Request(x.Send).Status, 500)
				}
			},
		},
		{
			ID: "instance/good after bad", Doc: "after a trap the next request is served", Ref: "reference host",
			Guest: guest.Guest{Request: `(if (i64.ne (call $get_header_values REQUEST &"x-trap" #0 #0) (i64.const 0)) (then (unreachable)))`},
			Do: func(x *Run) {
				for range 4 {
					x.Equal("status", x.Request(client.Request{Header: []string{"X-Trap: 1"}}).Status, 500)
					x.Exchange(client.Request{}, Want{})
				}
			},
		},

		// Traps.
		{
			ID: "trap/request", Doc: "a trap of handle_request is 500, the backend is not asked and handle_response not called", Ref: "reference host",
			Guest: guest.Guest{Request: "(unreachable)", Response: `(call $say &"<response>")`},
			Want:  Want{Trap: InRequest}, Finally: never("<response>"),
		},
		{
			ID: "trap/request, silent", Doc: "the client is not told why", Ref: "security",
			Decision: "the reference host sends its stack trace",
			Guest:    guest.Guest{Request: "(unreachable)"},
			Do: func(x *Run) {
				res := x.Request(x.Send)
				x.Equal("status", res.Status, 500)
				for _, word := range []string{"wasm", "unreachable", "goroutine", "handle_request"} {
					if strings.Contains(strings.ToLower(string(res.Body)), word) {
						x.Errorf("the body says %q", word)
					}
				}
			},
		},
		{
			ID: "trap/request, after writing", Doc: "nothing of what the guest wrote before is sent", Ref: "reference host",
			Decision: "half a response is worse than none; the reference host sends it",
			Guest: guest.Guest{Request: `(call $set_status_code #404) (call $set_header_value RESPONSE &"x-a" &"1")
				(call $write_body RESPONSE &"half") (unreachable)`},
			Do: func(x *Run) {
				res := x.Request(x.Send)
				x.Equal("status", res.Status, 500)
				x.Equal("response header X-A", client.Lines(res.Header, "X-A"), Absent)
				if strings.Contains(string(res.Body), "half") {
					x.Errorf("the body has what the guest wrote")
				}
			},
		},
		{
			ID: "trap/response", Doc: "a trap of handle_response is 500 as long as nothing was sent", Ref: "security",
			Decision: "the reference host has sent the response, or closes the connection",
			Guest:    guest.Guest{Response: "(unreachable)"}, Do: fiveHundred,
		},
		{
			ID: "trap/response, buffered", Doc: "so it is with buffer_response", Ref: "security",
			Decision: "the reference host closes the connection",
			Guest:    guest.Guest{Features: guest.BufferResponse, Response: "(unreachable)"}, Do: fiveHundred,
		},
		{
			ID: "trap/response, no leak", Doc: "the response that the guest was to check is not sent", Ref: "security",
			Guest: guest.Guest{Features: guest.BufferResponse, Response: "(unreachable)"}, Reply: Reply{Body: "SECRET"},
			Do: func(x *Run) {
				if res := x.Request(x.Send); strings.Contains(string(res.Body), "SECRET") {
					x.Errorf("the body was sent")
				}
			},
		},
		{
			ID: "trap/division", Doc: "any trap of WebAssembly ends the call", Ref: "WebAssembly",
			Guest: guest.Guest{Request: "(drop (i32.div_u #1 (local.get $i)))"}, Want: Want{Trap: InRequest},
		},
		{
			ID: "trap/memory", Doc: "so does an access outside the memory", Ref: "WebAssembly",
			Guest: guest.Guest{Request: "(drop (i32.load #-4))"}, Want: Want{Trap: InRequest},
		},
		{
			ID: "trap/stack", Doc: "so does endless recursion", Ref: "WebAssembly",
			Guest: guest.Guest{Module: "(func $deep (call $deep) (call $deep))", Request: "(call $deep)"}, Want: Want{Trap: InRequest},
		},
		{
			ID: "exit/request, 0", Doc: "proc_exit in a call ends it like a trap", Ref: "reference host",
			Guest: guest.Guest{Request: "(call $proc_exit #0)"}, Want: Want{Trap: InRequest},
		},
		{
			ID: "exit/request, 1", Doc: "with any code", Ref: "reference host",
			Guest: guest.Guest{Request: "(call $proc_exit #1)"}, Want: Want{Trap: InRequest},
		},
		{
			ID: "exit/response, 0", Doc: "in handle_response, too", Ref: "reference host",
			Guest: guest.Guest{Features: guest.BufferResponse, Response: "(call $proc_exit #0)"}, Want: Want{Trap: InResponse},
		},
		{
			ID: "exit/response, 1", Doc: "in handle_response, too", Ref: "reference host",
			Guest: guest.Guest{Features: guest.BufferResponse, Response: "(call $proc_exit #1)"}, Want: Want{Trap: InResponse},
		},
		{
			ID: "exit/good after exit", Doc: "after an exit the next request is served", Ref: "WASI preview 1", Varies: collector,
			Decision: "the reference host goes on with the closed instance and answers 500 from then on",
			Guest:    guest.Guest{Request: `(if (i64.ne (call $get_header_values REQUEST &"x-trap" #0 #0) (i64.const 0)) (then (call $proc_exit #0)))`},
			Do: func(x *Run) {
				for range 4 {
					x.Equal("status", x.Request(client.Request{Header: []string{"X-Trap: 1"}}).Status, 500)
					x.Exchange(client.Request{}, Want{})
				}
			},
		},
	}

	for _, ctx := range []string{"0x1", "0x7fffffff", "0x80000000", "0xffffffff", "0xdeadbeef"} {
		cases = append(cases, Case{
			ID: "context/" + ctx, Doc: "handle_response gets the context bit by bit", Ref: "ABI handle_request",
			Guest: guest.Guest{Result: "(i64.or (i64.const 1) (i64.shl (i64.const " + ctx + ") (i64.const 32)))",
				Response: "(call $is (local.get $ctx) (i32.const " + ctx + "))"},
		})
	}

	cases = append(cases, startCases()...)
	cases = append(cases, featureCases()...)
	cases = append(cases, statusCases()...)
	cases = append(cases, logCases()...)

	return append(cases, templateCases()...)
}

func (x *Run) whole(res client.Response) {
	if res.Err == nil && res.Status < 500 {
		x.Errorf("a whole response of status %d, expected an error or a cut one", res.Status)
	}
}

func fiveHundred(x *Run) {
	res := x.Request(x.Send)
	if res.Err != nil {
		x.Errorf("the response of status %d was cut short", res.Status)
		return
	}
	x.Equal("status", res.Status, 500)
}

// once and never look at the complete log of all runs.
func once(text string) func(*Run) {
	return func(x *Run) {
		if n := strings.Count(x.Log(), text); n != x.runs {
			x.Errorf("log: %q is there %d times after %d requests", text, n, x.runs)
		}
	}
}

func never(text string) func(*Run) {
	return func(x *Run) {
		if n := strings.Count(x.Log(), text); n != 0 {
			x.Errorf("log: %q is there %d times, expected none", text, n)
		}
	}
}

func abort(id, doc string, features int) Case {
	arrived := make(chan struct{}, 1)

	return Case{
		ID: id, Doc: "handle_response runs once, with is_error 1, when " + doc, Ref: "ABI handle_response",
		Guest: guest.Guest{Features: features, Response: `(call $say_number &"<is_error>" (local.get $is_error))`},
		Reply: Reply{Handler: func(_ http.ResponseWriter, r *http.Request) {
			arrived <- struct{}{}
			<-r.Context().Done()
			panic(http.ErrAbortHandler)
		}},
		Do: func(x *Run) {
			ctx, cancel := context.WithCancel(context.Background())
			go func() {
				select {
				case <-arrived:
				case <-ctx.Done():
				}
				cancel()
			}()
			x.RequestContext(ctx, x.Send)
			cancel()
			x.WaitLog("<is_error>1", 1)
		},
		Finally: once("<is_error>"),
	}
}

// pinned sends requests that are all at the backend at the same time: they cannot be served one after the other.
func pinned(x *Run) {
	const n = 8
	var arrived sync.WaitGroup
	arrived.Add(n)
	gate := make(chan struct{})
	go func() { arrived.Wait(); close(gate) }()
	x.backend.hook = func(r *http.Request) {
		arrived.Done()
		select {
		case <-gate:
		case <-r.Context().Done():
		}
	}
	defer func() { x.backend.hook = nil }()

	var wg sync.WaitGroup
	responses := make([]client.Response, n)
	for i := range n {
		wg.Add(1)
		go func() {
			defer wg.Done()
			responses[i] = x.Request(client.Request{Header: []string{fmt.Sprintf("X-N: %c", 'a'+i)}})
		}()
	}
	wg.Wait()
	for _, res := range responses {
		x.Equal("status", res.Status, 200)
		if res.Err != nil {
			x.Errorf("body: %v", res.Err)
		}
	}
	if strings.Contains(x.Log(), "check ") {
		x.explain(client.Response{})
	}
}

func startCases() []Case {
	const minimal = `(func (export "handle_request") (result i64) (i64.const 1)) (func (export "handle_response") (param i32 i32))`
	both := `(global $n (mut i32) #0)
		(func (export _initialize) (global.set $n (i32.add (global.get $n) #1)))`

	return []Case{
		{
			ID: "start/section", Doc: "the start section runs before any request", Ref: "WebAssembly",
			Guest: guest.Guest{Module: "(global $n (mut i32) #0)", Start: "(global.set $n #7)", Request: "(call $is (global.get $n) #7)"},
		},
		{
			ID: "start/_start", Doc: "_start runs before any request", Ref: "reference host",
			Guest: guest.Guest{Module: "(global $n (mut i32) #0)", StartName: "_start", Start: "(global.set $n #7)", Request: "(call $is (global.get $n) #7)"},
		},
		{
			ID: "start/_initialize", Doc: "_initialize runs before any request", Ref: "WASI preview 1",
			Decision: "reactors need it, and Traefik calls it; the reference host leaves it to its embedder",
			Guest:    guest.Guest{Module: "(global $n (mut i32) #0)", StartName: "_initialize", Start: "(global.set $n #7)", Request: "(call $is (global.get $n) #7)"},
		},
		{
			ID: "start/both", Doc: "of _initialize and _start only the first is called", Ref: "WASI preview 1",
			Decision: "a module is a reactor or a command; the reference host calls _start, Traefik both",
			Guest: guest.Guest{Module: both, StartName: "_start", Start: "(global.set $n (i32.add (global.get $n) #10))",
				Request: "(call $is (global.get $n) #1)"},
		},
		{
			ID: "start/exit 0", Doc: "a _start that ends with exit code 0 has succeeded", Ref: "WASI preview 1",
			Decision: "the reference host answers 500 to every request then",
			Guest:    guest.Guest{StartName: "_start", Start: "(call $proc_exit #0)"},
		},
		{
			ID: "start/features", Doc: "what a start function enables holds for every request", Ref: "ABI enable_features",
			Guest: guest.Guest{StartName: "_start", Features: guest.BufferResponse, Response: `(call $write_body RESPONSE &"new")`},
			Do: func(x *Run) {
				for range 3 {
					x.Exchange(x.Send, Want{Body: "new"})
				}
			},
		},
		{
			ID: "start/log", Doc: "a start function can log", Ref: "ABI log",
			Guest: guest.Guest{StartName: "_start", Start: `(drop (call $log_enabled #0)) (call $log #0 &"hello")`},
		},

		{ID: "start/exit 1", Doc: "a start function that exits with another code keeps the guest from loading", Ref: "reference host",
			Guest: guest.Guest{StartName: "_start", Start: "(call $proc_exit #1)"}, Refused: "exit"},
		{ID: "start/exit 1, section", Doc: "so does the start section", Ref: "reference host",
			Guest: guest.Guest{Start: "(call $proc_exit #1)"}, Refused: "exit"},
		{ID: "start/trap", Doc: "a start function that traps keeps the guest from loading", Ref: "reference host",
			Guest: guest.Guest{StartName: "_start", Start: "(unreachable)"}, Refused: "unreachable"},
		{ID: "start/trap, section", Doc: "so does the start section", Ref: "reference host",
			Guest: guest.Guest{Start: "(unreachable)"}, Refused: "unreachable"},
		{ID: "start/trap, _initialize", Doc: "so does _initialize", Ref: "WASI preview 1", Decision: "the reference host does not call it",
			Guest: guest.Guest{StartName: "_initialize", Start: "(unreachable)"}, Refused: "unreachable"},
		{ID: "load/no handle_request", Doc: "a guest without handle_request does not load", Ref: "ABI handle_request",
			Guest: guest.Guest{Whole: `(module (memory (export "memory") 1) (func (export "handle_response") (param i32 i32)))`}, Refused: "handle_request"},
		{ID: "load/no handle_response", Doc: "a guest without handle_response does not load", Ref: "ABI handle_response",
			Guest: guest.Guest{Whole: `(module (memory (export "memory") 1) (func (export "handle_request") (result i64) (i64.const 1)))`}, Refused: "handle_response"},
		{ID: "load/no memory", Doc: "a guest without a memory does not load", Ref: "ABI memory",
			Guest: guest.Guest{Whole: "(module " + minimal + ")"}, Refused: "memory"},
		{ID: "load/wrong type of handle_request", Doc: "a guest whose handle_request has another type does not load", Ref: "ABI handle_request",
			Guest: guest.Guest{Whole: `(module (memory (export "memory") 1) (func (export "handle_request") (result i32) (i32.const 1)) (func (export "handle_response") (param i32 i32)))`}, Refused: "handle_request"},
		{ID: "load/wrong type of handle_response", Doc: "a guest whose handle_response has another type does not load", Ref: "ABI handle_response",
			Guest: guest.Guest{Whole: `(module (memory (export "memory") 1) (func (export "handle_request") (result i64) (i64.const 1)) (func (export "handle_response") (param i32)))`}, Refused: "handle_response"},
		{ID: "load/unknown import", Doc: "a guest that imports what there is not does not load", Ref: "WebAssembly",
			Guest: guest.Guest{Whole: `(module (import "http_handler" "no_such" (func)) (memory (export "memory") 1) ` + minimal + ")"}, Refused: "no_such"},
		{ID: "load/wrong type of import", Doc: "nor does one that imports a function with another type", Ref: "WebAssembly",
			Guest: guest.Guest{Whole: `(module (import "http_handler" "get_uri" (func (param i32))) (memory (export "memory") 1) ` + minimal + ")"}, Refused: "get_uri"},
		{
			ID: "load/no imports", Doc: "a guest that imports nothing loads", Ref: "reference host",
			Guest: guest.Guest{Whole: `(module (memory (export "memory") 1 1) ` + minimal + ")"},
		},
	}
}

func featureCases() []Case {
	return []Case{
		{
			ID: "enable_features/none", Doc: "at first nothing is enabled", Ref: "reference host (example config)",
			Guest: guest.Guest{Request: `(call $is (call $enable_features #0) #0)`},
		},
		{
			ID: "enable_features/start", Doc: "the result is what is enabled by now, and requests begin with it", Ref: "reference host (example config)", Varies: collector,
			Guest: guest.Guest{
				Start:   `(call $is (call $enable_features #0) #0) (call $is (call $enable_features #1) #1) (call $is (call $enable_features #2) #3)`,
				Request: `(call $is (call $enable_features #0) #3)`,
			},
		},
		{
			ID: "enable_features/request", Doc: "a request adds to what start functions enabled", Ref: "ABI enable_features",
			Guest: guest.Guest{Features: guest.BufferRequest, Request: `(call $is (call $enable_features #2) #3) (call $is (call $enable_features #2) #3)`},
		},
		{
			ID: "enable_features/trailers", Doc: "trailers are supported", Ref: "ABI enable_features",
			Guest: guest.Guest{Request: `(call $is (call $enable_features #4) #4)`},
		},
		{
			ID: "enable_features/all", Doc: "all at once", Ref: "ABI enable_features",
			Guest: guest.Guest{Request: `(call $is (call $enable_features #7) #7)`},
		},
		{
			ID: "enable_features/unknown", Doc: "bits that mean nothing are not enabled", Ref: "ABI enable_features",
			Guest: guest.Guest{Request: `(call $is (call $enable_features #256) #0) (call $is (call $enable_features #-1) #7)`},
		},
		{
			ID: "enable_features/in effect", Doc: "buffer_response can be enabled by the request", Ref: "ABI enable_features",
			Guest: guest.Guest{Request: `(drop (call $enable_features #2))`, Response: `(call $write_body RESPONSE &"new")`},
			Want:  Want{Body: "new"},
		},
		{
			ID: "enable_features/response", Doc: "after next nothing can be enabled any more", Ref: "ABI enable_features",
			Decision: "the response was not held; the reference host says it is enabled and loses what is written",
			Guest:    guest.Guest{Features: guest.BufferRequest, Response: `(call $is (call $enable_features #6) #1)`},
		},
		{
			ID: "enable_features/response, in effect", Doc: "so the body cannot be written", Ref: "ABI enable_features",
			Decision: "see enable_features/response",
			Guest:    guest.Guest{Response: `(drop (call $enable_features #2)) (call $write_body RESPONSE &"new")`},
			Want:     Want{Trap: InResponse, In: "write_body"},
		},
	}
}

func statusCases() []Case {
	const unbuffered = "the reference host traps without buffer_response"

	cases := []Case{
		{
			ID: "get_status_code/default", Doc: "200 until somebody sets one", Ref: "ABI get_status_code",
			Guest: guest.Guest{Features: guest.BufferResponse, Request: `(call $is (call $get_status_code) #200)`},
		},
		{
			ID: "get_status_code/default, unbuffered", Doc: "200 until somebody sets one", Ref: "ABI get_status_code", Decision: unbuffered,
			Guest: guest.Guest{Request: `(call $is (call $get_status_code) #200)`},
		},
		{
			ID: "get_status_code/own", Doc: "what the guest set", Ref: "ABI get_status_code",
			Guest: guest.Guest{Features: guest.BufferResponse, Request: `(call $set_status_code #404) (call $is (call $get_status_code) #404)`, Result: guest.Stop},
			Want:  Want{Status: 404},
		},
		{
			ID: "get_status_code/response, buffered", Doc: "the status of the backend", Ref: "ABI get_status_code",
			Guest: guest.Guest{Features: guest.BufferResponse, Response: `(call $is (call $get_status_code) #203)`},
			Reply: Reply{Status: 203}, Want: Want{Status: 203},
		},
		{
			ID: "get_status_code/response", Doc: "the status of the backend", Ref: "ABI get_status_code", Decision: unbuffered,
			Guest: guest.Guest{Response: `(call $is (call $get_status_code) #404)`},
			Reply: Reply{Status: 404}, Want: Want{Status: 404},
		},
		{
			ID: "set_status_code/response", Doc: "replaces that of the backend", Ref: "ABI set_status_code", Decision: d5,
			Guest: guest.Guest{Response: `(call $set_status_code #418) (call $is (call $get_status_code) #418)`},
			Want:  Want{Status: 418},
		},
		{
			ID: "set_status_code/response, buffered", Doc: "replaces that of the backend", Ref: "ABI set_status_code",
			Guest: guest.Guest{Features: guest.BufferResponse, Response: `(call $set_status_code #418) (call $is (call $get_status_code) #418)`},
			Want:  Want{Status: 418},
		},
		{
			ID: "set_status_code/twice", Doc: "the last one counts", Ref: "ABI set_status_code", Decision: "the reference host sends the first one at once unless it buffers",
			Guest: guest.Guest{Request: `(call $set_status_code #404) (call $set_status_code #410)`, Result: guest.Stop},
			Want:  Want{Status: 410},
		},
		{
			ID: "set_status_code/to 204, buffered", Doc: "a response that becomes 204 loses its body", Ref: "RFC 9110 15.3.5",
			Guest: guest.Guest{Features: guest.BufferResponse, Response: `(call $set_status_code #204)`},
			Want:  Want{Status: 204, Body: Nothing},
		},
		{
			ID: "set_status_code/from 204, buffered", Doc: "a 204 that becomes 200 can have a body", Ref: "ABI set_status_code",
			Guest: guest.Guest{Features: guest.BufferResponse, Response: `(call $set_status_code #200) (call $write_body RESPONSE &"new")`},
			Reply: Reply{Status: 204, NoBody: true}, Want: Want{Body: "new"},
		},
		{
			ID: "set_status_code/unusual", Doc: "up to 999", Ref: "reference host",
			Guest: guest.Guest{Request: `(call $set_status_code #999)`, Result: guest.Stop}, Want: Want{Status: 999},
		},
		{
			ID: "set_status_code/unknown", Doc: "a status that no RFC names", Ref: "reference host",
			Guest: guest.Guest{Request: `(call $set_status_code #299)`, Result: guest.Stop}, Want: Want{Status: 299},
		},
	}
	for _, code := range []string{"0", "99", "1000", "-1", "65736"} {
		cases = append(cases, Case{
			ID: "set_status_code/" + code, Doc: "a status that does not have three digits traps", Ref: "reference host",
			Guest: guest.Guest{Request: "(call $set_status_code #" + code + ")", Result: guest.Stop}, Want: Want{Trap: InRequest, In: "set_status_code"},
		}, Case{
			ID: "set_status_code/response, " + code, Doc: "so it does in handle_response", Ref: "reference host",
			Guest: guest.Guest{Features: guest.BufferResponse, Response: "(call $set_status_code #" + code + ")"}, Want: Want{Trap: InResponse},
		})
	}
	for _, code := range []string{"100", "101", "199"} {
		decision := ""
		if code == "101" {
			decision = "the reference host sends it and then another"
		}
		cases = append(cases, Case{
			ID: "set_status_code/" + code, Doc: "an informational status has no effect: it is not the response", Ref: "RFC 9110 15.2",
			Decision: decision,
			Guest:    guest.Guest{Request: "(call $set_status_code #" + code + ") (call $set_status_code #201) (call $set_status_code #" + code + ")", Result: guest.Stop},
			Want:     Want{Status: 201},
		})
	}

	return cases
}

func logCases() []Case {
	cases := []Case{
		{
			ID: "log/message", Doc: "a message reaches the log of the host", Ref: "ABI log",
			Guest: guest.Guest{Request: `(call $log #0 &"<info> hello") (call $log #1 &"<warn>") (call $log #2 &"<error>")`},
			Want:  Want{Log: []string{"<info> hello", "<warn>", "<error>"}},
		},
		{
			ID: "log/response", Doc: "from handle_response, too", Ref: "ABI log",
			Guest: guest.Guest{Response: `(call $log #0 &"<info> hello")`}, Want: Want{Log: []string{"<info> hello"}},
		},
		{
			ID: "log/below the level", Doc: "a message below the level is dropped, its bytes not looked at", Ref: "ABI log",
			Guest: guest.Guest{Request: `(call $log #-1 &"<debug>") (call $log #-1 ` + outside + `) (call $say &"<info>")`},
			Want:  Want{Log: []string{"<info>"}}, Finally: never("<debug>"),
		},
		{
			ID: "log/none", Doc: "a message of level none is dropped", Ref: "ABI log",
			Guest: guest.Guest{Request: `(call $log #3 &"<none>") (call $say &"<info>")`},
			Want:  Want{Log: []string{"<info>"}}, Finally: never("<none>"),
		},
		{
			ID: "log/empty", Doc: "an empty message is no error, whatever the pointer", Ref: "reference host",
			Guest: guest.Guest{Request: `(call $log #0 #-1 #0)`},
		},
		{
			ID: "log/long", Doc: "the end of a message of 10,000 bytes is not lost", Ref: "ABI log",
			Guest: guest.Guest{Request: `(memory.fill BUF #97 #10000) (i64.store (i32.add BUF #9992) (i64.const 0x3e646e653c616161)) (call $log #0 BUF #10000)`},
			Want:  Want{Log: []string{"aaa<end>"}},
		},
		{
			ID: "log/bytes", Doc: "line breaks and other bytes are no error", Ref: "ABI log",
			Guest: guest.Guest{Request: `(call $log #0 &"a\r\nb\00\1b[1m\ff<end>")`}, Want: Want{Log: []string{"<end>"}},
		},
		{
			ID: "log/one line", Doc: "a message cannot forge a line of the log", Ref: "security", Decision: "the reference host hands the bytes to its logger",
			Guest:   guest.Guest{Request: `(call $log #0 &"a\nforged line<end>")`},
			Want:    Want{Log: []string{"forged line<end>"}},
			Finally: never("\nforged"),
		},
		{
			ID: "log/out of range", Doc: "bytes outside the memory trap when the level is enabled", Ref: "reference host",
			Guest: guest.Guest{Request: "(call $log #0 " + outside + ")"}, Want: Want{Trap: InRequest},
		},
	}
	for lowest, level := range []string{"debug", "info", "warn", "error"} {
		check := ""
		for i := range 4 {
			enabled := 0
			if i >= lowest {
				enabled = 1
			}
			check += fmt.Sprintf("(call $is (call $log_enabled #%d) #%d)", i-1, enabled)
		}
		cases = append(cases, Case{
			ID: "log_enabled/" + level, Doc: "what a log at level " + level + " takes, in both phases; never level none", Ref: "ABI log_enabled",
			LogLevel: level,
			Guest:    guest.Guest{Request: check + "(call $is (call $log_enabled #3) #0)", Response: check},
		})
	}

	return cases
}

const (
	collector = "which instances its garbage collector leaves"

	fork = "an extension of a fork; the reference host does not have it"
)

func templateCases() []Case {
	return []Case{
		{
			ID: "get_template/none", Doc: "empty until it is set", Ref: "fork httpwasm/http-wasm-host-go", Decision: fork,
			Guest: guest.Guest{Request: `(call $fill) (call $is (call $get_template BUF #100) #0) (call $is_untouched #0)`},
		},
		{
			ID: "get_template/value", Doc: "what was set, in both phases", Ref: "fork httpwasm/http-wasm-host-go", Decision: fork,
			Guest: guest.Guest{Request: `(call $set_template &"one.html") (call $set_template &"page.html") (call $is_text (call $get_template BUF #100) &"page.html")`,
				Response: `(call $is_text (call $get_template BUF #9) &"page.html")`},
		},
		{
			ID: "get_template/limit", Doc: "a value that does not fit is not truncated", Ref: "fork httpwasm/http-wasm-host-go", Decision: fork,
			Guest: guest.Guest{Request: `(call $set_template &"page.html") (call $fill)
				(call $is (call $get_template BUF #8) #9) (call $is (call $get_template #-1 #0) #9) (call $is_untouched #0)`},
		},
		{
			ID: "get_template/next request", Doc: "it is gone in the next request", Ref: "fork httpwasm/http-wasm-host-go", Decision: fork,
			Guest: guest.Guest{Request: `(call $is (call $get_template BUF #100) #0) (call $set_template &"page.html")`},
			Do: func(x *Run) {
				for range 4 {
					x.Exchange(x.Send, Want{})
				}
			},
		},
		{
			ID: "set_template/empty", Doc: "an empty one traps", Ref: "fork httpwasm/http-wasm-host-go", Decision: fork,
			Guest: guest.Guest{Request: `(call $set_template #0 #0)`}, Want: Want{Trap: InRequest, In: "set_template"},
		},
		{
			ID: "set_template/out of range", Doc: "bytes outside the memory trap", Ref: "fork httpwasm/http-wasm-host-go", Decision: fork,
			Guest: guest.Guest{Request: "(call $set_template " + outside + ")"}, Want: Want{Trap: InRequest, In: "set_template"},
		},
	}
}
