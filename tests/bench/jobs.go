package main

import (
	"bytes"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
)

// Peer is one way to do a job.
type Peer struct {
	Name string
	// Kind says which server it runs on.
	Kind Kind
	// Conf goes into its location; "%s" is the directory of the guests. For the reference host the path of a guest.
	Conf string
	// Content takes the place of the job's content.
	Content string
	// Extra is another location it needs.
	Extra string
	// Does says what it does where it cannot do the job, or does something else.
	Does string
	// Unchanged is a peer that does not do the job, there for comparison.
	Unchanged bool
	// NoRequestHeader is a peer that cannot set one.
	NoRequestHeader bool
}

// Job is one thing to do, and how to see that it was done.
type Job struct {
	Key, Title string
	Path       string
	// Content makes the response when it is timed, CheckContent when answers are compared: mostly a backend that says
	// what reached it.
	Content, CheckContent string
	Conns                 int
	Post                  int
	Peers                 []Peer
	check                 func(c *Cell, timed, checked *Reply) error
}

// Names of peers that others are compared with.
const (
	bare      = "nginx"
	native    = "native Rust module"
	oursWAT   = "ours, WAT"
	oursRust  = "ours, Rust"
	oursGo    = "ours, Go"
	oursFresh = "ours, WAT, fresh instance"
	lua       = "Lua"
	njs       = "njs"
	reference = "reference host"
)

const (
	agent, accept, forwarded = "bench/1", "text/html", "203.0.113.7"
	client                   = agent + "|" + accept + "|" + forwarded
	secret, blot             = "card-4711", "#########"
	toQuick                  = "proxy_pass http://quick;"
	toEcho                   = "proxy_pass http://echo;"
	gif                      = "empty_gif;"
)

func guestPeers(job string) []Peer {
	return []Peer{
		{Name: oursWAT, Kind: ours, Conf: "http_wasm %s/" + job + ".wat;"},
		{Name: oursRust, Kind: ours, Conf: "http_wasm %s/rust.wasm config=" + job + ";"},
		{Name: oursGo, Kind: ours, Conf: "http_wasm %s/go.wasm config=" + job + ";"},
	}
}

// instances are a small guest and one that brings a runtime along, each with an
// instance that stays, with one from a snapshot and with one that is started.
func instances(job string) []Peer {
	guests := guestPeers(job)

	var peers []Peer
	for _, guest := range []Peer{guests[0], guests[2]} {
		for _, way := range []struct{ name, conf string }{
			{"", ""},
			{", from a snapshot", " http_wasm_isolation request; http_wasm_snapshot on;"},
			{", started", " http_wasm_isolation request; http_wasm_snapshot off;"},
		} {
			peers = append(peers, Peer{Name: guest.Name + way.name, Kind: ours, Conf: guest.Conf + way.conf})
		}
	}

	return peers
}

func withBuffer(peers []Peer, directive string) []Peer {
	for i := range peers {
		peers[i].Conf += directive
	}

	return peers
}

