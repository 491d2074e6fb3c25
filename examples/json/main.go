//go:build wasip1

// Command json is a guest that renames and removes members of JSON bodies, of
// requests, of responses or of both.
//
// The configuration is JSON as well. A member is named by its path in the body
// as it comes; arrays on the way stand for each of their elements:
//
//	{
//	  "request":  { "remove": ["admin", "user.roles"] },
//	  "response": { "remove": ["users.password"], "rename": { "users.mail": "email" } }
//	}
//
// A body that this cannot be done to does not go on. The client gets 400 for
// what is no JSON, or has more than 100 levels, and 415 for another type than
// application/json and application/…+json, another charset than UTF-8, or a
// compressed body. Requests without a body go on. A response of another type
// goes on as it is; one that says that it is JSON and is none, or is compressed,
// becomes 502. The reason is in error_log.
//
// A member with the new name of another one makes room for it. All else stays as
// it was written. Names are compared as they are written, too: "Admin" is another
// one than "admin". Limit bodies (client_max_body_size, http_wasm_response_buffer)
// to a fifth of http_wasm_memory_limit.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"ngx-http-wasm-handler/tests/guests/go/httpwasm"
)

// rules are what is done to bodies of one kind, as they are configured.
type rules struct {
	Remove []string          `json:"remove"`
	Rename map[string]string `json:"rename"`
	tree   node
}

var config struct {
	Request  *rules `json:"request"`
	Response *rules `json:"response"`
}

// The start function of the guest: a reactor's init functions run inside of
// _initialize.
func init() {
	if err := start(); err != nil {
		httpwasm.Log(httpwasm.Error, "json: "+err.Error())
		os.Exit(1)
	}
}

func start() error {
	decoder := json.NewDecoder(strings.NewReader(httpwasm.Config()))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&config); err != nil {
		return fmt.Errorf(`expected JSON with "request" or "response": %w`, err)
	}
	if _, err := decoder.Token(); err != io.EOF {
		return errors.New("expected nothing behind the JSON")
	}
	if config.Request == nil && config.Response == nil {
		return errors.New(`expected "request" or "response"`)
	}
	features := uint32(0)
	if config.Request != nil {
		features |= httpwasm.BufferRequest
	}
	if config.Response != nil {
		features |= httpwasm.BufferResponse
	}
	for _, r := range []*rules{config.Request, config.Response} {
		if err := r.plant(); err != nil {
			return err
		}
	}
	if !httpwasm.Enable(features) {
		return errors.New("expected a host that gives bodies to guests")
	}
	httpwasm.HandleRequest, httpwasm.HandleResponse = handleRequest, handleResponse

	return nil
}

// plant makes a tree of the paths.
func (r *rules) plant() error {
	if r == nil {
		return nil
	}
	if len(r.Remove)+len(r.Rename) == 0 {
		return errors.New(`expected "remove" or "rename" in "request" and "response"`)
	}
	for from, to := range r.Rename {
		if to == "" || strings.Contains(to, ".") {
			return fmt.Errorf("rename %q to %q: expected a name without a path", from, to)
		}
		end, err := r.tree.at(from)
		if err != nil {
			return err
		}
		end.rename = to
	}
	for _, path := range r.Remove {
		end, err := r.tree.at(path)
		if err != nil {
			return err
		}
		end.remove = true
	}

	return nil
}

func main() {}

func handleRequest() (next bool, reqCtx uint32) {
	if config.Request == nil {
		return true, 0
	}
	body := httpwasm.Body(httpwasm.Request)
	if len(body) == 0 {
		return true, 0
	}
	isJSON, err := isReadable(httpwasm.Request)
	if err == nil && !isJSON {
		err = errType
	}
	if err != nil {
		refuse(415, err)
		return false, 0
	}
	changed, err := config.Request.apply(body)
	if err != nil {
		refuse(400, err)
		return false, 0
	}
	httpwasm.WriteBody(httpwasm.Request, changed)

	return true, 0
}

func handleResponse(_ uint32, isError bool) {
	if config.Response == nil || isError {
		return
	}
	isJSON, err := isReadable(httpwasm.Response)
	if !isJSON {
		return
	}
	// Where http_wasm_buffer_types is set, it has to have the types of JSON: to
	// ask for other bodies is a trap.
	body := httpwasm.Body(httpwasm.Response)
	if len(body) == 0 {
		return // HEAD, 304 and such
	}
	if err == nil {
		body, err = config.Response.apply(body)
	}
	if err != nil {
		refuse(502, err)
		return
	}
	httpwasm.WriteBody(httpwasm.Response, body)
}

// refuse answers in place of what cannot go on.
func refuse(status int, err error) {
	httpwasm.Log(httpwasm.Warn, fmt.Sprintf("json=refused status=%d reason=%q", status, err.Error()))
	httpwasm.SetStatus(status)
	httpwasm.RemoveHeader(httpwasm.Response, "content-encoding")
	httpwasm.SetHeader(httpwasm.Response, "content-type", "text/plain")
	httpwasm.WriteBody(httpwasm.Response, fmt.Appendf(nil, "%d\n", status))
}
