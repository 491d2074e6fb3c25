//go:build wasip1

// Command state is a guest that remembers a value of each request, the header
// x-value, until the response, where it becomes the header x-remembered. The
// request context is the key to what it remembers.
//
// With the configuration "buffer" it asks for buffer_response first.
//
// The header x-in-flight tells how many requests this instance holds between
// its two calls: more than one means that the host has shared it.
package main

import (
	"strconv"

	"ngx-http-wasm-handler/tests/guests/go/httpwasm"
)

var (
	remembered = make(map[uint32]string)
	last       uint32
)

func init() {
	if httpwasm.Config() == "buffer" && !httpwasm.Enable(httpwasm.BufferResponse) {
		panic("buffer_response is not supported")
	}

	httpwasm.HandleRequest = func() (bool, uint32) {
		last++
		remembered[last] = httpwasm.Header(httpwasm.Request, "x-value")

		return true, last
	}

	httpwasm.HandleResponse = func(reqCtx uint32, isError bool) {
		value, ok := remembered[reqCtx]
		if !ok {
			panic("no request with this context")
		}
		inFlight := len(remembered)
		delete(remembered, reqCtx)
		if isError {
			return
		}

		httpwasm.SetHeader(httpwasm.Response, "x-remembered", value)
		httpwasm.SetHeader(httpwasm.Response, "x-in-flight", strconv.Itoa(inFlight))
		httpwasm.SetHeader(httpwasm.Response, "x-calls", strconv.Itoa(int(last)))
	}
}

func main() {}
