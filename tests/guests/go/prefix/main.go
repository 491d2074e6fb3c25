//go:build wasip1

// Command prefix is a guest that puts its configuration in front of the body
// of every response.
package main

import "ngx-http-wasm-handler/tests/guests/go/httpwasm"

func init() {
	// A host that cannot buffer refuses this guest at start, not in traffic.
	if !httpwasm.Enable(httpwasm.BufferResponse) {
		panic("buffer_response is not supported")
	}

	prefix := []byte(httpwasm.Config())

	httpwasm.HandleResponse = func(_ uint32, isError bool) {
		if isError {
			return
		}
		body := httpwasm.Body(httpwasm.Response)
		httpwasm.WriteBody(httpwasm.Response, prefix)
		if len(body) != 0 {
			httpwasm.WriteBody(httpwasm.Response, body)
		}
	}
}

func main() {}
