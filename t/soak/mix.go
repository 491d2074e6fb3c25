// Package soak sends mixed requests through guests for a long time and through reloads, and looks at what the worker and
// the master take.
package soak

import (
	"bytes"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"ngx-http-wasm-handler/conformance/guest"
	"ngx-http-wasm-handler/hostile/keepalive"
)

// kind is a sort of request, with the guest that it meets.
type kind struct {
	name string
	// share of all requests, in thousandths.
	share int
	guest guest.Guest
	// built is a guest of target/guests instead.
	built string
	// conf is the rest of the location.
	conf string
	// request makes the n-th request.
	request func(random *rand.Rand, n int) keepalive.Request
	// check says what is wrong with the response.
	check func(r keepalive.Request, res keepalive.Response) error
	// abort says how many bytes of the request and its body are sent before the client goes away; nil for one that stays.
	abort func(random *rand.Rand, head, body int) int
}

const (
	pass = "proxy_pass http://backend;"
	// Few of the instances that take megabytes, so that they are all there after the first requests, and a line of those
	// who wait for one.
	few = "http_wasm_pool max=4 wait=30s; " + pass
)

var kinds = []kind{
	{
		name: "small guest", share: 450,
		guest:   guest.Guest{Request: `(call $tell_backend &"x-guest" (call $get_uri BUF #1000))`, Response: tellURI},
		conf:    pass,
		request: get("/small"), check: echoed,
	},
	{
		name: "Go guest", share: 150, built: "go-state.wasm", conf: few,
		request: func(_ *rand.Rand, n int) keepalive.Request {
			return keepalive.Request{Method: "GET", Target: fmt.Sprintf("/go?%d", n), Header: []string{fmt.Sprintf("X-Value: v%d", n)}}
		},
		check: func(r keepalive.Request, res keepalive.Response) error {
			return want(200, res, "X-Remembered", strings.TrimPrefix(r.Header[0], "X-Value: "))
		},
	},
	{
		name: "Go guest, response rewritten", share: 70, built: "go-prefix.wasm", conf: few,
		request: get("/prefix"),
		check: func(r keepalive.Request, res keepalive.Response) error {
			if text := "GET " + r.Target + "\n"; string(res.Body) != "prefix "+text {
				return fmt.Errorf("status %d, body %.100q", res.Status, res.Body)
			}
			return want(200, res, "", "")
		},
	},
	{
		name: "request body read", share: 100,
		guest: guest.Guest{
			Request:  `(call $tell_number &"x-digest" (call $digest (call $read_all REQUEST #10000)))`,
			Response: tellURI,
		},
		conf:    pass,
		request: put("/read"),
		check: func(r keepalive.Request, res keepalive.Response) error {
			sum := digest(r.Body)
			if string(res.Body) != fmt.Sprintf("PUT %s\n%d %d\n", r.Target, len(r.Body), sum) {
				return fmt.Errorf("status %d, %d bytes sent, body %.100q", res.Status, len(r.Body), res.Body)
			}
			return want(200, res, "X-Digest", fmt.Sprint(sum))
		},
	},
	{
		name: "response rewritten", share: 80,
		guest: guest.Guest{Features: guest.BufferResponse,
			Response: `(local.set $i (call $read_all RESPONSE #65536)) (i32.store8 BUF #33) (call $write_body RESPONSE BUF (local.get $i))`},
		conf: pass,
		request: func(random *rand.Rand, n int) keepalive.Request {
			// Some are larger than what is held in memory.
			size := 100 + random.IntN(2000)
			if random.IntN(20) == 0 {
				size = 60_000 + random.IntN(240_000)
			}
			return keepalive.Request{Method: "GET", Target: fmt.Sprintf("/rewrite?%d", n), Header: []string{fmt.Sprintf("X-Size: %d", size)}}
		},
		check: func(r keepalive.Request, res keepalive.Response) error {
			size, _ := strconv.Atoi(strings.TrimPrefix(r.Header[0], "X-Size: "))
			if len(res.Body) != size || res.Body[0] != '!' || !bytes.Equal(res.Body[1:], pattern[1:size]) {
				return fmt.Errorf("status %d, expected %d bytes, got %d: %.100q", res.Status, size, len(res.Body), res.Body)
			}
			return want(200, res, "", "")
		},
	},
	{
		name: "fresh instance", share: 80,
		guest: guest.Guest{Module: `(global $n (mut i32) #0)`, Request: `(global.set $n (i32.add (global.get $n) #1))`,
			Response: `(call $tell_number &"x-count" (global.get $n))` + tellURI},
		conf:    "http_wasm_isolation request; " + pass,
		request: get("/fresh"),
		check: func(r keepalive.Request, res keepalive.Response) error {
			if count := res.Header.Get("X-Count"); count != "1" {
				return fmt.Errorf("status %d, the instance has served %q requests", res.Status, count)
			}
			return echoed(r, res)
		},
	},
	{
		name: "trap in handle_request", share: 10,
		guest:   guest.Guest{Request: trap},
		conf:    pass,
		request: get("/trap"), check: failed,
	},
	{
		name: "trap in handle_response", share: 10,
		guest:   guest.Guest{Features: guest.BufferResponse, Response: trap},
		conf:    pass,
		request: get("/late"), check: failed,
	},
	{
		name: "client leaves while the body is read", share: 20,
		guest:   guest.Guest{Request: `(drop (call $read_all REQUEST #10000))`},
		conf:    pass,
		request: put("/leave"),
		abort:   func(random *rand.Rand, head, body int) int { return head + random.IntN(body) },
	},
	{
		name: "client leaves before the response", share: 20,
		guest:   guest.Guest{Features: guest.BufferResponse, Response: `(drop (call $read_all RESPONSE #65536))`},
		conf:    pass,
		request: get("/gone"),
		abort:   func(_ *rand.Rand, head, _ int) int { return head },
	},
	{
		name: "client leaves while the guest sleeps", share: 10,
		guest: guest.Guest{Request: `(i32.store (i32.add BUF #16) #1) (i64.store (i32.add BUF #24) (i64.const 3600000000000))
			(drop (call $poll_oneoff BUF (i32.add BUF #1024) #1 #0))`},
		conf:    pass,
		request: get("/sleep"),
		abort:   func(_ *rand.Rand, head, _ int) int { return head },
	},
}