func jobs() []*Job {
	nginx := Peer{Name: bare, Kind: plain, Unchanged: true}
	again := Peer{Name: "nginx, again", Kind: plainAgain, Unchanged: true}
	nativeFor := func(job string) Peer {
		return Peer{Name: native, Kind: nativeModule, Conf: "bench_native " + job + ";"}
	}
	refFor := func(guest string) Peer { return Peer{Name: reference, Kind: referenceHost, Conf: guest} }

	luaHeaders := Peer{Name: lua, Kind: luaModule, Conf: `access_by_lua_block {
		local h = ngx.req.get_headers()
		local client = (h["user-agent"] or "") .. "|" .. (h["accept"] or "") .. "|" .. (h["x-forwarded-for"] or "")
		ngx.req.set_header("X-Client", client)
		ngx.header["X-Client"] = client
	}`}
	njsHeaders := Peer{Name: njs, Kind: njsModule, Conf: "js_header_filter bench.headers;", NoRequestHeader: true,
		Does: "the response header only: it cannot set request headers"}
	luaRedact := Peer{Name: lua, Kind: luaModule, Conf: `header_filter_by_lua_block { ngx.header.content_length = nil }
	body_filter_by_lua_block {
		local parts = ngx.ctx.parts
		if not parts then parts = {}; ngx.ctx.parts = parts end
		parts[#parts + 1] = ngx.arg[1]
		if ngx.arg[2] then
			ngx.arg[1] = (string.gsub(table.concat(parts), "card%-4711", "#########"))
		else
			ngx.arg[1] = nil
		end
	}`}
	redactors := func() []Peer {
		return append(append([]Peer{nginx, {Name: "sub_filter", Kind: plain,
			Conf: "sub_filter " + secret + " '" + blot + "'; sub_filter_once off; sub_filter_types *;"}, nativeFor("redact")},
			withBuffer(guestPeers("redact"), " http_wasm_response_buffer 2m max=256m; http_wasm_memory_limit 512m;")...),
			luaRedact, Peer{Name: njs, Kind: njsModule,
				Conf: "js_header_filter bench.unknown_length; js_body_filter bench.redact;"}, refFor("redact.wat"))
	}
	readers := func() []Peer {
		return append(append([]Peer{nginx, nativeFor("body")}, guestPeers("body")...),
			Peer{Name: lua, Kind: luaModule, Conf: "access_by_lua_block { ngx.req.read_body(); local n = #ngx.req.get_body_data() }"},
			Peer{Name: njs, Kind: njsModule, Content: "js_content bench.forward;", Does: "by a subrequest: it reads no bodies before content",
				Extra: "location = /inner { internal; %s }"}, Peer{Name: reference, Kind: referenceHost,
				Conf: "forward.wat", Does: "the guest writes back what it read: this host forwards nothing else"})
	}

	return []*Job{
		{Key: "empty", Title: "a guest that does nothing", Path: "/", Content: gif, CheckContent: toEcho, check: sameAsPlain,
			Peers: []Peer{nginx, nativeFor("empty"), {Name: oursWAT, Kind: ours, Conf: "http_wasm %s/empty.wat;"}, refFor("empty.wat")}},
		{Key: "headers", Title: "(a) read 3 headers, set 1 request and 1 response header", Path: "/",
			Content: gif, CheckContent: toEcho, check: checkHeaders,
			Peers: append(append([]Peer{nginx, nativeFor("headers")}, guestPeers("headers")...),
				Peer{Name: oursFresh, Kind: ours, Conf: "http_wasm %s/headers.wat; http_wasm_isolation request;"},
				luaHeaders, njsHeaders, refFor("headers.wat"))},
		{Key: "isolation", Title: "(a) with an instance for each request", Path: "/", Content: gif,
			CheckContent: toEcho, check: checkHeaders, Peers: append([]Peer{nginx}, instances("headers")...)},
		{Key: "proxied", Title: "(a) in front of a backend", Path: "/", Content: toQuick, CheckContent: toEcho, check: checkHeaders,
			Peers: []Peer{nginx, nativeFor("headers"), guestPeers("headers")[0], luaHeaders,
				{Name: njs, Kind: njsModule, Conf: `js_header_filter bench.headers; proxy_set_header Connection "";
					proxy_set_header X-Client $client;`}, refFor("headers.wat")}},
		{Key: "answer", Title: "(b) answer 200", Path: "/", Content: gif, CheckContent: gif, check: checkAnswer,
			Peers: append(append([]Peer{{Name: bare, Kind: plain, Content: `return 200 "hello\n";`}, nativeFor("answer")},
				guestPeers("answer")...),
				Peer{Name: lua, Kind: luaModule, Conf: `access_by_lua_block {
					ngx.header["Content-Type"] = "text/plain"; ngx.say("hello"); return ngx.exit(200)
				}`},
				Peer{Name: njs, Kind: njsModule, Content: "js_content bench.answer;"}, refFor("answer.wat"))},
		{Key: "uri", Title: "(c) rewrite the URI", Path: "/v1/hello?x=1", Content: gif, CheckContent: toEcho, check: checkURI,
			Peers: append(append([]Peer{nginx, {Name: "rewrite", Kind: plain, Conf: "rewrite ^/v1(/.*)$ $1 break;"}, nativeFor("uri")},
				guestPeers("uri")...),
				Peer{Name: lua, Kind: luaModule, Conf: `access_by_lua_block {
					local uri = ngx.var.uri
					if string.sub(uri, 1, 4) == "/v1/" then ngx.req.set_uri(string.sub(uri, 4)) end
				}`},
				Peer{Name: njs, Kind: njsModule, Conf: "rewrite ^ $rest break;", Does: "js_set and rewrite"}, refFor("uri.wat"))},
		{Key: "redact-4k", Title: "(d) redact a response of 4 KB", Path: "/4096.txt", Content: "root www;", CheckContent: "root www;",
			check: checkRedacted, Peers: redactors()},
		{Key: "redact-1m", Title: "(d) redact a response of 1 MB", Path: "/1048576.txt", Content: "root www;", CheckContent: "root www;",
			check: checkRedacted, Conns: 8, Peers: redactors()},
		{Key: "body-4k", Title: "(e) read and forward a request body of 4 KB", Path: "/", Content: toQuick, CheckContent: toEcho,
			check: checkForwarded, Post: 4 << 10, Peers: readers()},
		{Key: "body-1m", Title: "(e) read and forward a request body of 1 MB", Path: "/", Content: toQuick, CheckContent: toEcho,
			check: checkForwarded, Post: 1 << 20, Conns: 8, Peers: readers()},
		{Key: "off", Title: "(f) no http_wasm in the location", Path: "/", Content: gif, CheckContent: toEcho, check: sameAsPlain,
			Peers: []Peer{nginx, again, {Name: "ours, off", Kind: ours}}},
	}
}

