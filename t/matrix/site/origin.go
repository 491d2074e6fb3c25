package site

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/fcgi"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Sizes of bodies. The large one fits into no buffer on its way: not nginx's, not a socket's.
const (
	small = 1_000
	large = 200_000
	cutAt = 120_000
)

// text is what bodies are made of. It says where it is, and has words for sub_filter.
var text = func() []byte {
	var b bytes.Buffer
	for i := 0; b.Len() < 2*large; i++ {
		fmt.Fprintf(&b, "%07d word by word\n", i)
	}

	return b.Bytes()
}()

func packed(body []byte) []byte {
	var b bytes.Buffer
	out := gzip.NewWriter(&b)
	_, _ = out.Write(body)
	_ = out.Close()

	return b.Bytes()
}

var (
	packedLarge = packed(text[:large])
	modified    = time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)
)

// origins are what locations pass requests to, on sockets that are there before nginx starts.
// nobody is one where nobody answers.
type origins struct{ http, fastcgi, grpc, nobody string }

func serveOrigins(t testing.TB) origins {
	t.Helper()
	dir := t.TempDir()
	o := origins{filepath.Join(dir, "http"), filepath.Join(dir, "fastcgi"), filepath.Join(dir, "grpc"), filepath.Join(dir, "nobody")}
	listen := func(path string) net.Listener {
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l
	}

	plain := &http.Server{Handler: http.HandlerFunc(origin)}
	l := listen(o.http)
	go plain.Serve(l)
	t.Cleanup(func() { plain.Close() })

	l2 := listen(o.fastcgi)
	go fcgi.Serve(l2, http.HandlerFunc(origin))

	var only http.Protocols
	only.SetUnencryptedHTTP2(true)
	rpc := &http.Server{Handler: http.HandlerFunc(grpc), Protocols: &only}
	l3 := listen(o.grpc)
	go rpc.Serve(l3)
	t.Cleanup(func() { rpc.Close() })

	gone := listen(o.nobody).(*net.UnixListener)
	gone.SetUnlinkOnClose(false)
	gone.Close()

	return o
}

// origin answers as the path says.
func origin(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	head := w.Header()
	head.Set("Content-Type", "text/plain")
	// A header that only the origin has, so that it is seen whether it comes through.
	head.Set("X-Origin", "yes")
	switch r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:] {
	case "small":
		writeLength(w, text[:small])
	case "large":
		writeLength(w, text[:large])
	case "file":
		head.Set("Etag", `"origin"`)
		http.ServeContent(w, r, "", modified, bytes.NewReader(text[:large]))
	case "chunked":
		flusher := w.(http.Flusher)
		for at := 0; at < large; at += large / 10 {
			_, _ = w.Write(text[at : at+large/10])
			flusher.Flush()
		}
	case "spread":
		// The other half comes when the guest that waits longest has gone on.
		head.Set("Content-Length", fmt.Sprint(large))
		_, _ = w.Write(text[:large/2])
		_ = http.NewResponseController(w).Flush()
		time.Sleep(80 * time.Millisecond)
		_, _ = w.Write(text[large/2 : large])
	case "packed":
		head.Set("Content-Encoding", "gzip")
		writeLength(w, packedLarge)
	case "negotiated":
		head.Set("Etag", `"origin"`)
		if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			head.Set("Content-Encoding", "gzip")
			writeLength(w, packedLarge)
		} else {
			writeLength(w, text[:large])
		}
	case "empty":
		writeLength(w, nil)
	case "204":
		head.Del("Content-Type")
		w.WriteHeader(http.StatusNoContent)
	case "301":
		head.Set("Location", "/elsewhere")
		head.Set("Content-Length", "5")
		w.WriteHeader(http.StatusMovedPermanently)
		_, _ = w.Write([]byte("moved"))
	case "404":
		head.Set("Content-Length", "7")
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write([]byte("nothing"))
	case "500":
		head.Set("Content-Length", "6")
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = w.Write([]byte("broken"))
	case "part":
		// A part that nobody asked nginx for.
		head.Set("Content-Range", fmt.Sprintf("bytes 0-999/%d", large))
		head.Set("Content-Length", "1000")
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(text[:1000])
	case "cut":
		head.Set("Content-Length", fmt.Sprint(large))
		hangUp(w, text[:cutAt])
	case "cut-chunked":
		hangUp(w, text[:cutAt])
	case "ssi":
		writeLength(w, []byte("begin <!--#include virtual=\"/include/unbuffered\" --><!--#include virtual=\"/include/proxy\" --> end\n"))
	case "accel":
		head.Set("X-Accel-Redirect", "/internal/large.txt")
		writeLength(w, []byte("never seen"))
	case "upgrade":
		upgrade(w, r)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func writeLength(w http.ResponseWriter, body []byte) {
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	_, _ = w.Write(body)
}

// hangUp ends the connection after that much.
func hangUp(w http.ResponseWriter, part []byte) {
	_, _ = w.Write(part)
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

// Greeting is what a tunnel begins with, in the segment of its header; then it sends back what it gets.
const Greeting = "the first words in the tunnel\n"

func upgrade(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != "echo" {
		w.WriteHeader(http.StatusUpgradeRequired)
		return
	}
	conn, in, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	_, err = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: upgrade\r\nX-Origin: yes\r\n\r\n"+Greeting)
	if err == nil {
		_, _ = io.Copy(conn, in)
	}
}

func grpc(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	head := w.Header()
	head.Set("Content-Type", "application/grpc")
	if strings.HasSuffix(r.URL.Path, "/refused") {
		// Trailers only: status and message are in the header.
		head.Set("Grpc-Status", "7")
		head.Set("Grpc-Message", "no")
		return
	}
	if strings.HasSuffix(r.URL.Path, "/small") {
		_, _ = w.Write(text[:small])
	} else {
		_, _ = w.Write(text[:large])
	}
	_ = http.NewResponseController(w).Flush()
	head.Set(http.TrailerPrefix+"Grpc-Status", "0")
	head.Set(http.TrailerPrefix+"Grpc-Message", "fine")
}
