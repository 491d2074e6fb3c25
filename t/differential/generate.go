// Package differential sends the same random requests through the same guests on the module and on the reference host,
// and compares what a backend and the client get.
package differential

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"ngx-http-wasm-handler/conformance/client"
	"ngx-http-wasm-handler/conformance/guest"
)

// The guests. Each does the same on every host, as far as the ABI says.
var guests = map[string]guest.Guest{
	"pass": {},
	// Looks at everything and changes nothing.
	"look": {
		Request: `(drop (call $get_method BUF #1000)) (drop (call $get_uri BUF #10000))
			(drop (call $get_header_names REQUEST BUF #100000)) (drop (call $get_header_values REQUEST &"x-a" BUF #100000))`,
		Response: `(drop (call $get_header_names RESPONSE BUF #100000)) (drop (call $get_uri BUF #10000))`,
	},
	"read": {
		Features: guest.BufferRequest,
		Request:  `(loop $more (br_if $more (i32.eqz (call $high (call $read_body REQUEST BUF #400000)))))`,
	},
	// What a guest sees, told to the backend.
	"tell": {
		Request: `
			(call $tell_backend &"x-seen-method" (call $get_method BUF #1000))
			(call $tell_backend &"x-seen-uri" (call $get_uri BUF #10000))
			(local.set $r (call $get_header_values REQUEST &"x-a" BUF #10000))
			(call $tell_values &"x-seen-a" (call $low (local.get $r)))
			(local.set $r (call $get_header_values REQUEST &"cookie" BUF #10000))
			(call $tell_values &"x-seen-cookie" (call $low (local.get $r)))`,
		Module: `(func $tell_values (param $name i32) (param $name_len i32) (param $len i32) (local $i i32)
			(block $end (loop $next
				(br_if $end (i32.ge_u (local.get $i) (local.get $len)))
				(if (i32.eqz (i32.load8_u (i32.add BUF (local.get $i)))) (then (i32.store8 (i32.add BUF (local.get $i)) #59)))
				(local.set $i (i32.add (local.get $i) #1)) (br $next)))
			(call $tell_backend (local.get $name) (local.get $name_len) (local.get $len)))`,
	},
	"headers": {
		Features: guest.BufferResponse,
		Request: `(call $set_header_value REQUEST &"x-a" &"set") (call $add_header_value REQUEST &"X-B" &"added")
			(call $remove_header REQUEST &"X-c") (call $set_header_value REQUEST &"user-agent" &"guest")
			(call $set_header_value REQUEST &"x-empty" #0 #0)
			(call $add_header_value RESPONSE &"x-r-d" &"guest")`,
		Response: `(call $set_header_value RESPONSE &"x-r-a" &"set") (call $add_header_value RESPONSE &"X-R-B" &"added")
			(call $remove_header RESPONSE &"X-r-c") (call $set_header_value RESPONSE &"content-type" &"text/guest")`,
	},
	// Puts a segment in front of the path.
	"uri": {
		Request: `(local.set $i (call $get_uri (i32.add BUF #2) #10000))
			(i32.store16 BUF (i32.const 0x702f)) (call $set_uri BUF (i32.add (local.get $i) #2))`,
		Response: `(drop (call $get_uri BUF #10000))`,
	},
	"method": {Request: `(call $set_method &"PUT")`},
	"write": {
		Request: `(call $write_body REQUEST &"a new ") (call $write_body REQUEST &"request body")`,
	},
	"rewrite": {
		Features: guest.BufferResponse,
		Response: `(local.set $r (i64.const 0))
			(loop $more
				(local.set $r (call $read_body RESPONSE BUF #65536))
				(i32.store8 BUF #35)
				(call $write_body RESPONSE BUF (call $low (local.get $r)))
				(br_if $more (i32.eqz (call $high (local.get $r)))))
			(call $write_body RESPONSE &" the end")`,
	},
	"status": {Features: guest.BufferResponse, Response: `(call $set_status_code #418)`},
	"answer": {
		Request: `(call $set_header_value RESPONSE &"x-r-a" &"guest") (call $set_header_value RESPONSE &"content-type" &"text/guest")
			(call $set_status_code #403) (call $write_body RESPONSE &"denied")`,
		Result: guest.Stop,
	},
}

// answer is what the backend says, told by a header of the request.
type answer struct {
	status int
	header []string
	size   int
	// length is whether the backend announces it.
	length bool
	// pieces is in how many flushes it is sent.
	pieces int
}

// trial is one request through one guest.
type trial struct {
	guest  string
	send   client.Request
	answer answer
}

func (t trial) String() string {
	body := ""
	if len(t.send.Body) > 0 || t.send.Chunks != nil {
		body = fmt.Sprintf(", body of %d bytes", len(t.send.Body))
		if t.send.Chunks != nil {
			body += fmt.Sprintf(" in chunks %v", t.send.Chunks)
		}
	}

	return fmt.Sprintf("guest %s: %s %q %q%s; the backend answers %d %q with %d bytes in %d pieces, length announced: %v",
		t.guest, t.send.Method, t.send.Target, t.send.Header, body,
		t.answer.status, t.answer.header, t.answer.size, t.answer.pieces, t.answer.length)
}

