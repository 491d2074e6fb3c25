// Package keepalive is an HTTP/1.1 client with one connection that accounts for every request: it got a whole response,
// it was sent again as RFC 9110 9.2.2 allows, or it was lost.
package keepalive

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// Request is sent as it stands. It must be idempotent: it may be sent a second time.
type Request struct {
	Method, Target string
	// Header are lines, "Name: value".
	Header []string
	Body   []byte
}

// Response is whole.
type Response struct {
	Status int
	Header http.Header
	Body   []byte
}

// Client has one connection at a time and is used by one goroutine.
type Client struct {
	Addr string
	// Timeout bounds one attempt.
	Timeout time.Duration

	// Connections were opened. Retried are the targets of requests that were sent again, because the server closed the
	// connection, idle since the response before, without a byte of an answer.
	Connections int
	Retried     []string

	conn net.Conn
	in   *bufio.Reader
}

// Do sends a request and reads the whole response. An error means that it is lost.
func (c *Client) Do(r Request) (Response, error) {
	for {
		reused := c.conn != nil
		res, answered, err := c.once(r)
		if err == nil {
			return res, nil
		}
		c.Close()
		var timeout net.Error
		if !reused || answered || errors.As(err, &timeout) && timeout.Timeout() {
			return res, err
		}
		c.Retried = append(c.Retried, r.Target)
	}
}

// once also says whether anything of a response came.
func (c *Client) once(r Request) (res Response, answered bool, err error) {
	if err := c.open(); err != nil {
		return res, false, err
	}
	_ = c.conn.SetDeadline(time.Now().Add(c.Timeout))

	// A server may answer before it has read all, and close: what it said counts.
	_, sent := c.conn.Write(r.Bytes())
	if _, err := c.in.Peek(1); err != nil {
		return res, false, errors.Join(sent, err)
	}

	head, err := http.ReadResponse(c.in, &http.Request{Method: r.Method})
	if err != nil {
		return res, true, err
	}
	res.Status, res.Header = head.StatusCode, head.Header
	res.Body, err = io.ReadAll(head.Body)
	if err != nil {
		return res, true, err
	}
	if head.Close || sent != nil {
		c.Close()
	}

	return res, true, nil
}

// Send writes the first n bytes of a request and does not wait for an answer.
func (c *Client) Send(r Request, n int) error {
	if err := c.open(); err != nil {
		return err
	}
	_ = c.conn.SetDeadline(time.Now().Add(c.Timeout))
	text := r.Bytes()
	_, err := c.conn.Write(text[:min(n, len(text))])

	return err
}

// Answered says whether anything came back for what was sent, or the server closed the connection.
func (c *Client) Answered() bool {
	_ = c.conn.SetReadDeadline(time.Now().Add(time.Millisecond))
	_, err := c.in.Peek(1)
	var timeout net.Error

	return !errors.As(err, &timeout) || !timeout.Timeout()
}

func (c *Client) open() error {
	if c.conn != nil {
		return nil
	}
	conn, err := net.DialTimeout("tcp", c.Addr, c.Timeout)
	if err != nil {
		return err
	}
	c.Connections++
	c.conn, c.in = conn, bufio.NewReader(conn)

	return nil
}

// Close closes the connection, if there is one.
func (c *Client) Close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

// Bytes are the request on the wire.
func (r Request) Bytes() []byte {
	text := fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: localhost\r\n", r.Method, r.Target)
	for _, line := range r.Header {
		text = fmt.Appendf(text, "%s\r\n", line)
	}
	if len(r.Body) > 0 {
		text = fmt.Appendf(text, "Content-Length: %d\r\n", len(r.Body))
	}
	text = append(text, "\r\n"...)

	return append(text, r.Body...)
}
