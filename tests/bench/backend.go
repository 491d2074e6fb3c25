package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Reply is what a peer answered.
type Reply struct {
	Status int
	Header http.Header
	Body   []byte
}

// echoed compares a line of what the echo backend saw.
func (r *Reply) echoed(key, want string) error {
	for line := range strings.Lines(string(r.Body)) {
		if got, found := strings.CutPrefix(strings.TrimSuffix(line, "\n"), key+": "); found {
			if got != want {
				return fmt.Errorf("the backend got %s %q, expected %q", key, got, want)
			}
			return nil
		}
	}

	return fmt.Errorf("no answer of the backend but status %d, %.80q", r.Status, r.Body)
}

// startEcho is a backend that answers with what reached it.
func startEcho() (string, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	go func() {
		_ = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return
			}
			fmt.Fprintf(w, "uri: %s\nclient: %s\nbody: %s\n", r.RequestURI, r.Header.Get("X-Client"), digest(body))
		}))
	}()

	return l.Addr().String(), nil
}

func digest(body []byte) string {
	sum := sha256.Sum256(body)
	return fmt.Sprintf("%d bytes, %s", len(body), hex.EncodeToString(sum[:8]))
}

// ask sends the request of a job once.
func ask(port int, job *Job) (*Reply, error) {
	method, body := http.MethodGet, io.Reader(http.NoBody)
	if job.Post > 0 {
		method, body = http.MethodPost, strings.NewReader(string(requestBody(job.Post)))
	}
	req, err := http.NewRequest(method, "http://127.0.0.1:"+strconv.Itoa(port)+job.Path, body)
	if err != nil {
		return nil, err
	}
	for name, value := range requestHeaders {
		req.Header.Set(name, value)
	}
	transport := &http.Transport{DisableCompression: true, DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: transport, Timeout: 20 * time.Second}).Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)

	return &Reply{Status: resp.StatusCode, Header: resp.Header, Body: text}, err
}

var requestHeaders = map[string]string{"User-Agent": agent, "Accept": accept, "X-Forwarded-For": forwarded}

// slowOrders tell the slow backend its ports: one for requests, which it holds, and one to be asked how many it holds
// (GET /) and to let them go (GET /release).
type slowOrders struct{ Requests, Control int }

// serveSlow holds every request until it is told to answer. A process of its own: it needs a descriptor for each.
func serveSlow(orders io.Reader) error {
	var o slowOrders
	if err := json.NewDecoder(orders).Decode(&o); err != nil {
		return err
	}
	var held atomic.Int64
	gate := make(chan struct{})
	requests := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		held.Add(1)
		<-gate
		held.Add(-1)
		_, _ = io.WriteString(w, "ok\n")
	})
	control := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/release" {
			close(gate)
		}
		fmt.Fprint(w, held.Load())
	})
	failed := make(chan error)
	for port, handler := range map[int]http.Handler{o.Requests: requests, o.Control: control} {
		l, err := net.Listen("tcp4", "127.0.0.1:"+strconv.Itoa(port))
		if err != nil {
			return err
		}
		go func() { failed <- http.Serve(l, handler) }()
	}

	return <-failed
}
