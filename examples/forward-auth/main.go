//go:build wasip1

// Command forward-auth is a guest that asks an HTTP service about each request,
// as nginx's auth_request and Traefik's forwardAuth do, and can remember what
// the service allowed.
//
// The configuration is JSON. Only "url" has to be there; these are the defaults
// of the others, except for "response_headers", which is empty, and for "cache",
// without which each request is asked about:
//
//	{
//	  "url": "http://127.0.0.1:9091/verify",
//	  "request_headers": ["authorization", "cookie"],
//	  "response_headers": ["x-user", "x-groups"],
//	  "cache": { "time": "10s", "entries": 1000, "by": ["method", "uri", "host"] },
//	  "timeout": "2s",
//	  "body_limit": 65536,
//	  "on_failure": "refuse"
//	}
//
// The service gets a GET without a body. It has "request_headers" as the client
// sent them, and method, URI and host of the request in X-Forwarded-Method,
// X-Forwarded-Uri and X-Forwarded-Host. It can get what nginx knows as well:
//
//	http_wasm_field x-forwarded-for $remote_addr;
//	http_wasm_field x-forwarded-proto $scheme;
//
// with these names among "request_headers".
//
// An answer with a status from 200 to 299 lets the request pass. The upstream
// gets "response_headers" from the answer, and never from the client. Any other
// answer is the client's: its status, its body up to "body_limit" bytes, and of
// its headers Cache-Control, Content-Type, Location, Retry-After, Set-Cookie and
// WWW-Authenticate. A redirect is not followed.
//
// Without a whole answer in time the client gets 503. With "on_failure" set to
// "pass" the request goes on, and has none of "response_headers". Then a client
// that can make the service fail gets by.
//
// Each instance remembers answers that let requests pass, for "time" or for the
// max-age of their Cache-Control if that is shorter. An answer holds for requests
// with the same "request_headers", and the same of what "by" names. So "by" may
// leave out only what the service does not look at. Answers with no-store,
// no-cache, Set-Cookie or "Vary: *" are not remembered, nor are those to requests
// without any of "request_headers". What is remembered holds after the service
// has changed its mind: keep "time" short.
//
// The service needs a rule, and those of https a place for certificates:
//
//	http_wasm_connect 127.0.0.1:9091;
//	http_wasm_dir /etc/ssl/certs /etc/ssl/certs;
//	http_wasm_env SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt;
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"ngx-http-wasm-handler/tests/guests/go/httpwasm"
)

// What clients get of an answer that does not let them pass, besides status and
// body.
var answerHeaders = []string{
	"Cache-Control", "Content-Type", "Location", "Retry-After", "Set-Cookie", "Www-Authenticate",
}

// The start function of the guest: a reactor's init functions run inside of
// _initialize.
func init() {
	if err := start(); err != nil {
		httpwasm.Log(httpwasm.Error, "forward-auth: "+err.Error())
		os.Exit(1)
	}
}

func start() error {
	if err := configure(httpwasm.Config()); err != nil {
		return err
	}
	httpwasm.HandleRequest = handleRequest

	return nil
}

func main() {}

// question is what the service is asked, apart from what is always the same.
type question struct {
	method, uri, host string
	headers           http.Header
}

// identity is what an answer says about the client: values of "response_headers",
// in their order.
type identity [][]string

func handleRequest() (next bool, reqCtx uint32) {
	q := take()
	if !q.sendable() {
		httpwasm.Log(httpwasm.Warn, `auth=refused status=400 reason="control characters in headers"`)
		respond(http.StatusBadRequest)
		return false, 0
	}
	key, known := cache.key(q)
	if known {
		if id, ok := cache.get(key, time.Now()); ok {
			id.set()
			return true, 0
		}
	}
	answer, err := ask(q)
	if err != nil {
		return failed(err), 0
	}
	if !answer.passes {
		answer.forward()
		return false, 0
	}
	if keep := answer.keep; known && keep > 0 {
		cache.put(key, answer.id, time.Now().Add(keep))
	}
	answer.id.set()

	return true, 0
}

