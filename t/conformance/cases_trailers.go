package conformance

import (
	"ngx-http-wasm-handler/conformance/client"
	"ngx-http-wasm-handler/conformance/guest"
)

const oneStore = "the reference host has one store for both kinds of trailers, that of the response, and does not ask for the feature"

func trailerCases() []Case {
	set := func(value string) string {
		return `(call $set_header_value RESPONSE_TRAILERS &"X-Sum" &"` + value + `")`
	}
	both := guest.Trailers | guest.BufferResponse

	return []Case{
		{
			ID: "trailers/own response", Doc: "a trailer of the guest's response arrives", Ref: "ABI trailers",
			Guest: guest.Guest{Features: guest.Trailers, Request: `(call $write_body RESPONSE &"body")` + set("1"), Result: guest.Stop},
			Want:  Want{Body: "body", Trailer: map[string]string{"X-Sum": "1"}, Header: map[string]string{"X-Sum": Absent}},
		},
		{
			ID: "trailers/before next", Doc: "a trailer set before next arrives behind the backend's body", Ref: "ABI trailers",
			Guest: guest.Guest{Features: guest.Trailers, Request: set("1")},
			Want:  Want{Trailer: map[string]string{"X-Sum": "1"}, Header: map[string]string{"X-Sum": Absent}},
		},
		{
			ID: "trailers/after next", Doc: "so does one set in handle_response", Ref: "ABI trailers", Decision: d5,
			Guest: guest.Guest{Features: guest.Trailers, Response: set("1")},
			Want:  Want{Trailer: map[string]string{"X-Sum": "1"}},
		},
		{
			ID: "trailers/after next, buffered", Doc: "with buffer_response, too", Ref: "ABI trailers",
			Guest: guest.Guest{Features: both, Response: set("1")},
			Want:  Want{Trailer: map[string]string{"X-Sum": "1"}},
		},
		{
			ID: "trailers/new body", Doc: "behind a body that the guest wrote, too", Ref: "ABI trailers",
			Guest: guest.Guest{Features: both, Response: `(call $write_body RESPONSE &"new")` + set("1")},
			Want:  Want{Body: "new", Trailer: map[string]string{"X-Sum": "1"}},
		},
		{
			ID: "trailers/backend with length", Doc: "a length of the backend's gives way to the trailer", Ref: "RFC 9112 7.1.2",
			Guest: guest.Guest{Features: guest.Trailers, Request: set("1")},
			Reply: Reply{Header: []string{"Content-Length: 4"}},
			Want:  Want{Trailer: map[string]string{"X-Sum": "1"}},
		},
		{
			ID: "trailers/set, add, remove", Doc: "they are changed like headers", Ref: "ABI trailers",
			Guest: guest.Guest{Features: both, Response: set("0") + set("1") + `
				(call $add_header_value RESPONSE_TRAILERS &"x-sum" &"2")
				(call $set_header_value RESPONSE_TRAILERS &"X-Gone" &"3") (call $remove_header RESPONSE_TRAILERS &"x-gone")
				(call $is_list (call $get_header_values RESPONSE_TRAILERS &"x-SUM" BUF #100) #2 &"1\002\00")
				(call $is_list (call $get_header_names RESPONSE_TRAILERS BUF #100) #1 &"x-sum\00")`},
			Want: Want{Trailer: map[string]string{"X-Sum": "1 | 2", "X-Gone": Absent}},
		},
		{
			ID: "trailers/apart from headers", Doc: "headers and trailers are two lists", Ref: "ABI trailers",
			Guest: guest.Guest{Features: guest.Trailers, Request: set("1") + `
				(call $set_header_value RESPONSE &"X-Head" &"2")
				(call $is64 (call $get_header_values RESPONSE &"x-sum" BUF #100) (i64.const 0))
				(call $is64 (call $get_header_values RESPONSE_TRAILERS &"x-head" BUF #100) (i64.const 0))
				(call $is_list (call $get_header_names RESPONSE BUF #100) #1 &"x-head\00")`},
			Want: Want{Header: map[string]string{"X-Head": "2", "X-Sum": Absent}, Trailer: map[string]string{"X-Sum": "1"}},
		},
		{
			ID: "trailers/no feature, read", Doc: "without the feature there are none, and reading is no error", Ref: "ABI trailers",
			Guest: guest.Guest{
				Request: `(call $is64 (call $get_header_names REQUEST_TRAILERS BUF #100) (i64.const 0))
					(call $is64 (call $get_header_values REQUEST_TRAILERS &"x" BUF #100) (i64.const 0))
					(call $is64 (call $get_header_names RESPONSE_TRAILERS BUF #100) (i64.const 0))
					(call $is64 (call $get_header_values RESPONSE_TRAILERS &"x" BUF #100) (i64.const 0))`,
				Response: `(call $is64 (call $get_header_names REQUEST_TRAILERS BUF #100) (i64.const 0))
					(call $is64 (call $get_header_names RESPONSE_TRAILERS BUF #100) (i64.const 0))`,
			},
		},
		{
			ID: "trailers/none yet", Doc: "with the feature there are none until somebody sets one", Ref: "ABI trailers",
			Guest: guest.Guest{Features: guest.Trailers, Request: `
				(call $is64 (call $get_header_names REQUEST_TRAILERS BUF #100) (i64.const 0))
				(call $is64 (call $get_header_names RESPONSE_TRAILERS BUF #100) (i64.const 0))
				(call $is64 (call $get_header_values RESPONSE_TRAILERS &"x" BUF #100) (i64.const 0))`},
		},
		{
			ID: "trailers/no feature, set", Doc: "without the feature setting one traps", Ref: "ABI trailers",
			Guest: guest.Guest{Request: set("1")}, Want: Want{Trap: InRequest, In: "set_header_value"},
		},
		{
			ID: "trailers/no feature, add", Doc: "so does adding one", Ref: "ABI trailers",
			Guest: guest.Guest{Request: `(call $add_header_value RESPONSE_TRAILERS &"x" &"1")`}, Want: Want{Trap: InRequest, In: "add_header_value"},
		},
		{
			ID: "trailers/no feature, remove", Doc: "and removing one", Ref: "ABI trailers", Decision: "the ABI speaks of setting only",
			Guest: guest.Guest{Request: `(call $remove_header RESPONSE_TRAILERS &"x")`}, Want: Want{Trap: InRequest, In: "remove_header"},
		},
		{
			ID: "trailers/no feature, after next", Doc: "so it is after next", Ref: "ABI trailers",
			Guest: guest.Guest{Features: guest.BufferResponse, Response: set("1")}, Want: Want{Trap: InResponse, In: "set_header_value"},
		},
		{
			ID: "trailers/request", Doc: "request trailers cannot be set: nothing would carry them", Ref: "ABI trailers", Decision: oneStore,
			Guest: guest.Guest{Features: guest.Trailers, Request: `(call $set_header_value REQUEST_TRAILERS &"x" &"1")`},
			Want:  Want{Trap: InRequest, In: "set_header_value"},
		},
		{
			ID: "trailers/request apart", Doc: "response trailers are not those of the request", Ref: "ABI trailers", Decision: oneStore,
			Guest: guest.Guest{Features: guest.Trailers, Request: set("1") + `
				(call $is64 (call $get_header_names REQUEST_TRAILERS BUF #100) (i64.const 0))`},
			Want: Want{Trailer: map[string]string{"X-Sum": "1"}},
		},
		{
			ID: "trailers/HEAD", Doc: "a response without a body has no trailers", Ref: "RFC 9110 6.5",
			Guest: guest.Guest{Features: guest.Trailers, Request: set("1")},
			Send:  client.Request{Method: "HEAD"}, Want: Want{Body: Nothing},
		},
		{
			ID: "trailers/HTTP/1.0", Doc: "a client of HTTP/1.0 gets the body without them", Ref: "RFC 9112 7.1",
			Only: []string{client.HTTP1}, OnlyWhy: "the request is one of HTTP/1.0",
			Guest: guest.Guest{Features: guest.Trailers, Request: set("1")},
			Do: func(x *Run) {
				r := x.Send
				r.Version, r.Host = "HTTP/1.0", x.host
				x.Exchange(r, Want{Trailer: map[string]string{"X-Sum": Absent}})
			},
		},
	}
}
