// Package wire speaks HTTP to a server byte by byte: it sends what it is told, and takes nothing for an answer that is
// not one.
package wire

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
)

// Field is a line of a header. Names of answers are in lower case.
type Field struct{ Name, Value string }

// Request is one request.
type Request struct {
	Method, Target, Host string
	Header               []Field
	Body                 []byte
	// Chunked: the body goes without its length.
	Chunked bool
	// Version is HTTP/1.1 if it is empty.
	Version string
}

// String is short.
func (r Request) String() string {
	text := r.Method + " " + r.Host + r.Target
	for _, f := range r.Header {
		text += fmt.Sprintf(" (%s: %s)", f.Name, f.Value)
	}

	return text
}

// Framing is how the end of a body was found.
type Framing string

// What a body ends with.
const (
	None    Framing = "no body"
	Length  Framing = "a length"
	Chunked Framing = "chunks"
	Close   Framing = "the end of the connection"
	Stream  Framing = "the end of the stream"
	Tunnel  Framing = "a tunnel"
)

// What may be wrong with an answer.
var (
	// ErrClosed: the connection or stream ended before the first byte of an answer.
	ErrClosed = errors.New("closed without an answer")
	// ErrTruncated: it ended within the body.
	ErrTruncated = errors.New("the body is cut short")
	// ErrTimeout: the deadline passed.
	ErrTimeout = errors.New("timed out")
	// ErrMalformed: no HTTP.
	ErrMalformed = errors.New("malformed")
)

// Answer is what came back for one request. Err says what was wrong; what had come is in the other fields.
type Answer struct {
	Status  int
	Header  []Field
	Body    []byte
	Trailer []Field
	Framing Framing
	// Close: the server says that the connection ends with this answer.
	Close bool
	Err   error
}

// Get is the first value of a header, "" if there is none.
func (a Answer) Get(name string) string {
	for _, f := range a.Header {
		if f.Name == name {
			return f.Value
		}
	}

	return ""
}

// Has says whether there is a header of that name.
func (a Answer) Has(name string) bool {
	return slices.ContainsFunc(a.Header, func(f Field) bool { return f.Name == name })
}

// Decoded is the body without its content coding.
func (a Answer) Decoded() ([]byte, error) {
	switch coding := a.Get("content-encoding"); {
	case coding == "" || len(a.Body) == 0:
		return a.Body, nil
	case coding == "gzip":
		in, err := gzip.NewReader(bytes.NewReader(a.Body))
		if err != nil {
			return a.Body, fmt.Errorf("no gzip: %w", err)
		}
		body, err := io.ReadAll(in)
		if err != nil {
			return body, fmt.Errorf("gzip: %w", err)
		}
		return body, nil
	default:
		return a.Body, fmt.Errorf("content-encoding %q", coding)
	}
}

// String is short.
func (a Answer) String() string {
	var b strings.Builder
	if a.Err != nil {
		fmt.Fprintf(&b, "[%v] ", a.Err)
	}
	if a.Status == 0 {
		return b.String() + "no answer"
	}
	fmt.Fprintf(&b, "%d", a.Status)
	for _, f := range a.Header {
		fmt.Fprintf(&b, " | %s: %s", f.Name, f.Value)
	}
	fmt.Fprintf(&b, " | %d bytes up to %s: %s", len(a.Body), a.Framing, Excerpt(a.Body))
	for _, f := range a.Trailer {
		fmt.Fprintf(&b, " | trailer %s: %s", f.Name, f.Value)
	}

	return b.String()
}

// Excerpt shows both ends of a text.
func Excerpt(text []byte) string {
	if len(text) <= 120 {
		return fmt.Sprintf("%q", text)
	}

	return fmt.Sprintf("%q…%q", text[:60], text[len(text)-60:])
}

// failure makes one of the four errors above of what reading said.
func failure(err error, otherwise error) error {
	var network net.Error
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return ErrTimeout
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET),
		errors.Is(err, syscall.EPIPE), errors.Is(err, net.ErrClosed):
		return otherwise
	default:
		return fmt.Errorf("%w: %w", otherwise, err)
	}
}

func malformed(format string, values ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, values...))
}
