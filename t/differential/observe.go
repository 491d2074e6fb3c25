package differential

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"

	"ngx-http-wasm-handler/conformance/client"
)

// observation is everything that one host did with a trial, as text by what it is about.
type observation map[string]string

// backend answers every request of a trial with its answer and keeps what it got.
type backend struct {
	mu     sync.Mutex
	answer answer
	seen   []observation
}

func (b *backend) begin(a answer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answer, b.seen = a, nil
}

func (b *backend) end() []observation {
	b.mu.Lock()
	defer b.mu.Unlock()

	return b.seen
}

func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	o := observation{
		"method at the backend": r.Method, "URI at the backend": r.RequestURI, "Host at the backend": r.Host,
		"body at the backend": sum(body, err),
	}
	o.header("at the backend", r.Header)

	b.mu.Lock()
	b.seen = append(b.seen, o)
	a := b.answer
	b.mu.Unlock()

	for _, line := range a.header {
		name, value, _ := strings.Cut(line, ":")
		w.Header().Add(name, strings.TrimSpace(value))
	}
	if a.length {
		w.Header().Set("Content-Length", fmt.Sprint(a.size))
	}
	if a.status != 0 {
		w.WriteHeader(a.status)
	}
	if r.Method == http.MethodHead {
		return
	}
	body = filler(a.size)
	for piece := range slices.Chunk(body, max(1, len(body)/max(1, a.pieces))) {
		_, _ = w.Write(piece)
		if a.pieces > 0 {
			// Not every host lets it through.
			_ = http.NewResponseController(w).Flush()
		}
	}
}

// filler is a response body of that size; every guest's step ends at another byte of it.
func filler(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * i >> 7)
	}

	return b
}

// cut is how the sum of a body ends that did not.
const cut = ", then cut"

func sum(body []byte, err error) string {
	text := fmt.Sprintf("%d bytes, sha256 %.12x", len(body), sha256.Sum256(body))
	if err != nil {
		text += cut
	}

	return text
}

// framing is up to each host and hop, and what it comes to is compared as the body. Date and Server say who sent it.
var framing = []string{"Date", "Server", "Connection", "Content-Length", "Transfer-Encoding"}

func (o observation) header(where string, h http.Header) {
	for name, values := range h {
		if !slices.Contains(framing, name) {
			o["header "+name+" "+where] = fmt.Sprintf("%q", values)
		}
	}
}

// observe sends a trial to a guest.
func observe(c client.Client, authority string, b *backend, t trial) observation {
	b.begin(t.answer)
	send := t.send
	send.Host = authority
	send.Target = strings.Replace(send.Target, "AUTHORITY", authority, 1)
	res := c.Do(context.Background(), send)

	o := observation{"status": fmt.Sprint(res.Status)}
	if res.Status == 0 {
		o["status"] = "no response"
	} else {
		o["response body"] = sum(res.Body, res.Err)
		o.header("of the response", res.Header)
	}

	seen := b.end()
	o["requests at the backend"] = fmt.Sprint(len(seen))
	if len(seen) > 0 {
		maps.Copy(o, seen[0])
	}

	return o
}

// difference is one thing that the hosts did differently.
type difference struct {
	about, ours, theirs string
}

func (d difference) String() string {
	return fmt.Sprintf("%s: module %s, reference host %s", d.about, d.ours, d.theirs)
}

const (
	nothing = "(nothing)"
	// refused is the one difference when a host answers what the other one gives to the backend.
	refused = "answered without the backend"
)

// refusals are how nginx answers a request that it does not like; no backend and no guest here says so.
var refusals = map[string]bool{"400": true, "405": true}

func differences(ours, theirs observation) []difference {
	const requests = "requests at the backend"
	if ours[requests] != theirs[requests] || ours["status"] != theirs["status"] && refusals[ours["status"]] {
		return []difference{{refused, ours["status"], theirs["status"]}}
	}

	var list []difference
	all := maps.Clone(ours)
	maps.Copy(all, theirs)
	for _, about := range slices.Sorted(maps.Keys(all)) {
		a, b := ours[about], theirs[about]
		if a == "" {
			a = nothing
		}
		if b == "" {
			b = nothing
		}
		if a != b {
			list = append(list, difference{about, a, b})
		}
	}

	return list
}
