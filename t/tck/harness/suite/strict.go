package suite

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	headerTestID = "X-Httpwasm-Tck-Testid"
	headerFailed = "X-Httpwasm-Tck-Failed"
)

// Strict is the transport under the official runner. The runner looks at the
// marker of a failed assertion only when the status is 500, but a guest whose
// assertion failed may still pass the request on, and then a proxy answers
// with the status of the backend: the case counts as passed. Strict hands the
// runner a 500 for every response that breaks a rule, so that exactly the case
// that broke it fails, with the reason.
type Strict struct {
	Transport http.RoundTripper
	// Proto every response has to have.
	Proto string

	mu    sync.Mutex
	cases map[string]bool
}

// Client is an http.Client with this transport.
func (s *Strict) Client() *http.Client {
	return &http.Client{Transport: s, Timeout: 20 * time.Second}
}

// Cases is how many different test cases have sent a request.
func (s *Strict) Cases() int {
	s.mu.Lock()
	defer s.mu.Unlock()

	return len(s.cases)
}

// RoundTrip implements http.RoundTripper. It does not return errors: the
// runner dereferences the missing response, and the panic would end the test
// program before nginx is stopped.
func (s *Strict) RoundTrip(req *http.Request) (*http.Response, error) {
	s.mu.Lock()
	if s.cases == nil {
		s.cases = make(map[string]bool)
	}
	s.cases[req.Header.Get(headerTestID)] = true
	s.mu.Unlock()

	resp, err := s.Transport.RoundTrip(req)
	if err != nil {
		return failed(req, fmt.Sprintf("no response: %v", err)), nil
	}

	if reason := s.judge(resp); reason != "" {
		resp.Body.Close()
		return failed(req, reason), nil
	}

	return resp, nil
}

// judge returns what is wrong with a response.
func (s *Strict) judge(resp *http.Response) string {
	// Present at all, even when empty.
	if reasons, ok := resp.Header[headerFailed]; ok {
		return "the guest says: " + strings.Join(reasons, ", ")
	}

	if resp.Proto != s.Proto {
		return fmt.Sprintf("response is %s, expected %s", resp.Proto, s.Proto)
	}

	// Neither the backend nor a guest without complaint answers anything else.
	if resp.StatusCode != http.StatusOK {
		return fmt.Sprintf("status is %s, expected 200", resp.Status)
	}

	return ""
}

func failed(req *http.Request, reason string) *http.Response {
	return &http.Response{
		Status:     "500 Internal Server Error",
		StatusCode: http.StatusInternalServerError,
		Proto:      "HTTP/1.1",
		ProtoMajor: 1,
		ProtoMinor: 1,
		Header:     http.Header{headerFailed: {reason}},
		Body:       io.NopCloser(strings.NewReader("")),
		Request:    req,
	}
}
