// Package host runs many guests at once on one http-wasm host, each in front of a backend of its own, for the length of
// a test.
package host

import (
	"bytes"
	"net/http"
	"sync"
	"testing"

	"ngx-http-wasm-handler/conformance/client"
)

// Deployment is one guest and what it stands in front of.
type Deployment struct {
	// Name is the label of the guest. Requests for the host NAME.test reach it.
	Name string
	Wasm []byte
	// Config is what get_config gives; nil is none.
	Config []byte
	// LogLevel is the lowest level that is logged: debug, info (also if empty), warn, error.
	LogLevel string
	// Backend is the next handler.
	Backend http.Handler
	// Default also gets the requests without a host.
	Default bool
}

// Authority is the host that requests are sent to.
func (d *Deployment) Authority() string { return d.Name + ".test" }

// Running are deployed guests.
type Running interface {
	// Clients are one client for each protocol that the host speaks, by the name of the protocol.
	Clients() map[string]client.Client
	// Log is what the host has logged for a deployment so far: lines of the guest, and why a call ended.
	Log(name string) string
	// Stop ends the host. The log is then complete.
	Stop()
}

// Host is an implementation of http-wasm.
type Host interface {
	Name() string
	// Protocols are those it speaks here, and why not for the others.
	Protocols() (spoken []string, others map[string]string)
	// Start deploys guests.
	Start(t testing.TB, deployments []*Deployment) Running
	// Refusal is why a guest cannot be loaded, or nothing.
	Refusal(t testing.TB, d *Deployment) string
}

// buffer is a log in memory.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()

	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()

	return b.b.String()
}
