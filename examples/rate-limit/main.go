//go:build wasip1

// Command rate-limit is a guest that limits how many requests a client makes,
// and finds the session of a cookie. Both are in Redis, so they are the same for
// all workers and machines.
//
// The configuration is JSON. "redis" has to be there, and "limit" or "session"
// or both:
//
//	{
//	  "redis": "127.0.0.1:6379",
//	  "username": "nginx", "password": "secret", "database": 0,
//	  "timeout": "500ms",
//	  "limit": {
//	    "requests": 100, "window": "1m", "sliding": false,
//	    "header": "x-api-key", "prefix": "limit:",
//	    "on_failure": "pass"
//	  },
//	  "session": {
//	    "cookie": "sid", "prefix": "session:",
//	    "headers": { "x-user": "user", "x-role": "role" }
//	  }
//	}
//
// "redis" is host and port, or "unix:/run/redis/redis-server.sock". It needs a
// rule: http_wasm_connect 127.0.0.1:6379;
//
// A client has "requests" in each "window". What is more is answered with 429 and
// Retry-After. A window begins with the first request in it, or, if "sliding" is
// true, moves along: then the requests of the window before count for as much of
// it as is still in sight. Refused requests do not count there.
//
// A client is who sends the same value of "header", or else comes from the same
// address, or the same /64 of IPv6. Limit by a header only behind what checks its
// value: a client that makes up values has a limit for each. Redis has the key
// "prefix" and the address, or the hash of the value.
//
// While Redis does not answer, requests go on without a limit. With "on_failure"
// set to "refuse" they get 503.
//
// A session is a hash with the key "prefix" and the value of the cookie. Its
// fields go to the upstream in "headers"; what the client has sent under these
// names never does. Without a cookie, a session or an answer there are none.
package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"ngx-http-wasm-handler/tests/guests/go/httpwasm"
)

// The start function of the guest: a reactor's init functions run inside of
// _initialize.
func init() {
	if err := start(); err != nil {
		httpwasm.Log(httpwasm.Error, "rate-limit: "+err.Error())
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

func handleRequest() (next bool, reqCtx uint32) {
	var q question
	if config.Limit != nil {
		q.limit = config.Limit.Prefix + client()
	}
	if config.Session != nil {
		removeHeaders()
		if id := session(); id != "" {
			q.session = config.Session.Prefix + id
		}
	}
	if q.limit == "" && q.session == "" {
		return true, 0
	}
	a := ask(q)
	switch {
	case a.limitErr != nil:
		httpwasm.Log(httpwasm.Error, fmt.Sprintf("limit=failed reason=%q", a.limitErr.Error()))
		if !config.Limit.pass {
			refuse(503)
			return false, 0
		}
	case a.wait > 0:
		httpwasm.Log(httpwasm.Info, fmt.Sprintf("limit=refused key=%q", q.limit))
		seconds := (a.wait + 999) / 1000
		httpwasm.SetHeader(httpwasm.Response, "retry-after", strconv.FormatInt(seconds, 10))
		refuse(429)
		return false, 0
	}
	if a.sessionErr != nil {
		httpwasm.Log(httpwasm.Error, fmt.Sprintf("session=failed reason=%q", a.sessionErr.Error()))
	}
	for i, value := range a.fields {
		if value != "" {
			httpwasm.SetHeader(httpwasm.Request, config.Session.names[i], value)
		}
	}

	return true, 0
}

func refuse(status int) {
	httpwasm.SetStatus(status)
	httpwasm.SetHeader(httpwasm.Response, "content-type", "text/plain")
	httpwasm.WriteBody(httpwasm.Response, fmt.Appendf(nil, "%d\n", status))
}

// client is who a request counts for.
func client() string {
	if config.Limit.Header != "" {
		if value := httpwasm.Header(httpwasm.Request, config.Limit.Header); value != "" {
			hash := sha256.Sum256([]byte(value))
			return "value:" + hex.EncodeToString(hash[:])
		}
	}
	source := httpwasm.SourceAddr()
	port, err := netip.ParseAddrPort(source)
	if err != nil {
		// Of a unix socket, all clients are the same.
		return "address:" + source
	}
	address := port.Addr().Unmap().WithZone("")
	if address.Is6() {
		prefix, _ := address.Prefix(64)
		return "address:" + prefix.String()
	}

	return "address:" + address.String()
}

// session is the value of the cookie, the first if there are several.
func session() string {
	for _, line := range httpwasm.HeaderValues(httpwasm.Request, "cookie") {
		for pair := range strings.SplitSeq(line, ";") {
			name, value, _ := strings.Cut(strings.TrimSpace(pair), "=")
			if name == config.Session.Cookie && len(value) <= 256 {
				return value
			}
		}
	}

	return ""
}

// removeHeaders takes away what only a session may set.
func removeHeaders() {
	for _, name := range httpwasm.HeaderNames(httpwasm.Request) {
		if config.Session.reserved[folded(name)] {
			httpwasm.RemoveHeader(httpwasm.Request, name)
		}
	}
}

// folded is a name as CGI and its like tell names apart: X_User is X-User there.
func folded(name string) string {
	return strings.ReplaceAll(strings.ToLower(name), "_", "-")
}
