// Package client sends requests exactly as a test words them, over HTTP/1.1 byte by byte, and over HTTP/2 and HTTP/3
// as far as a client library lets it.
package client

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/quic-go/quic-go/http3"
)

// Timeout bounds every exchange.
const Timeout = 20 * time.Second

// Names of protocols, as http.Response.Proto says them.
const (
	HTTP1 = "HTTP/1.1"
	HTTP2 = "HTTP/2.0"
	HTTP3 = "HTTP/3.0"
)

// Request is one request. The zero value is GET /.
type Request struct {
	Method, Target string
	// Host is the authority; the client fills in that of the endpoint.
	Host string
	// Header are lines, "Name: value".
	Header []string
	// Body is sent with its length. With Chunks it is sent without: as chunks of these sizes, the last one taking
	// the rest (over HTTP/2 and HTTP/3 as so many writes).
	Body   []byte
	Chunks []int
	// HasBody sends the length of an empty body too.
	HasBody bool
	// Version is the version in the request line of HTTP/1; without Host, no Host line is sent in HTTP/1.0.
	Version string
}

// Response is what came back.
type Response struct {
	Status  int
	Proto   string
	Header  http.Header
	Length  int64
	Body    []byte
	Trailer http.Header
	// Err says what cut the response short. Status is 0 when there was none at all.
	Err error
	// Rest is what followed the response on an HTTP/1 connection.
	Rest []byte
}

// Lines are the values of one header as "a | b", or "(none)".
func Lines(header http.Header, name string) string {
	values := header.Values(name)
	if len(values) == 0 {
		return "(none)"
	}

	return strings.Join(values, " | ")
}

// Client sends requests to one endpoint over one protocol.
type Client interface {
	Do(ctx context.Context, r Request) Response
	Close()
}

func (r Request) withDefaults() Request {
	if r.Method == "" {
		r.Method = http.MethodGet
	}
	if r.Target == "" {
		r.Target = "/"
	}
	if r.Version == "" {
		r.Version = HTTP1
	}

	return r
}

func (r Request) hasBody() bool { return r.HasBody || r.Chunks != nil || len(r.Body) > 0 }

// H1 opens a connection for every request.
type H1 struct{ Addr string }

// Close does nothing: no connection is kept.
func (H1) Close() {}

// Head is the request without its body, as it is sent.
func (r Request) Head() []byte {
	r = r.withDefaults()
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s %s\r\n", r.Method, r.Target, r.Version)
	if r.Host != "" {
		fmt.Fprintf(&b, "Host: %s\r\n", r.Host)
	}
	for _, line := range r.Header {
		fmt.Fprintf(&b, "%s\r\n", line)
	}
	switch {
	case r.Chunks != nil:
		b.WriteString("Transfer-Encoding: chunked\r\n")
	case r.hasBody():
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(r.Body))
	}
	if r.Version == HTTP1 {
		b.WriteString("Connection: close\r\n")
	}
	b.WriteString("\r\n")

	return b.Bytes()
}

// Do sends and waits for the whole response.
func (c H1) Do(ctx context.Context, r Request) Response {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()

	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", c.Addr)
	if err != nil {
		return Response{Err: err}
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()

	// A server may answer, and even close, before it has read everything.
	go func() {
		if _, err := conn.Write(r.Head()); err != nil {
			return
		}
		for piece := range r.pieces() {
			if r.Chunks != nil {
				piece = fmt.Appendf(nil, "%x\r\n%s\r\n", len(piece), piece)
			}
			if _, err := conn.Write(piece); err != nil {
				return
			}
		}
		if r.Chunks != nil {
			_, _ = conn.Write([]byte("0\r\n\r\n"))
		}
	}()

	return ReadResponse(bufio.NewReader(conn), r.withDefaults().Method)
}

// ReadResponse reads one HTTP/1 response to its end.
func ReadResponse(in *bufio.Reader, method string) Response {
	for {
		res, err := http.ReadResponse(in, &http.Request{Method: method})
		if err != nil {
			return Response{Err: plain(err)}
		}
		if res.StatusCode >= 200 || res.StatusCode == http.StatusSwitchingProtocols {
			r := finish(res)
			r.Rest, _ = in.Peek(in.Buffered())
			return r
		}
	}
}

func finish(res *http.Response) Response {
	body, err := io.ReadAll(res.Body)
	res.Body.Close()

	return Response{
		Status: res.StatusCode, Proto: res.Proto, Header: res.Header, Length: res.ContentLength,
		Body: body, Trailer: res.Trailer, Err: plain(err),
	}
}

// plain takes addresses and other accidents out of an error.
func plain(err error) error {
	var network net.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &network) && network.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return errors.New("timed out")
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed),
		strings.Contains(err.Error(), "connection reset"), strings.Contains(err.Error(), "stream error"),
		strings.Contains(err.Error(), "H3_"), strings.Contains(err.Error(), "broken pipe"):
		return errors.New("cut short")
	default:
		return err
	}
}

// pieces are the body as it is split.
func (r Request) pieces() func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		rest := r.Body
		for _, n := range r.Chunks {
			n = min(n, len(rest))
			if n > 0 && !yield(rest[:n]) {
				return
			}
			rest = rest[n:]
		}
		if len(rest) > 0 {
			yield(rest)
		}
	}
}

// Library sends through a RoundTripper: HTTP/2 or HTTP/3.
type Library struct {
	Addr      string
	Transport http.RoundTripper
	Closer    func()
}

// NewH2 speaks HTTP/2 over TLS.
func NewH2(addr string, config *tls.Config) Library {
	t := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true, DisableCompression: true}

	return Library{addr, t, t.CloseIdleConnections}
}

// NewH3 speaks HTTP/3.
func NewH3(addr string, config *tls.Config) Library {
	t := &http3.Transport{TLSClientConfig: config, DisableCompression: true}

	return Library{addr, t, func() { t.Close() }}
}

// Close closes idle connections.
func (c Library) Close() { c.Closer() }

// Do sends and waits for the whole response.
func (c Library) Do(ctx context.Context, r Request) Response {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()

	r = r.withDefaults()
	req := (&http.Request{
		Method: r.Method,
		// As Opaque the target is sent as it is.
		URL:    &url.URL{Scheme: "https", Host: c.Addr, Opaque: r.Target},
		Host:   r.Host,
		Header: http.Header{"User-Agent": nil},
	}).WithContext(ctx)
	// Two slashes in front are an authority to package url.
	if strings.HasPrefix(r.Target, "//") {
		req.URL.Opaque = ""
		req.URL.Path, req.URL.RawQuery, _ = strings.Cut(r.Target, "?")
	}
	for _, line := range r.Header {
		name, value, _ := strings.Cut(line, ":")
		req.Header[name] = append(req.Header[name], strings.TrimSpace(value))
	}
	if r.hasBody() {
		if r.Chunks != nil {
			in, out := io.Pipe()
			go func() {
				for piece := range r.pieces() {
					if _, err := out.Write(piece); err != nil {
						return
					}
				}
				out.Close()
			}()
			req.Body, req.ContentLength = in, -1
		} else {
			req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(r.Body)), int64(len(r.Body))
		}
	}

	res, err := c.Transport.RoundTrip(req)
	if err != nil {
		return Response{Err: plain(err)}
	}

	return finish(res)
}
