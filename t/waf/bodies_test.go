package waf

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"ngx-http-wasm-handler/hostile/process"
)

const (
	kB = 1 << 10
	mB = 1 << 20
)

// edges are sizes at which buffers end.
var edges = []int{0, 1, 4*kB - 1, 4 * kB, 4*kB + 1, 64*kB - 1, 64 * kB, 64*kB + 1, mB, 20 * mB, 100 * mB}

const inspectText = "http_wasm_buffer_types text/plain text/html text/xml application/json application/xml;"

// TestBodies sends bodies of all sizes through the rules, both ways. They arrive
// as they were, or not at all.
func TestBodies(t *testing.T) {
	// What docs/waf.md has for large uploads, and responses too; more time, for text of 64 kB on a busy machine.
	uploads, err := os.ReadFile("../../examples/waf/uploads.json")
	if err != nil {
		t.Fatal(err)
	}
	rules := strings.Replace(string(uploads), "{", `{"response_inspection": true,`, 1)
	o := newOrigin()
	f := protect(t, o, setup{rules: rules, http: inspectText + `
		client_max_body_size 110m; http_wasm_memory_limit 1g; http_wasm_timeout 60s;`})
	t.Run("download", func(t *testing.T) { o.download(t, f) })

	if !testing.Short() {
		t.Run("cost", func(t *testing.T) { f.cost(t, o) })
	}

	// The rules take a second for 64 kB of text: not every size in every way.
	ways := []struct {
		protocol int
		framing  string
		texts    []int
	}{
		{0, "length", []int{64*kB - 1, 64*kB + 1, mB, 100 * mB}},
		{1, "chunked", []int{64*kB + 1, 20 * mB, 100 * mB}},
		{0, "chunked", nil},
		{1, "length", nil},
	}
	if testing.Short() {
		ways = ways[:2]
	}
	for _, way := range ways {
		for _, kind := range []string{"upload", "file", "api", "page"} {
			t.Run(fmt.Sprintf("%s/%s/%s", strings.ReplaceAll(protocols[way.protocol], "/", "-"), way.framing, kind), func(t *testing.T) {
				for _, size := range edges {
					text := (kind == "api" || kind == "page") && size > 5*kB
					if text && (testing.Short() || !slices.Contains(way.texts, size)) {
						continue
					}
					if kind == "upload" || kind == "file" || kind == "api" && size <= 65*kB {
						f.upload(t, o, way.protocol, way.framing, kind, size, http.StatusOK)
					}
					if kind == "upload" {
						continue
					}
					expected := http.StatusOK
					if kind != "file" && size > 64*mB {
						expected = http.StatusBadGateway // what is held has an end
					}
					f.fetch(t, way.protocol, way.framing, kind, size, expected)
				}
			})
		}
	}
	size, err := process.SizeOf(f.worker(t))
	if err != nil {
		t.Fatal(err)
	}
	now := f.status(t)
	fmt.Printf("bodies: %d requests, %d failed; %d instance of %d MB, worker of %d MB\n", now.Requests, now.Failed, now.Instances,
		now.Memory_bytes/mB, size.RSS/kB)
}

// recommended is what docs/waf.md says for bodies with more in them than forms have.
const recommended = "client_max_body_size 13m; http_wasm_memory_limit 256m; http_wasm_timeout 10s;"

