package waf

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"ngx-http-wasm-handler/hostile/process"
	"ngx-http-wasm-handler/tck/harness/nginxtest"
)

// patience is how long anything may take that is waited for. A guest may have to
// be compiled on a busy machine.
const patience = 90 * time.Second

// shop is what clients call the server: a name, as the Core Rule Set wants it.
const shop = "shop.example"

// setup is what a test wants of nginx and of the firewall.
type setup struct {
	// rules are the configuration of the firewall.
	rules string
	// http and location go into the blocks of these names.
	http, location string
	// alert is part of the alerts that the test itself causes.
	alert   string
	workers int
}

// firewall is an nginx with the firewall in front of a backend.
type firewall struct {
	*nginxtest.Server
	// clients are for HTTP/1.1 and HTTP/2.
	clients [2]*http.Client
}

var protocols = [2]string{"HTTP/1.1", "HTTP/2"}

func protect(t *testing.T, backend http.Handler, s setup) *firewall {
	t.Helper()
	guest, err := os.ReadFile("../../target/guests/waf.wasm")
	if err != nil {
		t.Fatalf("%v: make waf", err)
	}
	origin := httptest.NewServer(backend)
	t.Cleanup(origin.Close)
	identity := nginxtest.NewIdentity(t)
	f := &firewall{}
	f.Server = nginxtest.Start(t, nginxtest.Config{
		Ports: 3, Workers: max(s.workers, 1), Alert: s.alert,
		Files: map[string][]byte{"waf.wasm": guest, "waf.json": []byte(s.rules), "cert.pem": identity.CertPEM, "key.pem": identity.KeyPEM},
		HTTP: `log_format requests '$request_uri';
			ssl_certificate ${dir}/cert.pem; ssl_certificate_key ${dir}/key.pem;
			` + s.http + `
			server {
				listen ${addr0};
				listen ${addr1} ssl http2;
				access_log ${dir}/requests.log requests;
				add_header X-Worker $pid always;
				location / {
					http_wasm ${dir}/waf.wasm config_file=${dir}/waf.json;
					proxy_pass ` + origin.URL + `; proxy_http_version 1.1;
					` + s.location + `
				}
			}
			server { listen ${addr2}; location / { http_wasm_status; } }`,
	})
	for i := range f.clients {
		transport := &http.Transport{
			DisableCompression: true, ForceAttemptHTTP2: i == 1,
			TLSClientConfig: &tls.Config{RootCAs: identity.Roots, ServerName: "127.0.0.1"},
		}
		t.Cleanup(transport.CloseIdleConnections)
		f.clients[i] = &http.Client{Transport: transport, Timeout: patience}
	}

	return f
}

// request is one to the firewall, by protocol 0 or 1, as a browser sends it.
func (f *firewall) request(t *testing.T, protocol int, method, target string, body io.Reader) *http.Request {
	t.Helper()
	r, err := http.NewRequest(method, [2]string{"http://", "https://"}[protocol]+f.Addrs[protocol]+target, body)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = shop
	r.Header.Set("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0")
	r.Header.Set("Accept", "*/*")

	return r
}

// figures are those of the status page that the tests look at.
type figures struct {
	Requests, Failed, In_flight, Instances, Instances_started, Memory_bytes int
}

// status is what the status page has of the firewall.
func (f *firewall) status(t *testing.T) figures {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	resp, err := client.Get("http://" + f.Addrs[2] + "/?format=json")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var report struct{ Guests []figures }
	if err := json.NewDecoder(resp.Body).Decode(&report); err != nil || len(report.Guests) == 0 {
		t.Fatalf("the status page: %v, %d guests", err, len(report.Guests))
	}
	// The one whose rules are in force, if a reload has made it another one.
	return report.Guests[len(report.Guests)-1]
}

// worker is the worker of an nginx that has one.
func (f *firewall) worker(t *testing.T) int {
	t.Helper()
	var workers []int
	f.await(t, "not one worker", func() bool {
		workers = process.Workers(f.Master())
		return len(workers) == 1
	})

	return workers[0]
}

// logged are the lines of error_log with this in them.
func (f *firewall) logged(text string) []string {
	var lines []string
	for line := range strings.Lines(f.ErrorLog()) {
		if strings.Contains(line, text) {
			lines = append(lines, strings.TrimSpace(line))
		}
	}

	return lines
}

// awaitLog waits for a line with this in error_log, and returns it.
func (f *firewall) awaitLog(t *testing.T, text string) string {
	t.Helper()
	var lines []string
	f.await(t, "error_log has no "+text, func() bool {
		lines = f.logged(text)
		return len(lines) > 0
	})

	return lines[0]
}

