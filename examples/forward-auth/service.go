//go:build wasip1

package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"syscall"
	"time"

	"github.com/stealthrocket/net/wasip1"
)

// service is where questions go. There is one request at a time in an instance,
// and one connection, which stays open for the next.
//
// http.Transport is not used for this. It reads in the background, and in a guest
// nothing runs between requests: bytes that came meanwhile would be taken for the
// answer to the next question, which may be another client's.
type service struct {
	url     *url.URL
	timeout time.Duration
	link    *link
}

type link struct {
	raw, conn net.Conn
	// Limits how much the head of an answer may have.
	limited *io.LimitedReader
	in      *bufio.Reader
}

const headLimit = 32 << 10

// ask sends a question and reads the head of the answer. done is called when the
// body was read, or will not be.
func (s *service) ask(header http.Header) (response *http.Response, done func(whole bool), err error) {
	request := &http.Request{Method: http.MethodGet, URL: s.url, Host: s.url.Host, Header: header}
	deadline := time.Now().Add(s.timeout)
	if s.link != nil && !s.link.idle(deadline) {
		s.drop()
	}
	reused := s.link != nil
	response, started, err := s.try(request, deadline)
	// Closed while the question was on its way: nobody has begun to answer it.
	var timeout net.Error
	if err != nil && reused && !started && !(errors.As(err, &timeout) && timeout.Timeout()) {
		response, _, err = s.try(request, deadline)
	}
	if err != nil {
		return nil, nil, err
	}
	done = func(whole bool) {
		if !whole || response.Close {
			s.drop()
		}
	}

	return response, done, nil
}

// try says also whether anything of an answer has come.
func (s *service) try(request *http.Request, deadline time.Time) (response *http.Response, started bool, err error) {
	defer func() {
		if err != nil {
			s.drop()
		}
	}()
	if s.link == nil {
		if s.link, err = dial(s.url, deadline); err != nil {
			return nil, false, err
		}
	}
	l := s.link
	if err := l.conn.SetDeadline(deadline); err != nil {
		return nil, false, err
	}
	out := bufio.NewWriter(l.conn)
	if err := request.Write(out); err != nil {
		return nil, false, err
	}
	if err := out.Flush(); err != nil {
		return nil, false, err
	}
	l.limited.N = headLimit
	if _, err := l.in.Peek(1); err != nil {
		return nil, false, err
	}
	for {
		if response, err = http.ReadResponse(l.in, request); err != nil {
			if l.limited.N <= 0 {
				err = errors.New("the head of the answer is too large")
			}
			return nil, true, err
		}
		// Of 1xx only 101 is the last answer.
		if response.StatusCode/100 != 1 || response.StatusCode == http.StatusSwitchingProtocols {
			break
		}
	}
	l.limited.N = math.MaxInt64

	return response, true, nil
}

func (s *service) drop() {
	if s.link != nil {
		s.link.conn.Close()
		s.link = nil
	}
}

func dial(to *url.URL, deadline time.Time) (*link, error) {
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	port := to.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[to.Scheme]
	}
	raw, err := wasip1.DialContext(ctx, "tcp", net.JoinHostPort(to.Hostname(), port))
	if err != nil {
		return nil, err
	}
	l := &link{raw: raw, conn: raw}
	if to.Scheme == "https" {
		l.conn = tls.Client(raw, &tls.Config{ServerName: to.Hostname()})
	}
	l.limited = &io.LimitedReader{R: l.conn}
	l.in = bufio.NewReader(l.limited)

	return l, nil
}

// idle says whether a connection may have the next question: open, and without a
// byte that nobody has asked for.
func (l *link) idle(deadline time.Time) bool {
	if l.in.Buffered() > 0 || l.conn != l.raw && !l.nothingDecrypted() {
		return false
	}
	if err := l.raw.SetDeadline(deadline); err != nil {
		return false
	}
	c, ok := l.raw.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	nothing := false
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, err := syscall.Read(int(fd), b[:])
		nothing = err == syscall.EAGAIN
		return true
	})

	return err == nil && nothing
}

// nothingDecrypted is whether TLS has read no more than was asked for. With a time
// that has passed it does not read.
func (l *link) nothingDecrypted() bool {
	if err := l.conn.SetDeadline(time.Unix(1, 0)); err != nil {
		return false
	}
	l.limited.N = 1
	var b [1]byte
	_, err := l.limited.Read(b[:])
	var timeout net.Error

	return errors.As(err, &timeout) && timeout.Timeout()
}