// TestLimits sends what is more than the settings allow: it is refused, and nothing
// of it comes to the backend.
func TestLimits(t *testing.T) {
	t.Run("default", func(t *testing.T) {
		o := newOrigin()
		f := protect(t, o, setup{rules: `{}`, http: "client_max_body_size 0;"})
		f.upload(t, o, 0, "length", "upload", 4*mB, http.StatusOK)
		for protocol := range protocols {
			for _, framing := range []string{"length", "chunked"} {
				f.upload(t, o, protocol, framing, "upload", 13*mB, http.StatusRequestEntityTooLarge)
				f.upload(t, o, protocol, framing, "file", 4*kB, http.StatusForbidden)
			}
		}
		// More than a second of rules: http_wasm_timeout.
		f.upload(t, o, 0, "length", "api", mB, http.StatusInternalServerError)
		f.upload(t, o, 0, "length", "api", 1, http.StatusOK)
	})
	t.Run("recommended", func(t *testing.T) {
		o := newOrigin()
		f := protect(t, o, setup{rules: `{"response_inspection": true}`, http: recommended + inspectText})
		rounds := 2
		if testing.Short() {
			rounds = 1
		}
		for range rounds {
			f.upload(t, o, 0, "length", "list", 16*kB, http.StatusOK)
			f.upload(t, o, 1, "chunked", "upload", 12*mB, http.StatusOK)
			f.fetch(t, 1, "chunked", "page", mB, http.StatusOK)
		}
		f.upload(t, o, 0, "length", "upload", 14*mB, http.StatusRequestEntityTooLarge)
	})
}

var totals sync.Map

// expected is what a body is: a length and a digest.
func expected(kind string, size int) (int64, string) {
	type whole struct {
		n    int64
		said string
	}
	key := fmt.Sprint(kind, size)
	if known, found := totals.Load(key); found {
		return known.(whole).n, known.(whole).said
	}
	n, said, err := digested(contents[kind].bytes(size))
	if err != nil {
		panic(err)
	}
	totals.Store(key, whole{n, said})

	return n, said
}

