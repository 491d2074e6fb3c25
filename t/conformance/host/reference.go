package host

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/http-wasm/http-wasm-host-go/api"
	"github.com/http-wasm/http-wasm-host-go/handler"
	wasm "github.com/http-wasm/http-wasm-host-go/handler/nethttp"

	"ngx-http-wasm-handler/conformance/client"
)

// Reference is http-wasm-host-go on net/http. The backend is its next handler in the same process, as in the official
// TCK: behind a reverse proxy of Go's it does worse.
type Reference struct{}

// Name implements Host.
func (Reference) Name() string { return "http-wasm-host-go v0.7.0 on net/http" }

// Protocols implements Host.
func (Reference) Protocols() ([]string, map[string]string) {
	return []string{client.HTTP1, client.HTTP2}, map[string]string{client.HTTP3: "net/http has no HTTP/3 server"}
}

// Refusal implements Host.
func (Reference) Refusal(t testing.TB, d *Deployment) string {
	m, err := wasm.NewMiddleware(t.Context(), d.Wasm, options(d, new(buffer))...)
	if err != nil {
		return err.Error()
	}
	m.Close(t.Context())

	return ""
}

func options(d *Deployment, out *buffer) []handler.Option {
	options := []handler.Option{handler.Logger(logger{out, minimum[d.LogLevel]})}
	if d.Config != nil {
		options = append(options, handler.GuestConfig(d.Config))
	}

	return options
}

var minimum = map[string]api.LogLevel{
	"": api.LogLevelInfo, "debug": api.LogLevelDebug, "info": api.LogLevelInfo,
	"warn": api.LogLevelWarn, "error": api.LogLevelError,
}

type logger struct {
	out     *buffer
	minimum api.LogLevel
}

func (l logger) IsEnabled(level api.LogLevel) bool {
	return level >= l.minimum && level < api.LogLevelNone
}

func (l logger) Log(_ context.Context, level api.LogLevel, message string) {
	if l.IsEnabled(level) {
		fmt.Fprintf(l.out, "[%s] %s\n", [...]string{"debug", "info", "warn", "error"}[level+1], message)
	}
}

type reference struct {
	logs       map[string]*buffer
	plain, tls *httptest.Server
	middleware []wasm.Middleware
}

// Start implements Host.
func (Reference) Start(t testing.TB, deployments []*Deployment) Running {
	t.Helper()

	r := &reference{logs: make(map[string]*buffer)}
	t.Cleanup(r.Stop)

	for _, d := range deployments {
		r.logs[d.Name] = new(buffer)
	}
	// Each server has guests of its own: what one protocol did to an instance is nothing to the other.
	r.plain = httptest.NewUnstartedServer(r.handler(deployments))
	r.plain.Config.ErrorLog = log.New(io.Discard, "", 0)
	r.plain.Start()
	r.tls = httptest.NewUnstartedServer(r.handler(deployments))
	r.tls.EnableHTTP2 = true
	r.tls.Config.ErrorLog = log.New(io.Discard, "", 0)
	r.tls.StartTLS()

	return r
}

func (r *reference) handler(deployments []*Deployment) http.Handler {
	handlers := make(map[string]http.Handler)
	for _, d := range deployments {
		out := r.logs[d.Name]
		m, err := wasm.NewMiddleware(context.Background(), d.Wasm, options(d, out)...)
		if err != nil {
			// The requests to this guest find nobody: its cases fail and say why.
			fmt.Fprintf(out, "not loaded: %v\n", err)
			continue
		}
		r.middleware = append(r.middleware, m)
		h := logPanics(out, m.NewHandler(context.Background(), d.Backend))
		handlers[d.Authority()] = h
		if d.Default {
			handlers[""] = h
		}
	}

	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if h := handlers[req.Host]; h != nil {
			h.ServeHTTP(w, req)
		} else {
			http.Error(w, "the guest was not loaded", http.StatusServiceUnavailable)
		}
	})
}

// logPanics notes how a guest's call ended where the host lets net/http see it.
func logPanics(out *buffer, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if p := recover(); p != nil {
				fmt.Fprintf(out, "panic: %v\n%s\n", p, debug.Stack())
				panic(http.ErrAbortHandler)
			}
		}()
		next.ServeHTTP(w, r)
	})
}

func (r *reference) Clients() map[string]client.Client {
	roots := r.tls.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs

	return map[string]client.Client{
		client.HTTP1: client.H1{Addr: address(r.plain.Listener)},
		client.HTTP2: client.NewH2(address(r.tls.Listener), &tls.Config{RootCAs: roots}),
	}
}

func address(l net.Listener) string { return l.Addr().String() }

func (r *reference) Log(name string) string { return strings.ToValidUTF8(r.logs[name].String(), "?") }

func (r *reference) Stop() {
	for _, s := range []*httptest.Server{r.plain, r.tls} {
		if s != nil {
			s.CloseClientConnections()
			s.Close()
		}
	}
	for _, m := range r.middleware {
		m.Close(context.Background())
	}
	r.plain, r.tls, r.middleware = nil, nil, nil
}