const (
	tellURI = `(call $tell &"x-uri" (call $get_uri BUF #1000))`
	trap    = `(call $set_header_value RESPONSE &"x-leaked" &"leaked") (drop (memory.grow #16)) (unreachable)`
)

func get(path string) func(*rand.Rand, int) keepalive.Request {
	return func(_ *rand.Rand, n int) keepalive.Request {
		return keepalive.Request{Method: "GET", Target: fmt.Sprintf("%s?%d", path, n)}
	}
}

func put(path string) func(*rand.Rand, int) keepalive.Request {
	return func(random *rand.Rand, n int) keepalive.Request {
		// Some do not fit into nginx's buffer and go to a file.
		size := 1 + random.IntN(2000)
		if random.IntN(20) == 0 {
			size = 15_000 + random.IntN(100_000)
		}
		return keepalive.Request{Method: "PUT", Target: fmt.Sprintf("%s?%d", path, n), Body: pattern[:size]}
	}
}

// echoed checks what the guest said about the request and what the backend did.
func echoed(r keepalive.Request, res keepalive.Response) error {
	if string(res.Body) != "GET "+r.Target+"\n" {
		return fmt.Errorf("status %d, body %.100q", res.Status, res.Body)
	}

	return want(200, res, "X-Uri", r.Target)
}

func failed(_ keepalive.Request, res keepalive.Response) error {
	if bytes.Contains(res.Body, []byte("wasm")) {
		return fmt.Errorf("the client is told: %.200q", res.Body)
	}

	return want(500, res, "X-Leaked", "")
}

func want(status int, res keepalive.Response, name, value string) error {
	if res.Status != status {
		return fmt.Errorf("status %d, expected %d", res.Status, status)
	}
	if got := res.Header.Get(name); got != value {
		return fmt.Errorf("%s: %q, expected %q", name, got, value)
	}

	return nil
}

// pattern is what bodies are made of.
var pattern = bytes.Repeat([]byte("0123456789abcdefghijklmnopqrstuvwxyz\n"), 10_000)

func digest(body []byte) uint32 {
	h := fnv.New32a()
	h.Write(body)

	return h.Sum32()
}

// backend says what it was asked, or sends as much as the request wants.
func backend(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	if size, err := strconv.Atoi(r.Header.Get("X-Size")); err == nil {
		w.Header().Set("Content-Length", strconv.Itoa(size))
		_, _ = w.Write(pattern[:size])
		return
	}
	fmt.Fprintf(w, "%s %s\n", r.Method, r.RequestURI)
	if r.Method == http.MethodPut {
		fmt.Fprintf(w, "%d %d\n", len(body), digest(body))
	}
}

// configuration are the guests and the http block for all kinds.
func configuration(dir string) (files map[string][]byte, http string, err error) {
	compiler, err := guest.NewCompiler("../..", dir)
	if err != nil {
		return nil, "", err
	}

	files = make(map[string][]byte)
	http = "    http_wasm_breaker off;\n    upstream backend { server unix:${dir}/backend.sock; keepalive 32; }\n    log_format target $request_uri;\n" +
		"    server {\n        listen ${addr0};\n        access_log ${dir}/requests.log target;\n" +
		"        proxy_http_version 1.1;\n        proxy_set_header Connection \"\";\n"
	for i, k := range kinds {
		name := fmt.Sprintf("g%d.wasm", i)
		if k.built != "" {
			files[name], err = os.ReadFile(filepath.Join("../../target/guests", k.built))
		} else {
			files[name], err = compiler.Compile(k.guest)
		}
		if err != nil {
			return nil, "", fmt.Errorf("%s: %w", k.name, err)
		}
		path, _, _ := strings.Cut(k.request(rand.New(rand.NewPCG(0, 0)), 0).Target, "?")
		http += fmt.Sprintf("        location = %s { http_wasm ${dir}/%s \"config=prefix \"; %s }\n", path, name, k.conf)
	}

	return files, http + "    }\n", nil
}