// upload sends a body, which arrives as it is if that is the status, and not at all
// with another one.
func (f *firewall) upload(t *testing.T, o *origin, protocol int, framing, kind string, size, status int) {
	t.Helper()
	c := contents[kind]
	n, want := expected(kind, size)
	target := fmt.Sprintf("/%s/%d/%s/%d", kind, size, framing, protocol)
	r := f.request(t, protocol, "POST", target, io.NopCloser(c.bytes(size)))
	r.Header.Set("Content-Type", c.media)
	if framing == "chunked" {
		r.TransferEncoding = []string{"chunked"}
	} else if r.ContentLength = n; n == 0 {
		r.Body = http.NoBody
	}
	resp, err := f.clients[protocol].Do(r)
	if err != nil {
		t.Errorf("%s: %v", target, err)
		return
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != status {
		t.Errorf("%s: %s, %q, %v, expected %d", target, resp.Status, text, err, status)
	}
	if resp.StatusCode != http.StatusOK {
		want = ""
	}
	if got := o.received(target); got != want {
		t.Errorf("%s: the backend got %q, expected %q", target, got, want)
	}
}

// fetch asks for a body, which comes as the backend has it if that is the status.
func (f *firewall) fetch(t *testing.T, protocol int, framing, kind string, size, status int) {
	t.Helper()
	target := fmt.Sprintf("/%s?n=%d&as=%s", kind, size, framing)
	resp, err := f.clients[protocol].Do(f.request(t, protocol, "GET", target, nil))
	if err != nil {
		t.Errorf("%s: %v", target, err)
		return
	}
	defer resp.Body.Close()
	n, got, err := digested(resp.Body)
	if err != nil || resp.StatusCode != status {
		t.Errorf("%s: %s, %d bytes, %v, expected %d", target, resp.Status, n, err, status)
	}
	if _, want := expected(kind, size); got != want && resp.StatusCode == http.StatusOK {
		t.Errorf("%s: %s, expected %s", target, got, want)
	}
}

// download has the backend wait for the client in the middle of a body, which no
// response that is held would survive, and looks at the worker's memory.
func (o *origin) download(t *testing.T, f *firewall) {
	const size = 100 * mB
	// An instance is there.
	f.fetch(t, 0, "length", "file", 1, http.StatusOK)
	worker := f.worker(t)
	before, err := process.SizeOf(worker)
	if err != nil {
		t.Fatal(err)
	}
	if err := process.ResetPeak(worker); err != nil {
		t.Fatal(err)
	}
	resp, err := f.clients[0].Do(f.request(t, 0, "GET", fmt.Sprintf("/file?n=%d&as=length&wait=1", size), nil))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	first := make([]byte, 32*kB)
	if _, err := io.ReadFull(resp.Body, first); err != nil {
		t.Fatal(err)
	}
	during := f.status(t)
	close(o.more)
	_, got, err := digested(io.MultiReader(bytes.NewReader(first), resp.Body))
	if _, want := expected("file", size); got != want || err != nil {
		t.Errorf("%s, %v, expected %s", got, err, want)
	}
	peak, err := process.Peak(worker)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("bodies: download of 100 MB: worker of %d MB, at most %d MB; %d requests had an instance meanwhile\n",
		before.RSS/kB, peak/kB, during.In_flight)
	if peak > before.RSS+16*kB {
		t.Errorf("the worker had %d kB before a download and up to %d kB in it, expected 16 MB more", before.RSS, peak)
	}
	if during.In_flight != 0 {
		t.Errorf("%d instances belong to a response that passes by, expected none", during.In_flight)
	}
}

// cost prints what the rules take for some bodies, of the processor and of memory.
func (f *firewall) cost(t *testing.T, o *origin) {
	// The first request of an instance sets up more than others.
	f.upload(t, o, 0, "length", "list", kB, http.StatusOK)
	worker := f.worker(t)
	fmt.Println("bodies: body                     CPU   memory of the instance")
	for _, body := range []struct {
		text, kind string
		size       int
		asked      bool
	}{
		{"1 kB of JSON, 60 values", "list", kB, false},
		{"4 kB of JSON, 230 values", "list", 4 * kB, false},
		{"16 kB of JSON, 930 values", "list", 16 * kB, false},
		{"16 kB of JSON, one value", "api", 16 * kB, false},
		{"64 kB of JSON, one value", "api", 64 * kB, false},
		{"file of 1 MB in a form", "upload", mB, false},
		{"file of 10 MB in a form", "upload", 10 * mB, false},
		{"file of 100 MB in a form", "upload", 100 * mB, false},
		{"100 MB past the rules", "file", 100 * mB, false},
		{"page of 64 kB", "page", 64 * kB, true},
		{"page of 1 MB", "page", mB, true},
	} {
		before := processor(t, worker)
		if body.asked {
			f.fetch(t, 0, "length", body.kind, body.size, http.StatusOK)
		} else {
			f.upload(t, o, 0, "length", body.kind, body.size, http.StatusOK)
		}
		fmt.Printf("bodies: %-26s %5d ms %5d MB\n", body.text, (processor(t, worker) - before).Milliseconds(), f.status(t).Memory_bytes/mB)
	}
}

// processor is the time that a process has had so far.
func processor(t *testing.T, pid int) time.Duration {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	// Behind the name, which may have anything in it, the 12th and the 13th field, in hundredths of a second.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	var ticks time.Duration
	for _, field := range fields[11:13] {
		n, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		ticks += time.Duration(n)
	}

	return ticks * 10 * time.Millisecond
}

// messages go both ways through a WebSocket: sizes with lengths of all forms, and
// one that would be refused as a request.
var messages = []string{"", "a", strings.Repeat("b", 125), strings.Repeat("c", 126), strings.Repeat("d", 64*kB), "<script>alert(1)</script>"}

// TestWebSocket has more connections open than there are instances.
func TestWebSocket(t *testing.T) {
	for _, test := range []struct{ name, rules, http string }{
		{"default settings", `{}`, ""},
		{"responses inspected", `{"response_inspection": true}`, ""},
		{"texts inspected", `{"response_inspection": true}`, inspectText},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := protect(t, http.HandlerFunc(echo), setup{rules: test.rules, http: test.http + " http_wasm_pool max=1;",
				location: "proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;"})
			var sockets []*bufio.ReadWriter
			for range 4 {
				socket, status := f.upgrade(t, "/socket")
				if status != http.StatusSwitchingProtocols {
					t.Fatalf("status %d, expected 101", status)
				}
				sockets = append(sockets, socket)
			}
			for _, message := range messages {
				for i, socket := range sockets {
					if err := sendFrame(socket, message, true); err != nil {
						t.Fatal(err)
					}
					if got, err := readFrame(socket); got != message || err != nil {
						t.Fatalf("socket %d: %d bytes, %v, expected %d", i, len(got), err, len(message))
					}
				}
			}
			if _, status := f.upgrade(t, "/socket?q=<script>alert(1)</script>"); status != http.StatusForbidden {
				t.Errorf("an attack that asks for a WebSocket: status %d, expected 403", status)
			}
			if now := f.status(t); now.Failed != 0 || now.In_flight != 0 {
				t.Errorf("%d requests failed and %d have an instance, expected none", now.Failed, now.In_flight)
			}
		})
	}
}

