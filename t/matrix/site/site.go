package site

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ngx-http-wasm-handler/tck/harness/nginxtest"
)

// Site is the configuration of all servers and what it needs.
type Site struct {
	// Config has the addresses of HTTP/1, HTTP/2 without TLS, and HTTP/3 if there is one.
	Config   nginxtest.Config
	Identity nginxtest.Identity
	H3       bool
	// put is the directory of the files that WebDAV changes.
	put string
}

// CanaryPath is answered with Canary by every server, without a guest.
const (
	CanaryPath = "/canary"
	Canary     = "still in step\n"
)

const shared = `
    error_log ${dir}/error.log error;
    http_wasm_breaker off;
    http_wasm_timeout 10s;
    http_wasm_response_buffer 64k max=8m;
    http_wasm_pool max=64 wait=30s;

    default_type text/plain;
    absolute_redirect off;
    gzip on;
    gzip_types *;
    gzip_min_length 0;
    gzip_buffers 4 8k;
    client_body_buffer_size 2k;
    keepalive_requests 100000;
    keepalive_timeout 60s;
    server_names_hash_max_size 4096;
    server_names_hash_bucket_size 256;
    variables_hash_max_size 4096;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_max_temp_file_size 10m;
    proxy_cache_path ${dir}/cache keys_zone=one:10m inactive=2h;
    proxy_cache_valid 200 1h;
    add_header X-Cache $upstream_cache_status;
    upstream origin { server unix:${http}; keepalive 16; }
    upstream rpc { server unix:${grpc}; keepalive 16; }
    ssl_certificate ${dir}/cert.pem;
    ssl_certificate_key ${dir}/key.pem;
`

// What every server has beside its sources.
const common = `
        location = /canary { http_wasm off; gzip off; return 200 "still in step\n"; }
        location /internal/ { internal; alias ${html}/; }
        location = /internal/proxy { internal; proxy_pass http://origin/large; proxy_pass_request_body off; proxy_set_header Content-Length ""; }
        location @bodiless { rewrite ^ /small break; proxy_pass http://origin; proxy_pass_request_body off; proxy_set_header Content-Length ""; }
        location @named { rewrite ^ /small break; proxy_pass http://origin; }
        location = /include/proxy { proxy_pass http://origin/small; }
        location = /include/unbuffered { proxy_pass http://origin/chunked; proxy_buffering off; }
        location = /include/variable { add_header X-Outcome $wasm_outcome always; proxy_pass http://origin/small; }
        location = /include/204 { proxy_pass http://origin/204; }
`

// New starts the origins and makes the configuration. Slice is http_wasm_slice. Further, if there is one, is further text for
// the i-th server; that without guests is the first.
func New(t testing.TB, slice string, further func(i int) string) *Site {
	t.Helper()
	binary, _ := nginxtest.Paths(t)
	version, err := nginxtest.Version(binary)
	if err != nil {
		t.Fatal(err)
	}
	flags, err := exec.Command(binary, "-V").CombinedOutput()
	if err != nil {
		t.Fatal(err)
	}
	s := &Site{Identity: nginxtest.NewIdentity(t), H3: bytes.Contains(flags, []byte("--with-http_v3_module"))}
	s.Config.Ports = 2
	listen := "        listen ${addr0}%s;\n"
	if version >= 1025001 {
		listen += "        listen ${addr1};\n        http2 on;\n"
	} else {
		listen += "        listen ${addr1} http2;\n"
	}
	if s.H3 {
		s.Config.Ports = 3
		listen += "        listen ${addr2} ssl;\n        listen ${addr2} quic;\n"
	}

	dir := t.TempDir()
	s.put = filepath.Join(dir, "put")
	writeFiles(t, dir)
	o := serveOrigins(t)
	s.Config.Files = map[string][]byte{"cert.pem": s.Identity.CertPEM, "key.pem": s.Identity.KeyPEM}
	conf := shared + fmt.Sprintf("    http_wasm_slice %s;\n", slice)
	for i, server := range append([]Server{{Name: Plain}}, Servers...) {
		// Options of a socket are said once.
		options := ""
		if i == 0 {
			options = " sndbuf=32k"
		}
		conf += "    server {\n" + fmt.Sprintf(listen, options) + fmt.Sprintf("        server_name %s;\n", server.Host())
		if further != nil {
			conf += further(i)
		}
		conf += s.guests(t, server) + common
		for _, source := range Sources {
			conf += source.location()
			if i == 0 {
				conf += source.failed()
			}
		}
		conf += "    }\n"
	}
	s.Config.HTTP = strings.NewReplacer("${http}", o.http, "${fastcgi}", o.fastcgi, "${grpc}", o.grpc, "${nobody}", o.nobody,
		"${html}", filepath.Join(dir, "html"), "${put}", s.put).Replace(conf)

	return s
}

// guests writes those of a server, and returns its directives.
func (s *Site) guests(t testing.TB, server Server) string {
	t.Helper()
	prelude, err := os.ReadFile("../../tests/guests/conformance/prelude.wat")
	if err != nil {
		t.Fatal(err)
	}
	conf := ""
	for _, l := range server.Levels {
		text, err := l.guest().WAT(string(prelude))
		if err != nil {
			t.Fatalf("guest %s: %v", l.Name, err)
		}
		s.Config.Files[l.Name+".wat"] = []byte(text)
		conf += fmt.Sprintf("        http_wasm ${dir}/%s.wat;\n", l.Name)
	}
	if server.Open {
		conf += "        http_wasm_on_error open;\n"
	}

	return conf
}

// writeFiles makes what is served from files.
func writeFiles(t testing.TB, dir string) {
	t.Helper()
	include := func(path string) string { return fmt.Sprintf("<!--#include virtual=%q -->", path) }
	for name, content := range map[string][]byte{
		"html/small.txt":        text[:small],
		"html/large.txt":        text[:large],
		"html/large.txt.gz":     packedLarge,
		"html/empty.txt":        nil,
		"html/dir/index.txt":    []byte("an index\n"),
		"html/ssi.txt":          fmt.Appendf(nil, "begin %s%s%s end\n", include("/include/proxy"), text[:small], include("/include/unbuffered")),
		"html/ssi-variable.txt": fmt.Appendf(nil, "begin %s%s end\n", include("/include/variable"), text[:small]),
		"html/ssi-wait.txt": fmt.Appendf(nil, "begin <!--#set var=\"x\" value=\"y\" --><!--#include virtual=\"/include/unbuffered\" wait=\"yes\" -->%s<!--#echo var=\"x\" -->%s end\n",
			text[:large], include("/include/204")),
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, modified, modified); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "put"), 0o755); err != nil {
		t.Fatal(err)
	}
}

// Before puts the file of the n-th request in place, if there is to be one.
func (s *Site) Before(source Source, n int) error {
	if !source.Exists {
		return nil
	}

	return os.WriteFile(s.file(source, n), []byte("there before\n"), 0o644)
}

// After says what is wrong with the file of the n-th request, and removes it. untouched: the request was not to get as far
// as the file.
func (s *Site) After(source Source, n int, untouched bool) error {
	if source.Tags != "dav" {
		return nil
	}
	want := source.Leaves
	if untouched {
		want = ""
		if source.Exists {
			want = "there before\n"
		}
	}
	content, err := os.ReadFile(s.file(source, n))
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	_ = os.Remove(s.file(source, n))
	if string(content) != want {
		return fmt.Errorf("the file has %d bytes, expected %d", len(content), len(want))
	}

	return nil
}

func (s *Site) file(source Source, n int) string { return filepath.Join(s.put, fmt.Sprint(n)) }
