package wire

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Bytes are the request as HTTP/1 has it.
func (r Request) Bytes() []byte {
	version := r.Version
	if version == "" {
		version = "HTTP/1.1"
	}
	text := fmt.Appendf(nil, "%s %s %s\r\nHost: %s\r\n", r.Method, r.Target, version, r.Host)
	for _, f := range r.Header {
		text = fmt.Appendf(text, "%s: %s\r\n", f.Name, f.Value)
	}
	switch {
	case r.Chunked:
		text = append(text, "Transfer-Encoding: chunked\r\n\r\n"...)
		for at := 0; at < len(r.Body); at += 1000 {
			piece := r.Body[at:min(at+1000, len(r.Body))]
			text = fmt.Appendf(text, "%x\r\n%s\r\n", len(piece), piece)
		}
		return append(text, "0\r\n\r\n"...)
	case r.Body != nil:
		text = fmt.Appendf(text, "Content-Length: %d\r\n", len(r.Body))
	}
	text = append(text, "\r\n"...)

	return append(text, r.Body...)
}

// Conn is a connection of HTTP/1.
type Conn struct {
	net.Conn
	in *bufio.Reader
}

// Dial connects; everything on the connection is over at the deadline.
func Dial(addr string, deadline time.Time) (*Conn, error) {
	conn, err := (&net.Dialer{Deadline: deadline}).Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(deadline)

	return &Conn{conn, bufio.NewReaderSize(conn, 4096)}, nil
}

// DialSlow connects with a small window, and takes little at a time, now and then.
func DialSlow(addr string, deadline time.Time) (*Conn, error) {
	dialer := net.Dialer{Deadline: deadline, Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) {
			failed = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096)
		})
		if err != nil {
			return err
		}
		return failed
	}}
	conn, err := dialer.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(deadline)

	return &Conn{conn, bufio.NewReaderSize(&reluctant{Conn: conn}, 4096)}, nil
}

// reluctant lets the server wait: before the first byte, and after each piece.
type reluctant struct {
	net.Conn
	begun bool
}

func (r *reluctant) Read(p []byte) (int, error) {
	pause := 200 * time.Microsecond
	if !r.begun {
		r.begun, pause = true, 5*time.Millisecond
	}
	time.Sleep(pause)

	return r.Conn.Read(p[:min(len(p), 3000)])
}

var (
	statusLine = regexp.MustCompile(`^HTTP/1\.1 ([1-9][0-9]{2}) [^\x00-\x1f]*$`)
	fieldLine  = regexp.MustCompile("^([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?([^\\x00-\\x1f]*)$")
	chunkLine  = regexp.MustCompile(`^[0-9a-f]{1,15}$`)
)

// Answer reads one answer to a request of that method and version. Interim answers are passed over.
func (c *Conn) Answer(r Request) (a Answer) {
	for {
		if _, err := c.in.Peek(1); err != nil {
			a.Err = failure(err, ErrClosed)
			return a
		}
		if a = c.answer(r); a.Err != nil || a.Status >= 200 || a.Status == 101 {
			return a
		}
	}
}

