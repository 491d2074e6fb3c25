package site

import (
	"fmt"
	"strings"
)

// Source is where a response comes from. Its locations are named after it.
type Source struct {
	Name string
	// Conf is its location.
	Conf string
	// File is what follows the path of the location; %d in it is the number of the request, of which no two are the same.
	File string
	// Method is GET if it is empty. Body goes with it.
	Method string
	Body   []byte
	// Chunked: the body goes without its length.
	Chunked bool
	// Bypass says that nginx answers before the access phase: no guest is called.
	Bypass bool
	// Cut: the origin ends within the body. What nginx says of that is status 502.
	Cut bool
	// Bare: the handler declares that its response has no body at all, and what a guest makes of it is dropped.
	Bare bool
	// Adds: filters in front of the guests add to a body, or change it.
	Adds bool
	// Packed: the origin compresses its body and can not be talked out of it.
	Packed bool
	// Upgrade: the connection becomes a tunnel.
	Upgrade bool
	// Once: no request is repeated, because it changes what the next one gets.
	Once bool
	// Exists: there is a file before the request. Leaves is what there is afterwards, "" no file at all.
	Exists bool
	Leaves string
	// Stale: the entry in the cache was made before, and has expired.
	Stale bool
	// Tags tell clients for which there is nothing to see.
	Tags string
}

const proxy = "proxy_pass http://origin"

var dav = []byte(strings.Repeat("a line of a file that is put\n", 200))