// upgrade asks for a WebSocket.
func (f *firewall) upgrade(t *testing.T, target string) (*bufio.ReadWriter, int) {
	t.Helper()
	conn := f.dial(t)
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: Mozilla/5.0\r\nAccept: */*\r\nOrigin: https://%[2]s\r\n"+
		"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n", target, shop, socketKey)
	socket := bufio.NewReadWriter(bufio.NewReader(conn), bufio.NewWriter(conn))
	resp, err := http.ReadResponse(socket.Reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode == http.StatusSwitchingProtocols && resp.Header.Get("Sec-WebSocket-Accept") != accepted(socketKey) {
		t.Errorf("Sec-WebSocket-Accept: %q", resp.Header.Get("Sec-WebSocket-Accept"))
	}

	return socket, resp.StatusCode
}

const socketKey = "dGhlIHNhbXBsZSBub25jZQ=="

func accepted(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))

	return base64.StdEncoding.EncodeToString(sum[:])
}

// echo answers each message of a WebSocket with itself.
func echo(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != "websocket" || !strings.EqualFold(r.Header.Get("Connection"), "upgrade") {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	conn, socket, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	fmt.Fprintf(socket, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		accepted(r.Header.Get("Sec-WebSocket-Key")))
	if socket.Flush() != nil {
		return
	}
	for {
		message, err := readFrame(socket)
		if err != nil || sendFrame(socket, message, false) != nil {
			return
		}
	}
}

// sendFrame sends a text message in one frame (RFC 6455, 5.2); clients mask theirs.
func sendFrame(socket *bufio.ReadWriter, message string, masked bool) error {
	frame := []byte{0x81}
	mask := byte(0)
	if masked {
		mask = 0x80
	}
	switch n := len(message); {
	case n < 126:
		frame = append(frame, mask|byte(n))
	case n < 64*kB:
		frame = binary.BigEndian.AppendUint16(append(frame, mask|126), uint16(n))
	default:
		frame = binary.BigEndian.AppendUint64(append(frame, mask|127), uint64(n))
	}
	if masked {
		frame = append(frame, "mask"...)
	}
	for i := range len(message) {
		c := message[i]
		if masked {
			c ^= "mask"[i%4]
		}
		frame = append(frame, c)
	}
	if _, err := socket.Write(frame); err != nil {
		return err
	}

	return socket.Flush()
}

func readFrame(socket *bufio.ReadWriter) (string, error) {
	var head [2]byte
	if _, err := io.ReadFull(socket, head[:]); err != nil {
		return "", err
	}
	if head[0] != 0x81 {
		return "", errors.New("not a text message in one frame")
	}
	n := uint64(head[1] & 0x7f)
	if n > 125 {
		more := make([]byte, map[uint64]int{126: 2, 127: 8}[n])
		if _, err := io.ReadFull(socket, more); err != nil {
			return "", err
		}
		n = binary.BigEndian.Uint64(append(make([]byte, 8-len(more)), more...))
	}
	var mask [4]byte
	if head[1]&0x80 != 0 {
		if _, err := io.ReadFull(socket, mask[:]); err != nil {
			return "", err
		}
	}
	message := make([]byte, n)
	if _, err := io.ReadFull(socket, message); err != nil {
		return "", err
	}
	for i := range message {
		message[i] ^= mask[i%4]
	}

	return string(message), nil
}