func (c *Conn) answer(r Request) (a Answer) {
	line, err := c.line()
	if err != nil {
		a.Err = err
		return a
	}
	m := statusLine.FindStringSubmatch(line)
	if m == nil {
		a.Err = malformed("status line %s", Excerpt([]byte(line)))
		return a
	}
	a.Status, _ = strconv.Atoi(m[1])
	if a.Header, a.Err = c.fields(); a.Err != nil {
		return a
	}

	length, chunked := -1, false
	for _, f := range a.Header {
		switch f.Name {
		case "content-length":
			n, err := strconv.ParseUint(f.Value, 10, 31)
			if err != nil || length >= 0 {
				a.Err = malformed("content-length %q beside %d", f.Value, length)
				return a
			}
			length = int(n)
		case "transfer-encoding":
			if f.Value != "chunked" || chunked || r.Version == "HTTP/1.0" {
				a.Err = malformed("transfer-encoding %q", f.Value)
				return a
			}
			chunked = true
		case "connection":
			a.Close = a.Close || strings.EqualFold(f.Value, "close")
		}
	}
	if length >= 0 && chunked {
		a.Err = malformed("both content-length and transfer-encoding")
		return a
	}

	switch {
	case a.Status == 101:
		a.Framing = Tunnel
	case a.Status < 200 || a.Status == 204:
		a.Framing = None
		if length >= 0 || chunked {
			a.Err = malformed("status %d with a body's length", a.Status)
		}
	case r.Method == "HEAD" || a.Status == 304:
		a.Framing = None
		if chunked && r.Method != "HEAD" {
			a.Err = malformed("status %d with chunks", a.Status)
		}
	case chunked:
		a.Framing = Chunked
		a.chunks(c)
	case length >= 0:
		a.Framing = Length
		a.Body = make([]byte, length)
		n, err := io.ReadFull(c.in, a.Body)
		a.Body = a.Body[:n]
		if err != nil {
			a.Err = failure(err, ErrTruncated)
		}
	default:
		a.Framing = Close
		if !a.Close && r.Version != "HTTP/1.0" {
			a.Err = malformed("a body without end on a connection that is kept")
			return a
		}
		a.Close = true
		if a.Body, err = io.ReadAll(c.in); err != nil {
			a.Err = failure(err, ErrTruncated)
		}
	}

	return a
}

func (a *Answer) chunks(c *Conn) {
	for {
		line, err := c.line()
		if err != nil {
			a.Err = cut(err)
			return
		}
		if !chunkLine.MatchString(line) {
			a.Err = malformed("chunk size %s after %d bytes", Excerpt([]byte(line)), len(a.Body))
			return
		}
		size, _ := strconv.ParseUint(line, 16, 31)
		if size == 0 {
			if a.Trailer, err = c.fields(); err != nil {
				a.Err = cut(err)
			}
			return
		}
		piece := make([]byte, size+2)
		n, err := io.ReadFull(c.in, piece)
		a.Body = append(a.Body, piece[:min(n, int(size))]...)
		if err != nil {
			a.Err = failure(err, ErrTruncated)
			return
		}
		if !bytes.HasSuffix(piece, []byte("\r\n")) {
			a.Err = malformed("no line end after a chunk of %d bytes", size)
			return
		}
	}
}

// cut makes the end of the connection one within a body.
func cut(err error) error {
	if err == ErrClosed {
		return ErrTruncated
	}

	return err
}

func (c *Conn) fields() (fields []Field, err error) {
	for {
		line, err := c.line()
		if err != nil {
			return fields, cut(err)
		}
		if line == "" {
			return fields, nil
		}
		m := fieldLine.FindStringSubmatch(line)
		if m == nil {
			return fields, malformed("header line %s", Excerpt([]byte(line)))
		}
		fields = append(fields, Field{strings.ToLower(m[1]), m[2]})
	}
}

func (c *Conn) line() (string, error) {
	line, err := c.in.ReadString('\n')
	if err != nil {
		return line, failure(err, ErrClosed)
	}
	if !strings.HasSuffix(line, "\r\n") {
		return line, malformed("line %q", line)
	}

	return line[:len(line)-2], nil
}

// Ended returns nil when the server closes the connection with nothing more on it.
func (c *Conn) Ended() error {
	rest, err := c.in.Peek(1)
	if len(rest) > 0 {
		rest, _ = c.in.Peek(c.in.Buffered())
		return malformed("%d bytes after the last answer: %s", len(rest), Excerpt(rest))
	}
	if err := failure(err, ErrClosed); err == ErrTimeout {
		return fmt.Errorf("%w: the connection is not closed", err)
	}

	return nil
}

// Take reads so many bytes of a tunnel.
func (c *Conn) Take(n int) ([]byte, error) {
	text := make([]byte, n)
	n, err := io.ReadFull(c.in, text)
	if err != nil {
		err = failure(err, ErrTruncated)
	}

	return text[:n], err
}
