// Package cell asks for one source through the guests of one server in one way, and knows what may be answered: what the same
// nginx answers where there is no guest, with what the guests change.
package cell

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"ngx-http-wasm-handler/matrix/site"
	"ngx-http-wasm-handler/matrix/wire"
)

// Client is a way to ask.
type Client struct {
	Name   string
	header []wire.Field
	// head asks with HEAD.
	head bool
	// ranged asks for ranges; conditional names the validator of the plain response that its condition is made of, and
	// the header that the condition goes into.
	ranged      bool
	conditional [2]string
	ask         func(e *Environment, r wire.Request, again func() wire.Request) Reply
	// tunnels: it can have its connection become one.
	tunnels bool
	H3      bool
}

// Reply is an answer, and what became of those after it on the same connection.
type Reply struct {
	wire.Answer
	// Second is another answer to the same, for clients that do not wait.
	Second *wire.Answer
	// Next says what was wrong with the next request.
	Next error
}

// Environment is what clients need to know of the server.
type Environment struct {
	Addrs    []string
	Patience time.Duration
	Site     *site.Site
}

func (e *Environment) deadline() time.Time { return time.Now().Add(e.Patience) }

var (
	acceptGzip = wire.Field{Name: "Accept-Encoding", Value: "gzip"}
	someRange  = wire.Field{Name: "Range", Value: "bytes=1000-1999"}
)

// Clients are all of them.
var Clients = []Client{
	{Name: "1.0", ask: http10},
	{Name: "1.1", ask: http1, tunnels: true},
	{Name: "pipelined", ask: pipelined},
	{Name: "gzip", ask: http1, header: []wire.Field{acceptGzip}},
	{Name: "slow", ask: slow, tunnels: true},
	{Name: "slow-gzip", ask: slow, header: []wire.Field{acceptGzip}},
	{Name: "head", ask: http1, head: true},
	{Name: "pipelined-head", ask: pipelined, head: true},
	{Name: "range", ask: http1, ranged: true, header: []wire.Field{someRange}},
	{Name: "ranges", ask: http1, ranged: true, header: []wire.Field{{Name: "Range", Value: "bytes=0-99,5000-5099"}}},
	{Name: "no-range", ask: http1, ranged: true, header: []wire.Field{{Name: "Range", Value: "bytes=9999999-"}}},
	{Name: "slow-range", ask: slow, ranged: true, header: []wire.Field{{Name: "Range", Value: "bytes=1000-"}}},
	{Name: "if-none-match", ask: http1, conditional: [2]string{"etag", "If-None-Match"}},
	{Name: "if-modified-since", ask: http1, conditional: [2]string{"last-modified", "If-Modified-Since"}},
	{Name: "if-match", ask: http1, conditional: [2]string{"etag", "If-Match"}},
	{Name: "if-match-other", ask: http1, conditional: [2]string{"", "If-Match"}},
	{Name: "h2", ask: h2(1 << 20)},
	{Name: "h2-gzip", ask: h2(1 << 20), header: []wire.Field{acceptGzip}},
	{Name: "h2-head", ask: h2(1 << 20), head: true},
	{Name: "h2-range", ask: h2(1 << 20), ranged: true, header: []wire.Field{someRange}},
	{Name: "h2-window-0", ask: h2(0)},
	{Name: "h3", ask: h3, H3: true},
	{Name: "h3-gzip", ask: h3, H3: true, header: []wire.Field{acceptGzip}},
	{Name: "h3-head", ask: h3, H3: true, head: true},
	{Name: "h3-range", ask: h3, H3: true, ranged: true, header: []wire.Field{someRange}},
}

// Asks says whether it has anything to ask of a source.
func (c Client) Asks(s site.Source) bool {
	get := s.Method == ""
	switch s.Tags {
	case "trickle":
		if !slices.Contains([]string{"1.1", "head", "if-none-match", "h2", "h2-head"}, c.Name) {
			return false
		}
	case "hurry":
		if !slices.Contains([]string{"1.1", "gzip", "head", "range", "h2"}, c.Name) {
			return false
		}
	}
	if s.Chunked && (c.Name == "1.0" || c.H3) {
		return false
	}

	return (get || !c.head && !c.ranged && c.conditional[1] == "") && (!s.Upgrade || c.tunnels)
}

// request is that for the n-th path of a source. Without any, it asks neither for ranges nor on a condition.
func (c Client) request(server string, s site.Source, path string, all bool, validator string) wire.Request {
	r := wire.Request{Method: s.Method, Target: path, Host: server, Body: s.Body, Chunked: s.Chunked}
	if r.Method == "" {
		r.Method = "GET"
	}
	if c.head {
		r.Method = "HEAD"
	}
	for _, f := range c.header {
		if all || f.Name != "Range" {
			r.Header = append(r.Header, f)
		}
	}
	if all && c.conditional[1] != "" {
		if validator == "" {
			validator = `"other"`
		}
		r.Header = append(r.Header, wire.Field{Name: c.conditional[1], Value: validator})
	}
	if s.Upgrade {
		r.Header = append(r.Header, wire.Field{Name: "Connection", Value: "upgrade"}, wire.Field{Name: "Upgrade", Value: "echo"})
	}
	if strings.HasPrefix(s.Tags, "grpc") {
		r.Header = append(r.Header, wire.Field{Name: "TE", Value: "trailers"}, wire.Field{Name: "Content-Type", Value: "application/grpc"})
	}

	return r
}

