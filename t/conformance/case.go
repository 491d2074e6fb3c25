// Package conformance is a conformance suite for hosts of the http_handler ABI, wider than the official TCK: every
// function in every phase, on requests and responses, misuse included.
//
// It looks at a host from outside. A case is a guest, the requests that are sent to it and what has to come of them: at
// the client, at the backend behind the guest, and inside the guest, which traps when it finds something else. Only what
// cannot be seen there, such as why a call ended, is looked up in the log of the host.
package conformance

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"ngx-http-wasm-handler/conformance/client"
	"ngx-http-wasm-handler/conformance/guest"
)

// Case is one rule of the ABI and how it shows.
type Case struct {
	// ID is unique: function/rule or subject/rule.
	ID string
	// Doc is the rule, in one line.
	Doc string
	// Ref names where the rule comes from: a heading of the specification (https://http-wasm.io/http-handler-abi/),
	// an RFC, or "reference host" for what the specification leaves open and http-wasm-host-go defines.
	Ref string
	// Decision is set where neither says so and we do, and gives the reason. A host that differs there is not wrong.
	Decision string
	// Varies is set where the reference host passes or fails by chance, and says what that depends on.
	Varies string

	guest.Guest
	// Config is what get_config gives; none if nil.
	Config *string
	// LogLevel is the lowest level that is logged, info if empty.
	LogLevel string
	// Default is set for the one guest that also gets requests without a host.
	Default bool

	// Send is the request; Reply is what the backend answers to it.
	Send  client.Request
	Reply Reply
	Want  Want
	// Do replaces the one request of Send: it sends what it likes.
	Do func(*Run)
	// Finally looks at the log of all runs after the host has ended.
	Finally func(*Run)

	// Refused cases have a guest that must not load; the text is part of the reason given by our module.
	Refused string
	// Only names the protocols that can show the rule; all if empty. OnlyWhy says why not the others.
	Only    []string
	OnlyWhy string
}

// Reply is what the backend answers. The zero value is 200 with the body "NEXT".
type Reply struct {
	Status  int
	Header  []string
	Body    string
	NoBody  bool
	Trailer []string
	// Cut ends the connection after the body, of which more was promised.
	Cut bool
	// Handler replaces all of it.
	Handler http.HandlerFunc
}

// NextBody is the body of a backend that has nothing else to say.
const NextBody = "NEXT"

// Want is what has to come of a request.
type Want struct {
	// Status is 200 if zero.
	Status int
	// Body of the response; if empty, that of the backend or, where the guest answers, none. Nothing means none.
	Body string
	// Header and Trailer are values as client.Lines gives them.
	Header, Trailer map[string]string
	// Backend is what arrived at the backend. Whether anything did follows from the guest's result.
	Backend *Upstream
	// Log are parts of lines in the log.
	Log []string
	// Trap is the phase whose call has to end in a trap, and In the function that has to be named in the log.
	Trap Phase
	In   string
}

// Phase of a guest.
type Phase string

// Phases.
const (
	InRequest  Phase = "handle_request"
	InResponse Phase = "handle_response"
)

// A line may be written after the response, by the cleanup of the request.
const logTimeout = 10 * time.Second

const (
	// Nothing is an empty body, where an empty string means another default.
	Nothing = "\x00"
	// Absent are the lines of a header that is not there.
	Absent = "(none)"
)

// Upstream is a request as the backend got it. Empty fields are not compared.
type Upstream struct {
	Method, Target, Host string
	Header               map[string]string
	// Body is compared as a whole; Nothing is an empty one.
	Body string
	// Length is that of the request as it was announced.
	Length string
}

// Seen is a request that arrived at the backend.
type Seen struct {
	Method, Target, Host string
	Header               http.Header
	Length               int64
	Body                 []byte
	Err                  error
}

// backend is the next handler of one case.
type backend struct {
	c    *Case
	hook func(*http.Request)
	mu   sync.Mutex
	seen []Seen
}

func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	s := Seen{Method: r.Method, Target: r.RequestURI, Host: r.Host, Header: r.Header.Clone(),
		Length: r.ContentLength, Body: body, Err: err}
	b.mu.Lock()
	b.seen = append(b.seen, s)
	b.mu.Unlock()

	if b.hook != nil {
		b.hook(r)
	}
	reply := b.c.Reply
	if reply.Handler != nil {
		reply.Handler(w, r)
		return
	}
	text := reply.text()
	for _, line := range reply.Header {
		name, value, _ := strings.Cut(line, ":")
		w.Header().Add(name, strings.TrimSpace(value))
	}
	for _, line := range reply.Trailer {
		name, value, _ := strings.Cut(line, ":")
		w.Header().Add(http.TrailerPrefix+name, strings.TrimSpace(value))
	}
	if reply.Cut {
		w.Header().Set("Content-Length", fmt.Sprint(len(text)+1))
	}
	if reply.Status != 0 {
		w.WriteHeader(reply.Status)
	}
	_, _ = io.WriteString(w, text)
	if len(reply.Trailer) > 0 || reply.Cut {
		_ = http.NewResponseController(w).Flush()
	}
	if reply.Cut {
		panic(http.ErrAbortHandler)
	}
}

func (r Reply) text() string {
	switch {
	case r.NoBody:
		return ""
	case r.Body == "":
		return NextBody
	default:
		return r.Body
	}
}

func (b *backend) take() []Seen {
	b.mu.Lock()
	defer b.mu.Unlock()
	seen := b.seen
	b.seen = nil

	return seen
}

// Run is one case on one host over one protocol.
type Run struct {
	*Case
	Proto string
	// Ours is whether the host is the module, whose log has a known form.
	Ours bool

	client   client.Client
	backend  *backend
	host     string
	log      func() string
	logStart int
	// runs is how often the case was run, for Finally.
	runs     int
	failures []string
}

