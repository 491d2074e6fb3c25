//go:build wasip1

// Command answer is a guest that answers every request itself. It echoes what
// it was asked, so that a test sees whose answer it got.
package main

import "ngx-http-wasm-handler/tests/guests/go/httpwasm"

func init() {
	httpwasm.HandleRequest = func() (bool, uint32) {
		httpwasm.SetHeader(httpwasm.Response, "content-type", "text/plain")
		httpwasm.SetHeader(httpwasm.Response, "x-guest", "go-answer")
		httpwasm.SetStatus(201)
		httpwasm.WriteBody(httpwasm.Response,
			[]byte("hello from Go: "+httpwasm.Method()+" "+httpwasm.URI()+"\n"))

		return false, 0
	}
}

func main() {}
