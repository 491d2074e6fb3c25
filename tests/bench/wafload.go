package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strconv"
	"sync"
	"time"
)

// Request is one request of a job of the firewall, and the answer that it gets.
type Request struct {
	Method, Path, Type, Body string
	Status                   int
	// Answer is the body; empty where it does not matter.
	Answer string
}

// browser is what a browser sends along: a firewall looks at all of it.
var browser = map[string]string{
	"User-Agent":      "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
	"Accept":          "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
	"Accept-Language": "en-GB,en;q=0.5",
	"Cookie":          "session=4f1d0c7a9b3e; theme=dark",
}

// send sends the request once. It is an error when the answer is another than the one expected.
func (r *Request) send(client *http.Client, port int) error {
	status, body, err := r.answer(client, port)
	if err != nil {
		return err
	}
	if status != r.Status || r.Answer != "" && string(body) != r.Answer {
		return fmt.Errorf("%s %.60s: status %d, %d bytes (%.60q), expected status %d and %d bytes", r.Method, r.Path, status,
			len(body), body, r.Status, len(r.Answer))
	}

	return nil
}

func (r *Request) answer(client *http.Client, port int) (status int, body []byte, err error) {
	req, err := http.NewRequest(r.Method, "http://127.0.0.1:"+strconv.Itoa(port)+r.Path, bytes.NewReader([]byte(r.Body)))
	if err != nil {
		return 0, nil, err
	}
	for name, value := range browser {
		req.Header.Set(name, value)
	}
	if r.Type != "" {
		req.Header.Set("Content-Type", r.Type)
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)

	return resp.StatusCode, body, err
}

func newClient(conns int) *http.Client {
	return &http.Client{Timeout: 2 * time.Minute, Transport: &http.Transport{
		DisableCompression: true, MaxIdleConnsPerHost: conns, DisableKeepAlives: conns == 0,
	}}
}

// loadOrders are what the subcommand "load" is told: to send a request on some connections for a while, each the next one
// when it has its answer. What is under way at the end is waited for.
type loadOrders struct {
	Request
	Port, Conns, Millis int
}

// loadResult is what it says: how long each request took, in microseconds.
type loadResult struct {
	Micros []int64
	Error  string
}

// serveLoad is that subcommand. wrk knows no bodies to compare, and corrects the latencies that it has measured.
func serveLoad(orders io.Reader, results io.Writer) error {
	var o loadOrders
	if err := json.NewDecoder(orders).Decode(&o); err != nil {
		return err
	}
	client := newClient(o.Conns)
	var result loadResult
	var mutex sync.Mutex
	var all sync.WaitGroup
	until := time.Now().Add(time.Duration(o.Millis) * time.Millisecond)
	for range o.Conns {
		all.Go(func() {
			for time.Now().Before(until) {
				began := time.Now()
				err := o.send(client, o.Port)
				took := time.Since(began).Microseconds()
				mutex.Lock()
				result.Micros = append(result.Micros, took)
				if err != nil {
					result.Error = err.Error()
				}
				mutex.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	all.Wait()

	return json.NewEncoder(results).Encode(result)
}

// load has a process on the load's core send a request to a port for a while.
func load(s *Settings, request *Request, port, conns, millis int) ([]int64, error) {
	orders, err := json.Marshal(loadOrders{*request, port, conns, millis})
	if err != nil {
		return nil, err
	}
	cmd := pinned(s.LoadCPU, s.self, "load")
	cmd.Stdin = bytes.NewReader(orders)
	out, err := cmd.Output()
	if err != nil {
		if exit, ok := err.(*exec.ExitError); ok {
			err = fmt.Errorf("%w\n%s", err, exit.Stderr)
		}
		return nil, fmt.Errorf("load: %w", err)
	}
	var result loadResult
	if err := json.Unmarshal(out, &result); err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	if result.Error != "" {
		return nil, fmt.Errorf("under load: %s", result.Error)
	}

	return result.Micros, nil
}