type generator struct{ *rand.Rand }

func one[T any](g generator, list ...T) T { return list[g.IntN(len(list))] }

// often is true n times of a hundred.
func (g generator) often(n int) bool { return g.IntN(100) < n }

func (g generator) size() int {
	switch {
	case g.often(30):
		return 0
	case g.often(60):
		return g.IntN(5000)
	case g.often(80):
		return one(g, 2047, 2048, 2049, 8191, 8192, 16383, 16384, 16385, 65535, 65536, 65537)
	default:
		return g.IntN(3 << 20)
	}
}

func (g generator) body(n int) []byte {
	body := make([]byte, n)
	for i := range body {
		body[i] = byte(g.Uint32())
	}

	return body
}

// target is a path and a query that are legal, however odd.
func (g generator) target() string {
	var b strings.Builder
	depth := 0
	for range 1 + g.IntN(4) {
		b.WriteByte('/')
		switch segment := one(g, "a", "b.c", "", "..", ".", "x", "%2F", "%2f", "%41", "%7e", "~", "+", "a b", "\xc3\xa9", "%C3%A9", "q;r=1",
			"@:!$&'()*+,;=", "[1]", "\"", "<>", "^`{|}", "\\", "%25", "%26", "%3F", "a%20b", "-_.", "long"+strings.Repeat("g", g.IntN(300))); segment {
		case "..":
			// Above the root there is nothing.
			if depth > 0 {
				depth--
				b.WriteString(segment)
			}
		case "a b":
			b.WriteString("a%20b")
		case "", ".":
			b.WriteString(segment)
		default:
			depth++
			b.WriteString(segment)
		}
	}
	if g.often(50) {
		b.WriteByte('?')
		for range g.IntN(4) {
			b.WriteString(one(g, "a=1", "&", "b=%26", "c=\xc3\xa9", "?", "/../", "=", "d=+", "%zz", "\"<>", "[]", "e=a/b", "'"))
		}
	}

	return b.String()
}

func (g generator) value() string {
	return one(g, "1", "", "a, b", "a;b=\"c, d\"", "two words", "tab\tinside", "\xc3\xa9", "~!@#$%^&*()", "  padded  ",
		strings.Repeat("v", g.IntN(1000)), "Mon, 01 Jan 2024 00:00:00 GMT", "gzip", "bytes=0-1", "\"etag\"")
}

func (g generator) lines(names ...string) []string {
	var lines []string
	for range g.IntN(8) {
		lines = append(lines, one(g, names...)+": "+g.value())
	}

	return lines
}

func (g generator) trial(name string) trial {
	t := trial{guest: name}
	t.send.Method = one(g, "GET", "GET", "POST", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "PROPFIND", "BREW", "M-SEARCH", "get", "TRACE")
	t.send.Target = g.target()
	t.send.Header = g.lines("X-A", "x-a", "X-B", "X-C", "x-C", "X-D", "Accept", "Accept-Encoding", "Cookie", "Content-Type", "Cache-Control",
		"X_Y", "X.Y", "Via", "X-Forwarded-For", "If-None-Match", "Referer", "Origin", "Range", "X-1-2", "Pragma")
	if size := g.size(); size > 0 || t.send.Method == "POST" {
		t.send.Body, t.send.HasBody = g.body(size), true
		if g.often(50) {
			t.send.Chunks = []int{}
			for left := size; left > 0 && len(t.send.Chunks) < 20; {
				n := 1 + g.IntN(1+left)
				if g.often(50) {
					n = 1 + g.IntN(min(left, 100))
				}
				t.send.Chunks, left = append(t.send.Chunks, n), left-n
			}
		}
	}

	t.answer.status = one(g, 200, 200, 200, 200, 201, 202, 203, 204, 206, 301, 304, 400, 404, 410, 418, 500, 503, 599)
	t.answer.header = g.lines("X-R-A", "x-r-a", "X-R-B", "X-R-C", "X-R-D", "Set-Cookie", "Cache-Control", "Vary", "Content-Language")
	if g.often(80) {
		t.answer.header = append(t.answer.header, "Content-Type: "+one(g, "text/html", "text/plain; charset=utf-8", "application/octet-stream"))
	}
	if g.often(20) {
		t.answer.header = append(t.answer.header, `ETag: "`+one(g, "a", "b")+`"`, "Last-Modified: Mon, 01 Jan 2024 00:00:00 GMT")
	}
	if t.answer.status != 204 && t.answer.status != 304 {
		t.answer.size, t.answer.length = g.size(), g.often(30)
		t.answer.pieces = one(g, 0, 0, 0, 1, 2, 7)
	}

	return t
}