// Errorf notes a failure.
func (x *Run) Errorf(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if !slices.Contains(x.failures, text) {
		x.failures = append(x.failures, text)
	}
}

// Equal compares and notes a failure.
func (x *Run) Equal(what string, got, want any) {
	if got != want {
		x.Errorf("%s: got %s, expected %s", what, short(got), short(want))
	}
}

// short keeps a value printable on one line.
func short(v any) string {
	s, ok := v.(string)
	if !ok {
		return fmt.Sprint(v)
	}
	if len(s) > 80 {
		return fmt.Sprintf("%q… (%d bytes)", s[:60], len(s))
	}

	return fmt.Sprintf("%q", s)
}

// Request sends one request to the guest of the case.
func (x *Run) Request(r client.Request) client.Response {
	return x.RequestContext(context.Background(), r)
}

// RequestContext ends the request, as a client that goes away, when ctx ends.
func (x *Run) RequestContext(ctx context.Context, r client.Request) client.Response {
	if r.Host == "" && r.Version != "HTTP/1.0" {
		r.Host = x.host
	}

	return x.client.Do(ctx, r)
}

// Log is what was logged since the run began.
func (x *Run) Log() string { return x.log()[x.logStart:] }

// WaitLog waits until the log has a text so many times.
func (x *Run) WaitLog(text string, times int) {
	deadline := time.Now().Add(logTimeout)
	for strings.Count(x.Log(), text) < times {
		if time.Now().After(deadline) {
			x.Errorf("log: %q is there %d times, expected %d", text, strings.Count(x.Log(), text), times)
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Exchange sends a request and checks everything that is wanted of it.
func (x *Run) Exchange(send client.Request, want Want) client.Response {
	x.backend.take()
	res := x.Request(send)
	x.check(send, res, want)

	return res
}

func (x *Run) check(send client.Request, res client.Response, want Want) {
	before := len(x.failures)

	answers := x.Result == guest.Stop
	switch want.Trap {
	case InRequest:
		x.Equal("status", res.Status, http.StatusInternalServerError)
		answers = true
	case InResponse:
		if res.Status != http.StatusInternalServerError && res.Err == nil {
			x.Errorf("status: got %d and a whole response, expected 500 or a cut connection", res.Status)
		}
	default:
		if res.Err != nil && res.Status == 0 {
			x.Errorf("no response: %v", res.Err)
			break
		}
		x.Equal("status", res.Status, status(want.Status))
		if res.Err != nil {
			x.Errorf("body: %v", res.Err)
		}
		x.body(send, res, want, answers)
	}

	if want.Trap == "" && res.Status != 0 {
		for name, value := range want.Header {
			x.Equal("response header "+name, client.Lines(res.Header, name), value)
		}
		for name, value := range want.Trailer {
			x.Equal("trailer "+name, client.Lines(res.Trailer, name), value)
		}
	}

	seen := x.backend.take()
	switch {
	case answers && len(seen) > 0:
		x.Errorf("backend: got a request, expected none")
	case !answers && len(seen) != 1:
		x.Errorf("backend: got %d requests, expected 1", len(seen))
	case !answers && want.Backend != nil:
		x.upstream(seen[0], *want.Backend)
	}

	if want.In != "" {
		// The log is where our module says it, the reference host puts it into the response.
		if !x.Ours && !strings.Contains(string(res.Body)+x.Log(), want.In) {
			x.Errorf("neither log nor response name %s", want.In)
		}
		if x.Ours {
			x.WaitLog(want.In, 1)
		}
	}
	for _, text := range want.Log {
		x.WaitLog(text, 1)
	}

	if len(x.failures) > before && want.Trap == "" {
		x.explain(res)
	}
}

// explain adds what the guest complained about.
func (x *Run) explain(res client.Response) {
	for line := range strings.Lines(x.Log()) {
		if at := strings.Index(line, "check "); at >= 0 {
			text, _, _ := strings.Cut(line[at:], ", client: ")
			// Quoted like everything else: a guest may complain about any bytes.
			text = strconv.Quote(strings.TrimSpace(text))
			x.failures = slices.Insert(x.failures, 0, "guest: "+text[1:len(text)-1])
			return
		}
	}
}

func status(n int) int {
	if n == 0 {
		return http.StatusOK
	}

	return n
}

func (x *Run) body(send client.Request, res client.Response, want Want, answers bool) {
	text := want.Body
	switch {
	case text == Nothing:
		text = ""
	case text == "" && !answers && send.Method != http.MethodHead:
		text = x.Reply.text()
	}
	x.Equal("body", string(res.Body), text)
}

func (x *Run) upstream(got Seen, want Upstream) {
	if got.Err != nil {
		x.Errorf("backend: the body ended with: %v", got.Err)
	}
	if want.Method != "" {
		x.Equal("method at the backend", got.Method, want.Method)
	}
	if want.Target != "" {
		x.Equal("URI at the backend", got.Target, want.Target)
	}
	if want.Host != "" {
		x.Equal("Host at the backend", got.Host, want.Host)
	}
	for name, value := range want.Header {
		x.Equal("header "+name+" at the backend", client.Lines(got.Header, name), value)
	}
	if want.Body != "" {
		body := strings.TrimSuffix(want.Body, Nothing)
		x.Equal("body at the backend", string(got.Body), body)
	}
	if want.Length != "" {
		x.Equal("length at the backend", fmt.Sprint(got.Length), want.Length)
	}
}

// text of n bytes that no shift of itself equals.
func text(n int) string {
	var b bytes.Buffer
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "%d.", i)
	}

	return b.String()[:n]
}

func ptr(s string) *string { return &s }
