//go:build wasip1

// Command go is the jobs of the benchmark as a guest in Go; the configuration says which.
package main

import (
	"bytes"
	"strings"

	"ngx-http-wasm-handler/tests/guests/go/httpwasm"
)

var secret, blot = []byte("card-4711"), []byte("#########")

func init() {
	switch job := httpwasm.Config(); job {
	case "headers":
		httpwasm.HandleRequest = headers
	case "answer":
		httpwasm.HandleRequest = answer
	case "uri":
		httpwasm.HandleRequest = uri
	case "body":
		httpwasm.HandleRequest = body
	case "redact":
		httpwasm.Enable(httpwasm.BufferResponse)
		httpwasm.HandleResponse = redact
	default:
		panic("no job " + job)
	}
}

func headers() (bool, uint32) {
	client := httpwasm.Header(httpwasm.Request, "user-agent") + "|" +
		httpwasm.Header(httpwasm.Request, "accept") + "|" +
		httpwasm.Header(httpwasm.Request, "x-forwarded-for")
	httpwasm.SetHeader(httpwasm.Request, "X-Client", client)
	httpwasm.SetHeader(httpwasm.Response, "X-Client", client)

	return true, 0
}

func answer() (bool, uint32) {
	httpwasm.SetHeader(httpwasm.Response, "Content-Type", "text/plain")
	httpwasm.WriteBody(httpwasm.Response, []byte("hello\n"))

	return false, 0
}

func uri() (bool, uint32) {
	if rest, found := strings.CutPrefix(httpwasm.URI(), "/v1"); found {
		httpwasm.SetURI(rest)
	}

	return true, 0
}

func body() (bool, uint32) {
	httpwasm.Body(httpwasm.Request)

	return true, 0
}

func redact(_ uint32, isError bool) {
	if !isError {
		httpwasm.WriteBody(httpwasm.Response, bytes.ReplaceAll(httpwasm.Body(httpwasm.Response), secret, blot))
	}
}

func main() {}