// The answers that every peer must give.

func checkHeaders(c *Cell, timed, checked *Reply) error {
	want := client
	if c.Peer.Unchanged {
		want = ""
	}
	for _, reply := range []*Reply{timed, checked} {
		if got := reply.Header.Get("X-Client"); reply.Status != 200 || got != want {
			return fmt.Errorf("status %d, response header X-Client %q, expected %q", reply.Status, got, want)
		}
	}
	if c.Peer.NoRequestHeader {
		want = ""
	}

	return checked.echoed("client", want)
}

func checkAnswer(_ *Cell, timed, _ *Reply) error {
	if mime := timed.Header.Get("Content-Type"); timed.Status != 200 || string(timed.Body) != "hello\n" || mime != "text/plain" {
		return fmt.Errorf("status %d, type %q, body %.40q", timed.Status, mime, timed.Body)
	}

	return nil
}

func checkURI(c *Cell, timed, checked *Reply) error {
	want := "/hello?x=1"
	if c.Peer.Unchanged {
		want = "/v1/hello?x=1"
	}
	if timed.Status != 200 {
		return fmt.Errorf("status %d", timed.Status)
	}

	return checked.echoed("uri", want)
}

func checkRedacted(c *Cell, timed, _ *Reply) error {
	want, err := os.ReadFile(filepath.Join(c.dir, "www", c.Job.Path))
	if err != nil {
		return err
	}
	if !c.Peer.Unchanged {
		want = bytes.ReplaceAll(want, []byte(secret), []byte(blot))
	}
	if timed.Status != 200 || !bytes.Equal(timed.Body, want) {
		return fmt.Errorf("status %d, %d bytes that are not the %d expected", timed.Status, len(timed.Body), len(want))
	}

	return nil
}

func checkForwarded(c *Cell, timed, checked *Reply) error {
	if timed.Status != 200 || string(timed.Body) != "ok\n" {
		return fmt.Errorf("status %d, body %.40q", timed.Status, timed.Body)
	}

	return checked.echoed("body", digest(requestBody(c.Job.Post)))
}

func sameAsPlain(_ *Cell, timed, checked *Reply) error {
	if timed.Status != 200 {
		return fmt.Errorf("status %d", timed.Status)
	}

	return checked.echoed("uri", "/")
}

// requestBody is what wrk sends, too (load.lua).
func requestBody(n int) []byte { return bytes.Repeat([]byte("x"), n) }

const njsScript = `
function client(h) {
    return (h['User-Agent'] || '') + '|' + (h['Accept'] || '') + '|' + (h['X-Forwarded-For'] || '');
}
function headers(r) { r.headersOut['X-Client'] = client(r.headersIn); }
function header(r) { return client(r.headersIn); }
function answer(r) { r.headersOut['Content-Type'] = 'text/plain'; r.return(200, 'hello\n'); }
function rest(r) { return r.uri.startsWith('/v1/') ? r.uri.substring(3) : r.uri; }
function unknown_length(r) { delete r.headersOut['Content-Length']; }
function redact(r, data, flags) {
    var body = (r.variables.parts || '') + data;
    if (!flags.last) { r.variables.parts = body; return; }
    r.sendBuffer(body.replace(/card-4711/g, '#########'), flags);
}
async function forward(r) {
    let reply = await r.subrequest('/inner', { method: r.method, body: r.requestText });
    r.return(reply.status, reply.responseText);
}
export default { headers, header, answer, rest, unknown_length, redact, forward };
`

// writeFiles makes what servers are fed with: texts with a secret here and there, and njs's script.
func writeFiles(s *Settings) error {
	www := filepath.Join(s.Dir, "www")
	if err := os.MkdirAll(www, 0o755); err != nil {
		return err
	}
	for _, size := range append([]int{4 << 10, 1 << 20}, s.BodyBytes...) {
		if err := os.WriteFile(filepath.Join(www, fmt.Sprintf("%d.txt", size)), prose(size), 0o644); err != nil {
			return err
		}
	}

	return os.WriteFile(filepath.Join(s.Dir, "bench.js"), []byte(njsScript), 0o644)
}

// prose is text of words, with a secret in every kilobyte or so.
func prose(size int) []byte {
	random := rand.New(rand.NewSource(int64(size)))
	words := strings.Fields("a customer paid with the card and came back on the next day because coffee is scarce there")
	text := make([]byte, 0, size+32)
	for next := 300; len(text) < size; {
		if len(text) > next {
			text = append(text, secret...)
			next += 500 + random.Intn(1000)
		} else {
			text = append(text, words[random.Intn(len(words))]...)
		}
		text = append(text, ' ')
	}
	text = text[:size]
	text[size-1] = '\n'

	return text
}
