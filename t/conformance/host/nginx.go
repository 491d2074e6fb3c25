package host

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"ngx-http-wasm-handler/conformance/client"
	"ngx-http-wasm-handler/tck/harness/nginxtest"
)

// Nginx is the module under test, in the nginx that the environment names.
type Nginx struct {
	version int
	quic    bool
}

// NewNginx asks the binary what it can.
func NewNginx(t testing.TB) Nginx {
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

	return Nginx{version, bytes.Contains(flags, []byte("--with-http_v3_module"))}
}

// Name implements Host.
func (n Nginx) Name() string {
	return fmt.Sprintf("nginx %d.%d.%d", n.version/1000000, n.version/1000%1000, n.version%1000)
}

// Protocols implements Host.
func (n Nginx) Protocols() ([]string, map[string]string) {
	if n.quic {
		return []string{client.HTTP1, client.HTTP2, client.HTTP3}, nil
	}

	return []string{client.HTTP1, client.HTTP2}, map[string]string{client.HTTP3: "this nginx has no HTTP/3"}
}

const (
	// A name tells the backends apart, because a guest may change everything else.
	nameHeader = "X-Conformance-Guest"

	server = `
    server {
        listen ${addr0}%[1]s;
        %[2]s
        server_name %[3]s;
        error_log ${dir}/%[4]s.log %[5]s;

        location / {
            http_wasm ${dir}/%[4]s.wasm%[6]s;
            proxy_pass %[7]s;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $request_host;
            proxy_set_header ` + nameHeader + ` %[4]s;
        }
    }
`
	common = `
    ssl_certificate ${dir}/cert.pem;
    ssl_certificate_key ${dir}/key.pem;
    client_max_body_size 0;
    server_names_hash_max_size 4096;
    # In HTTP/3 not every nginx makes a Host header of the authority.
    map $http_host $request_host {
        "" $host;
        default $http_host;
    }
    # Every failure is one: no second try elsewhere, no error page from anywhere else, however many there were before.
    proxy_next_upstream off;
    http_wasm_breaker off;
`
)

type running struct {
	t        testing.TB
	server   *nginxtest.Server
	backend  *httptest.Server
	identity nginxtest.Identity
	names    []string
	quic     bool
	once     sync.Once
}

// Start implements Host.
func (n Nginx) Start(t testing.TB, deployments []*Deployment) Running {
	t.Helper()

	r := &running{t: t, quic: n.quic, identity: nginxtest.NewIdentity(t)}

	backends := make(map[string]http.Handler)
	r.backend = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		name := req.Header.Get(nameHeader)
		req.Header.Del(nameHeader)
		backends[name].ServeHTTP(w, req)
	}))
	t.Cleanup(r.backend.Close)
	// Before it waits for requests that are left: nginx stops first.
	t.Cleanup(r.backend.CloseClientConnections)

	files := map[string][]byte{"cert.pem": r.identity.CertPEM, "key.pem": r.identity.KeyPEM}
	text := common
	for i, d := range deployments {
		backends[d.Name] = d.Backend
		r.names = append(r.names, d.Name)
		maps.Copy(files, d.files())
		text += n.server(d, r.backend.URL, i == 0)
	}

	r.server = nginxtest.Start(t, nginxtest.Config{Ports: 2, HTTP: text, Files: files})
	t.Cleanup(r.Stop)

	return r
}

func (d *Deployment) files() map[string][]byte {
	files := map[string][]byte{d.Name + ".wasm": d.Wasm}
	if d.Config != nil {
		files[d.Name+".config"] = d.Config
	}

	return files
}

func (n Nginx) server(d *Deployment, backend string, first bool) string {
	level, config, suffix := "info", "", ""
	if d.LogLevel != "" {
		level = d.LogLevel
	}
	if d.Config != nil {
		config = " config_file=${dir}/" + d.Name + ".config"
	}
	if d.Default {
		suffix = " default_server"
	}
	secure := "listen ${addr1}" + suffix + " ssl http2;"
	if n.version >= 1025001 {
		secure = "listen ${addr1}" + suffix + " ssl; http2 on;"
	}
	if n.quic {
		// The port of TCP is free for UDP as well, but for rare accidents, which nginxtest knows how to meet. Each worker
		// has a socket of its own; that may be said once.
		secure += " listen ${addr1} quic" + suffix
		if first {
			secure += " reuseport"
		}
		secure += ";"
	}

	return fmt.Sprintf(server, suffix, secure, d.Authority(), d.Name, level, config, backend)
}

func (r *running) Clients() map[string]client.Client {
	clients := map[string]client.Client{
		client.HTTP1: client.H1{Addr: r.server.Addrs[0]},
		client.HTTP2: client.NewH2(r.server.Addrs[1], &tls.Config{RootCAs: r.identity.Roots}),
	}
	if r.quic {
		clients[client.HTTP3] = client.NewH3(r.server.Addrs[1], &tls.Config{RootCAs: r.identity.Roots})
	}

	return clients
}

func (r *running) Log(name string) string {
	text, err := os.ReadFile(filepath.Join(r.server.Dir, name+".log"))
	if err != nil {
		return err.Error()
	}

	return string(text)
}

func (r *running) Stop() { r.once.Do(r.stop) }

func (r *running) stop() {
	r.server.Stop(r.t)
	for _, name := range r.names {
		for line := range strings.Lines(r.Log(name)) {
			if strings.Contains(line, "[alert]") || strings.Contains(line, "[emerg]") || strings.Contains(line, "[crit]") {
				r.t.Errorf("error log of %s: %s", name, line)
			}
		}
	}
}

// Refusal implements Host.
func (n Nginx) Refusal(t testing.TB, d *Deployment) string {
	t.Helper()

	binary, module := nginxtest.Paths(t)
	dir := t.TempDir()
	conf := fmt.Sprintf(`load_module %s;
pid %[2]s/nginx.pid;
error_log stderr info;
events {}
http {
    client_body_temp_path %[2]s;
    proxy_temp_path %[2]s;
    fastcgi_temp_path %[2]s;
    uwsgi_temp_path %[2]s;
    scgi_temp_path %[2]s;
    server {
        listen unix:%[2]s/nginx.sock;
        http_wasm %[2]s/%[3]s.wasm;
    }
}
`, module, dir, d.Name)
	files := d.files()
	files["nginx.conf"] = []byte(conf)
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, binary, "-t", "-p", dir, "-c", "nginx.conf", "-e", "stderr").CombinedOutput()
	if err == nil {
		return ""
	}

	return string(out)
}