func canary(host string) wire.Request {
	return wire.Request{Method: "GET", Target: site.CanaryPath, Host: host}
}

func isCanary(a wire.Answer) error {
	switch {
	case a.Err != nil:
		return fmt.Errorf("the next request on the connection: %w", a.Err)
	case a.Status != 200 || string(a.Body) != site.Canary:
		return fmt.Errorf("the next request on the connection got %v", a)
	default:
		return nil
	}
}

func http10(e *Environment, r wire.Request, _ func() wire.Request) Reply {
	r.Version = "HTTP/1.0"
	conn, err := wire.Dial(e.Addrs[0], e.deadline())
	if err != nil {
		return Reply{Answer: wire.Answer{Err: err}}
	}
	defer conn.Close()
	go conn.Write(r.Bytes())
	a := Reply{Answer: conn.Answer(r)}
	if a.Err == nil {
		a.Close = true
		a.Next = conn.Ended()
	}

	return a
}

func http1(e *Environment, r wire.Request, _ func() wire.Request) Reply {
	conn, err := wire.Dial(e.Addrs[0], e.deadline())
	if err != nil {
		return Reply{Answer: wire.Answer{Err: err}}
	}

	return onConnection(conn, r)
}

func slow(e *Environment, r wire.Request, _ func() wire.Request) Reply {
	conn, err := wire.DialSlow(e.Addrs[0], e.deadline())
	if err != nil {
		return Reply{Answer: wire.Answer{Err: err}}
	}

	return onConnection(conn, r)
}

func onConnection(conn *wire.Conn, r wire.Request) Reply {
	defer conn.Close()
	go conn.Write(r.Bytes())
	a := Reply{Answer: conn.Answer(r)}
	switch {
	case a.Err != nil:
	case a.Framing == wire.Tunnel:
		a.tunnel(conn)
	case a.Close:
		a.Next = conn.Ended()
	default:
		next := canary(r.Host)
		go conn.Write(next.Bytes())
		a.Next = isCanary(conn.Answer(next))
	}

	return a
}

const echoed = "echo this\n"

func (a *Reply) tunnel(conn *wire.Conn) {
	_, err := conn.Write([]byte(echoed))
	if err == nil {
		a.Body, err = conn.Take(len(site.Greeting + echoed))
	}
	if err != nil {
		a.Next = fmt.Errorf("the tunnel: %w", err)
	}
}

// pipelined sends the request, another one and the same once more at once.
func pipelined(e *Environment, r wire.Request, again func() wire.Request) Reply {
	conn, err := wire.Dial(e.Addrs[0], e.deadline())
	if err != nil {
		return Reply{Answer: wire.Answer{Err: err}}
	}
	defer conn.Close()
	between := canary(r.Host)
	third := again()
	text := append(append(r.Bytes(), between.Bytes()...), third.Bytes()...)
	go conn.Write(text)

	a := Reply{Answer: conn.Answer(r)}
	if a.Err != nil {
		return a
	}
	if a.Close {
		a.Next = conn.Ended()
		return a
	}
	if a.Next = isCanary(conn.Answer(between)); a.Next != nil {
		return a
	}
	second := conn.Answer(third)
	if second.Close && second.Err == nil {
		a.Next = conn.Ended()
	}
	if third.Target != site.CanaryPath {
		a.Second = &second
	} else if a.Next == nil {
		a.Next = isCanary(second)
	}

	return a
}

func h2(window uint32) func(e *Environment, r wire.Request, _ func() wire.Request) Reply {
	return func(e *Environment, r wire.Request, _ func() wire.Request) Reply {
		conn, err := wire.DialH2(e.Addrs[1], e.deadline(), window)
		if err != nil {
			return Reply{Answer: wire.Answer{Err: err}}
		}
		defer conn.Close()
		if i := len(r.Header) - 2; i >= 0 && r.Header[i].Name == "Connection" {
			r.Header = r.Header[:i]
		}
		id, err := conn.Send(r)
		if err != nil {
			return Reply{Answer: wire.Answer{Err: err}}
		}
		a := Reply{Answer: conn.Answer(id)}
		if a.Close || a.Err != nil && !errors.Is(a.Err, wire.ErrClosed) && !errors.Is(a.Err, wire.ErrTruncated) {
			return a
		}
		// A stream may end, the connection does not.
		id, err = conn.Send(canary(r.Host))
		if err == nil {
			err = isCanary(conn.Answer(id))
		}
		a.Next = err

		return a
	}
}

func h3(e *Environment, r wire.Request, _ func() wire.Request) Reply {
	return Reply{Answer: wire.H3(e.Addrs[2], e.Site.Identity.Roots, e.deadline(), r)}
}
