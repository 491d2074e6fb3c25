package differential

import "ngx-http-wasm-handler/conformance/client"

// corners are trials that every run begins with: one for each deviation, and what chance would hardly find.
var corners = []trial{
	{guest: "read", send: client.Request{Method: "POST", Target: "/", Body: filler(1_000_000), HasBody: true}},
	{guest: "uri", send: client.Request{Method: "GET", Target: "/a%2Fb\"?\"%zz"}},
	{guest: "tell", send: client.Request{Method: "GET", Target: "/a%2Fb{}"}},
	{guest: "uri", send: client.Request{Method: "GET", Target: "/a?\xc3\xa9"}},
	{guest: "status", send: client.Request{Method: "GET", Target: "/"}, answer: answer{status: 304, header: []string{"Content-Type: text/plain"}}},
	{guest: "headers", send: client.Request{Method: "GET", Target: "/"}, answer: answer{status: 304}},
	{guest: "rewrite", send: client.Request{Method: "GET", Target: "/"},
		answer: answer{header: []string{`ETag: "a"`, "Last-Modified: Mon, 01 Jan 2024 00:00:00 GMT"}, size: 0}},
	{guest: "rewrite", send: client.Request{Method: "GET", Target: "/"}, answer: answer{size: 3_000_000}},
	{guest: "status", send: client.Request{Method: "GET", Target: "/", Header: []string{"Range: bytes=0-1"}}, answer: answer{size: 10}},
	{guest: "status", send: client.Request{Method: "GET", Target: "/", Header: []string{"Accept-Encoding: gzip"}}, answer: answer{size: 10}},
	{guest: "pass", send: client.Request{Method: "GET", Target: "/", Header: []string{"If-None-Match: a", "If-None-Match: b"}}},
	{guest: "pass", send: client.Request{Method: "get", Target: "/"}},
	{guest: "pass", send: client.Request{Method: "TRACE", Target: "/"}},
	{guest: "pass", send: client.Request{Method: "GET", Target: "/../a"}},
	{guest: "tell", send: client.Request{Method: "GET", Target: "/", Header: []string{"X_Y: 1", "X.Y: 2"}}},
	{guest: "pass", send: client.Request{Method: "GET", Target: "/", Header: []string{"TE: trailers", "Keep-Alive: timeout=5"}}},
	{guest: "pass", send: client.Request{Method: "GET", Target: "http://AUTHORITY/a?b"}},
	{guest: "rewrite", send: client.Request{Method: "GET", Target: "/"}, answer: answer{size: 10, length: true}},
	{guest: "answer", send: client.Request{Method: "TRACE", Target: "/"}},
	{guest: "pass", send: client.Request{Method: "POST", Target: "/", Body: filler(3_000_000), Chunks: []int{1, 1_000_000, 2, 16384}}},
	{guest: "answer", send: client.Request{Method: "POST", Target: "/", Body: filler(100_000)}},
	{guest: "headers", send: client.Request{Method: "HEAD", Target: "/"}, answer: answer{size: 100, length: true}},
}