func (f *firewall) await(t *testing.T, otherwise string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !so(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s, after %v", otherwise, patience)
		}
	}
}

// write replaces a file of nginx's directory.
func (f *firewall) write(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join(f.Dir, name)
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func (f *firewall) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(f.Master(), sig); err != nil {
		t.Fatal(err)
	}
}

// origin is a backend that remembers what it got, and sends what it is asked for.
type origin struct {
	mu sync.Mutex
	// got are the bodies that came whole, by their targets.
	got map[string]string
	// more is closed when a response that waits may go on.
	more chan struct{}
}

func newOrigin() *origin { return &origin{got: make(map[string]string), more: make(chan struct{})} }

func (o *origin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, got, err := digested(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	o.mu.Lock()
	o.got[r.RequestURI] = got
	o.mu.Unlock()

	var size int
	var kind string
	if _, err := fmt.Sscanf(r.URL.Query().Get("n"), "%d", &size); err == nil {
		kind = strings.TrimPrefix(r.URL.Path, "/")
	}
	c, found := contents[kind]
	if !found {
		w.Header().Set("Content-Type", "text/plain")
		fmt.Fprintln(w, "ok")
		return
	}
	w.Header().Set("Content-Type", c.media)
	if r.URL.Query().Get("as") == "length" {
		w.Header().Set("Content-Length", fmt.Sprint(size))
	} else {
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
	}
	body := c.bytes(size)
	if r.URL.Query().Get("wait") != "" {
		_, _ = io.CopyN(w, body, int64(size/2))
		select {
		case <-o.more:
		case <-r.Context().Done():
		}
	}
	_, _ = io.Copy(w, body)
}

// received is what has come for a target since this was asked for the last time, or nothing.
func (o *origin) received(target string) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	defer delete(o.got, target)

	return o.got[target]
}

// content is a kind of body, of any size; for some there is a smallest one.
type content struct {
	media string
	bytes func(size int) io.Reader
}

const boundary = "----boundary7MA4YWxkTrZu0gW"

var contents = map[string]content{
	"file": {"application/octet-stream", random},
	"page": {"text/html; charset=utf-8", func(size int) io.Reader {
		return framed("<html><body>", "<p>Our tea comes from the hills; it is picked by hand.</p>\n", "</body></html>", size)
	}},
	"api": {"application/json", func(size int) io.Reader {
		return framed(`{"text":"`, "two cups of green tea and a slice of cake, ", `"}`, size)
	}},
	"list": {"application/json", func(size int) io.Reader {
		const item = `{"id":17,"name":"green tea","note":"from the hills"}`
		text := "[" + strings.Repeat(item+",", max(size-2-len(item), 0)/(len(item)+1)) + item + "]"
		return strings.NewReader(text + strings.Repeat(" ", max(size-len(text), 0)))
	}},
	// What is sized is the file in it.
	"upload": {"multipart/form-data; boundary=" + boundary, func(size int) io.Reader {
		return io.MultiReader(
			strings.NewReader("--"+boundary+"\r\nContent-Disposition: form-data; name=\"title\"\r\n\r\nHolidays\r\n--"+boundary+
				"\r\nContent-Disposition: form-data; name=\"picture\"; filename=\"hills.png\"\r\nContent-Type: image/png\r\n\r\n"),
			random(size), strings.NewReader("\r\n--"+boundary+"--\r\n"))
	}},
}

// random are always the same bytes of all values.
func random(size int) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{1}), int64(size))
}

// framed is a text in its frame, or digits where there is no room for the frame.
func framed(before, text, after string, size int) io.Reader {
	rest := size - len(before) - len(after)
	if rest < 0 {
		return strings.NewReader(strings.Repeat("1", size))
	}

	return io.MultiReader(strings.NewReader(before), io.LimitReader(&repeated{text: text}, int64(rest)), strings.NewReader(after))
}

// repeated is a text without an end.
type repeated struct {
	text string
	at   int
}

func (r *repeated) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		copied := copy(p[n:], r.text[r.at:])
		n += copied
		r.at = (r.at + copied) % len(r.text)
	}

	return n, nil
}

// digested is how long a body is, and what it is.
func digested(body io.Reader) (n int64, said string, err error) {
	digest := sha256.New()
	n, err = io.Copy(digest, body)

	return n, fmt.Sprintf("%d bytes, SHA-256 %x", n, digest.Sum(nil)), err
}

// dial opens a connection to an address of nginx's.
func (f *firewall) dial(t *testing.T) net.Conn {
	t.Helper()
	conn, err := net.DialTimeout("tcp", f.Addrs[0], patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))

	return conn
}