// take reads what the question needs, and removes what only an answer may set:
// the request goes on with nothing of that from the client.
func take() question {
	q := question{
		method:  httpwasm.Method(),
		uri:     httpwasm.URI(),
		host:    httpwasm.Header(httpwasm.Request, "host"),
		headers: http.Header{},
	}
	for _, name := range config.RequestHeaders {
		if values := httpwasm.HeaderValues(httpwasm.Request, name); len(values) > 0 {
			q.headers[name] = values
		}
	}
	for _, name := range httpwasm.HeaderNames(httpwasm.Request) {
		if reserved[folded(name)] {
			httpwasm.RemoveHeader(httpwasm.Request, name)
		}
	}

	return q
}

// sendable says whether the question can be put. What nobody can be asked because
// of the client is no failure of the service: it must not pass.
func (q question) sendable() bool {
	for _, values := range q.headers {
		for _, value := range values {
			if hasControl(value) {
				return false
			}
		}
	}

	return !hasControl(q.uri) && !hasControl(q.host)
}

func hasControl(value string) bool {
	return strings.ContainsFunc(value, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f })
}

func (id identity) set() {
	for i, values := range id {
		for j, value := range values {
			if j == 0 {
				httpwasm.SetHeader(httpwasm.Request, config.ResponseHeaders[i], value)
			} else {
				httpwasm.AddHeader(httpwasm.Request, config.ResponseHeaders[i], value)
			}
		}
	}
}

// answer is what the service says.
type answer struct {
	passes bool
	keep   time.Duration
	id     identity
	status int
	header http.Header
	body   []byte
}

func ask(q question) (*answer, error) {
	header := q.headers.Clone()
	header.Set("X-Forwarded-Method", q.method)
	header.Set("X-Forwarded-Uri", q.uri)
	header.Set("X-Forwarded-Host", q.host)
	// One that Go would set otherwise.
	if _, ok := header["User-Agent"]; !ok {
		header.Set("User-Agent", "")
	}
	response, done, err := config.service.ask(header)
	if err != nil {
		return nil, err
	}
	whole := false
	defer func() { done(whole) }()
	a := &answer{status: response.StatusCode, header: response.Header}
	if a.status < 200 || a.status > 599 {
		return nil, fmt.Errorf("status %d", a.status)
	}
	a.passes = a.status < 300
	if err := a.readable(); err != nil {
		return nil, err
	}
	a.body, err = io.ReadAll(io.LimitReader(response.Body, config.BodyLimit+1))
	whole = err == nil && int64(len(a.body)) <= config.BodyLimit
	switch {
	case err != nil:
		return nil, err
	case !whole && !a.passes:
		httpwasm.Log(httpwasm.Warn, fmt.Sprintf(`auth=cut status=%d reason="the body is larger than body_limit"`, a.status))
		a.body = nil
	}
	if a.passes {
		a.keep = lifetime(a.header, config.Cache.time)
	}

	return a, nil
}

// readable refuses values that no header may have, and takes those that the
// upstream gets.
func (a *answer) readable() error {
	names := answerHeaders
	if a.passes {
		names = config.ResponseHeaders
	}
	for _, name := range names {
		values := a.header.Values(name)
		for _, value := range values {
			if hasControl(value) {
				return fmt.Errorf("%s has a value that is none", name)
			}
		}
		if a.passes {
			a.id = append(a.id, values)
		}
	}

	return nil
}

func (a *answer) forward() {
	httpwasm.Log(httpwasm.Info, fmt.Sprintf("auth=refused status=%d", a.status))
	httpwasm.SetStatus(a.status)
	for _, name := range answerHeaders {
		for _, value := range a.header.Values(name) {
			httpwasm.AddHeader(httpwasm.Response, name, value)
		}
	}
	if len(a.body) > 0 {
		httpwasm.WriteBody(httpwasm.Response, a.body)
	}
}

// failed says whether a request goes on that nobody has decided about.
func failed(err error) (next bool) {
	httpwasm.Log(httpwasm.Error, fmt.Sprintf("auth=failed reason=%q", err.Error()))
	if config.pass {
		return true
	}
	respond(http.StatusServiceUnavailable)

	return false
}

func respond(status int) {
	httpwasm.SetStatus(status)
	httpwasm.SetHeader(httpwasm.Response, "content-type", "text/plain")
	httpwasm.WriteBody(httpwasm.Response, fmt.Appendf(nil, "%d\n", status))
}
