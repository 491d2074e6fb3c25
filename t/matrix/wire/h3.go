package wire

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"strings"
	"time"

	"ngx-http-wasm-handler/conformance/client"
)

// H3 sends one request over HTTP/3.
func H3(addr string, roots *x509.CertPool, deadline time.Time, r Request) (a Answer) {
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	c := client.NewH3(addr, &tls.Config{RootCAs: roots})
	defer c.Close()

	request := client.Request{Method: r.Method, Target: r.Target, Host: r.Host, Body: r.Body, HasBody: r.Body != nil}
	for _, f := range r.Header {
		request.Header = append(request.Header, f.Name+": "+f.Value)
	}
	res := c.Do(ctx, request)
	a.Status, a.Body, a.Framing = res.Status, res.Body, Stream
	for name, values := range res.Header {
		for _, value := range values {
			a.Header = append(a.Header, Field{strings.ToLower(name), value})
		}
	}
	for name, values := range res.Trailer {
		for _, value := range values {
			a.Trailer = append(a.Trailer, Field{strings.ToLower(name), value})
		}
	}
	switch {
	case res.Err == nil:
		if r.Method == "HEAD" || a.Status == 204 || a.Status == 304 {
			a.Framing = None
		} else {
			a.check()
		}
	case res.Err.Error() == "timed out":
		a.Err = ErrTimeout
	case res.Err.Error() == "cut short" && a.Status == 0:
		a.Err = ErrClosed
	case res.Err.Error() == "cut short":
		a.Err = ErrTruncated
	default:
		a.Err = malformed("%v", res.Err)
	}

	return a
}