// Sources are all of them.
var Sources = []Source{
	{Name: "static-small", File: "small.txt"},
	{Name: "static-large", File: "large.txt", Conf: "sendfile off;"},
	{Name: "sendfile", File: "large.txt", Conf: "sendfile on; tcp_nopush on; sendfile_max_chunk 50k;"},
	{Name: "aio", File: "large.txt", Conf: "sendfile off; aio threads; output_buffers 2 16k;"},
	{Name: "aio-sendfile", File: "large.txt", Conf: "sendfile on; aio threads;"},
	{Name: "directio", File: "large.txt", Conf: "directio 512; output_buffers 1 64k;"},
	{Name: "gzip-static", File: "large.txt", Conf: "gzip_static on;"},
	{Name: "empty", File: "empty.txt"},
	{Name: "index", File: "dir/", Conf: "index index.txt;"},
	{Name: "directory", File: "dir", Tags: "redirect"},
	{Name: "missing", File: "missing.txt"},
	{Name: "limit-rate", File: "large.txt", Conf: "limit_rate 2m; limit_rate_after 64k;"},

	// The header alone takes as long as nginx lets it.
	{Name: "trickle", File: "empty.txt", Conf: "limit_rate 250;", Tags: "trickle"},
	// Some guests wait for longer than a client is waited for.
	{Name: "send-timeout", File: "small.txt", Conf: "send_timeout 15ms;", Tags: "hurry"},

	{Name: "proxy", Conf: proxy + "/file;"},
	{Name: "proxy-small", Conf: proxy + "/small;"},
	{Name: "proxy-chunked", Conf: proxy + "/chunked;"},
	{Name: "proxy-spilled", Conf: proxy + "/large; proxy_buffers 2 8k; proxy_buffer_size 4k; proxy_busy_buffers_size 8k; sendfile on;"},
	{Name: "proxy-limit-rate", Conf: proxy + "/large; limit_rate 2m;"},
	{Name: "unbuffered", Conf: proxy + "/large; proxy_buffering off;"},
	{Name: "unbuffered-chunked", Conf: proxy + "/chunked; proxy_buffering off;"},
	{Name: "upstream-empty", Conf: proxy + "/empty;"},
	{Name: "upstream-204", Conf: proxy + "/204;"},
	{Name: "upstream-301", Conf: proxy + "/301;"},
	{Name: "upstream-404", Conf: proxy + "/404;"},
	{Name: "upstream-500", Conf: proxy + "/500;"},
	{Name: "upstream-part", Conf: proxy + "/part;"},
	{Name: "upstream-gone", Conf: "proxy_pass http://unix:${nobody};"},
	{Name: "negotiated", Conf: proxy + "/negotiated;"},
	{Name: "gunzip", Conf: proxy + "/packed; gunzip on;", Packed: true},

	{Name: "cache-miss", Conf: proxy + "/file; proxy_cache one; proxy_cache_key miss$request_uri;", File: "?%d"},
	{Name: "cache-spread", Conf: proxy + "/spread; sendfile on; proxy_cache one; proxy_cache_key spread$request_uri;", File: "?%d"},
	{Name: "cache-hit", Conf: proxy + "/file; proxy_cache one; proxy_cache_key hit;"},
	{Name: "cache-stale", Conf: proxy + "/file; proxy_cache one; proxy_cache_key stale$args; proxy_cache_valid 200 1s; proxy_cache_use_stale updating; proxy_cache_background_update on;",
		File: "?%d", Once: true, Stale: true},
	{Name: "slice", Conf: proxy + "/file; slice 32k; proxy_set_header Range $slice_range; proxy_cache one; proxy_cache_key slice$request_uri$slice_range; proxy_cache_valid 200 206 1h;", File: "?%d"},

	{Name: "ssi", File: "ssi.txt", Conf: "ssi on; ssi_types *;", Adds: true},
	{Name: "ssi-wait", File: "ssi-wait.txt", Conf: "ssi on; ssi_types *;", Adds: true},
	{Name: "ssi-variable", File: "ssi-variable.txt", Conf: "ssi on; ssi_types *;", Adds: true},
	{Name: "proxy-ssi", Conf: proxy + "/ssi; ssi on; ssi_types *;", Adds: true},
	{Name: "proxy-addition", Conf: proxy + "/chunked; addition_types *; add_before_body /include/unbuffered; add_after_body /include/proxy;", Adds: true},
	{Name: "sub", File: "large.txt", Conf: "sub_filter word WORD; sub_filter_once off; sub_filter_types *;", Adds: true},
	{Name: "addition", File: "large.txt", Conf: "addition_types *; add_before_body /include/unbuffered; add_after_body /include/proxy;", Adds: true},
	{Name: "accel", Conf: proxy + "/accel;"},
	{Name: "auth-request", File: "large.txt", Conf: "auth_request /include/204;"},
	{Name: "mirror", File: "large.txt", Conf: "mirror /include/proxy;"},
	{Name: "always", Conf: proxy + "/small; add_header X-Always yes always;"},

	{Name: "error-page", File: "missing.txt", Conf: "error_page 404 /internal/large.txt;"},
	{Name: "error-named", Conf: proxy + "/404; proxy_intercept_errors on; error_page 404 = @named;"},
	{Name: "error-early", Conf: "error_page 418 = @named; return 418;"},
	{Name: "page-large", File: "large.txt", Conf: "error_page 500 502 503 /internal/large.txt;"},
	{Name: "page-proxied", Conf: proxy + "/large; error_page 500 502 503 /internal/proxy;"},
	{Name: "page-named", Conf: proxy + "/chunked; error_page 500 502 503 = @named;"},
	{Name: "page-elsewhere", File: "small.txt", Conf: "error_page 500 502 503 http://elsewhere.test/;"},

	// What is collected of it is too much, and so is the page that says so.
	{Name: "page-too-large", File: "large.txt", Conf: "http_wasm_response_buffer 1k max=4k; error_page 502 /internal/large.txt;", Tags: "too large"},
	{Name: "page-post", Conf: proxy + "/small; error_page 500 502 503 = @named;", Method: "POST", Body: dav, Tags: "post"},

	{Name: "return-200", Conf: `return 200 "returned\n";`, Bypass: true},
	{Name: "return-204", Conf: "return 204;", Bypass: true},
	{Name: "return-301", Conf: "return 301 /moved;", Bypass: true},
	{Name: "return-404", Conf: "return 404;", Bypass: true},

	{Name: "cut", Conf: proxy + "/cut;", Cut: true},
	{Name: "cut-chunked", Conf: proxy + "/cut-chunked;", Cut: true},
	{Name: "cut-unbuffered", Conf: proxy + "/cut; proxy_buffering off;", Cut: true},

	{Name: "dav-put", File: "%d", Conf: "dav_methods PUT DELETE;", Method: "PUT", Body: dav, Once: true, Bare: true, Leaves: string(dav), Tags: "dav"},
	{Name: "dav-overwrite", File: "%d", Conf: "dav_methods PUT DELETE;", Method: "PUT", Body: dav, Once: true, Bare: true, Exists: true, Leaves: string(dav), Tags: "dav"},
	{Name: "dav-delete", File: "%d", Conf: "dav_methods PUT DELETE;", Method: "DELETE", Once: true, Bare: true, Exists: true, Tags: "dav"},
	{Name: "post", Conf: proxy + "/small;", Method: "POST", Body: dav, Tags: "post"},

	{Name: "post-refused", Conf: proxy + "/small; client_max_body_size 1k;", Method: "POST", Body: dav, Chunked: true, Tags: "post"},

	{Name: "fastcgi", Conf: fastcgi + "fastcgi_param REQUEST_URI /large;"},
	{Name: "fastcgi-empty", Conf: fastcgi + "fastcgi_param REQUEST_URI /empty;"},
	{Name: "grpc", Conf: "grpc_pass grpc://rpc;", File: "svc/call", Method: "POST", Body: []byte("\x00\x00\x00\x00\x00"), Tags: "grpc"},
	{Name: "grpc-small", Conf: "grpc_pass grpc://rpc;", File: "svc/small", Method: "POST", Body: []byte("\x00\x00\x00\x00\x00"), Tags: "grpc"},
	{Name: "grpc-refused", Conf: "grpc_pass grpc://rpc;", File: "svc/refused", Method: "POST", Body: []byte("\x00\x00\x00\x00\x00"), Tags: "grpc"},
	{Name: "upgrade", Conf: proxy + `/upgrade; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";`, Upgrade: true},
}

const fastcgi = "fastcgi_pass unix:${fastcgi}; fastcgi_param REQUEST_METHOD $request_method; fastcgi_param SERVER_PROTOCOL $server_protocol; "

// Path is that of the n-th request.
func (s Source) Path(n int) string {
	file := s.File
	if strings.Contains(file, "%d") {
		file = fmt.Sprintf(file, n)
	}

	return "/" + s.Name + "/" + file
}

// Failed is the path at which the server without guests has the page that a request of this source fails with.
func (s Source) Failed(status int) string { return fmt.Sprintf("/failed/%d/%s/", status, s.Name) }

// location is its part of a server.
func (s Source) location() string {
	return fmt.Sprintf("        location /%s/ { %s }\n", s.Name, s.inside())
}

func (s Source) inside() string {
	root := "alias ${html}/;"
	switch {
	case s.Tags == "dav":
		root = "alias ${put}/;"
	case strings.Contains(s.Conf, "_pass "):
		root = ""
	}

	return root + " " + s.Conf
}

// failed are the locations of its pages: nginx sends them through the same filters.
func (s Source) failed() string {
	text := ""
	for _, status := range []int{500, 502} {
		text += fmt.Sprintf("        location %s { return %d; %s }\n", s.Failed(status), status, s.inside())
	}

	return text
}

// Whole is what the origin would have sent, had it not been cut short.
func (s Source) Whole() []byte { return text[:cutAt] }
