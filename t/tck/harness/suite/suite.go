// Package suite runs the official http-wasm TCK against nginx. The TCK comes
// in versions of one Go module path, which cannot meet in one Go module: each
// version has a module of its own that hands its parts over to this package.
package suite

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"

	"ngx-http-wasm-handler/tck/harness/nginxtest"
)

// Version is one version of the TCK.
type Version struct {
	// Name is the version of http-wasm-host-go and the directory of the tests.
	Name string
	// Cases is how many test cases it has.
	Cases int
}

var (
	// V070 is the last suite published.
	V070 = Version{Name: "v0.7.0", Cases: 35}
	// V051 is the suite inside http-wasm-tck v0.2.0. Its guest answers most
	// requests itself, where the guest of V070 passes nearly all of them on.
	V051 = Version{Name: "v0.5.1", Cases: 34}
	// Versions are all of them.
	Versions = []Version{V070, V051}
)

const (
	// HTTP1 and HTTP2 are how the suites are run, as http.Response.Proto says it.
	HTTP1 = "HTTP/1.1"
	HTTP2 = "HTTP/2.0"
	// TestName is the test under which the cases of the TCK appear, below the
	// name of the protocol.
	TestName = "TestTCK"
)

// Protocols are all protocols a suite is run over.
var Protocols = []string{HTTP1, HTTP2}

// TCK is what a version of package tck exports.
type TCK struct {
	Version
	Guest   []byte
	Backend http.Handler
	Run     func(t *testing.T, client *http.Client, url string)
}

// TRACE is refused by nginx with 405 before any module is asked, which the
// error_page turns into a request of the named location; method, URI and
// headers are then still those of the client.
const config = `
    server {
        listen ${addr0};
        %s
        ssl_certificate ${dir}/cert.pem;
        ssl_certificate_key ${dir}/key.pem;

        error_page 405 = @wasm;

        location / {
            http_wasm ${dir}/tck.wasm;
            proxy_pass %s;
        }

        location @wasm {
            http_wasm ${dir}/tck.wasm;
            proxy_pass %[2]s;
        }
    }
`

// Nginx runs the TCK through nginx.
func (k TCK) Nginx(t *testing.T) {
	binary, _ := nginxtest.Paths(t)

	backend := httptest.NewServer(k.Backend)
	t.Cleanup(backend.Close)

	version, err := nginxtest.Version(binary)
	if err != nil {
		t.Fatal(err)
	}
	listen := "listen ${addr1} ssl http2;"
	if version >= 1025001 {
		listen = "listen ${addr1} ssl; http2 on;"
	}

	identity := nginxtest.NewIdentity(t)
	server := nginxtest.Start(t, nginxtest.Config{
		Ports: 2,
		HTTP:  fmt.Sprintf(config, listen, backend.URL),
		Files: map[string][]byte{
			"tck.wasm": k.Guest,
			"cert.pem": identity.CertPEM,
			"key.pem":  identity.KeyPEM,
		},
	})

	k.run(t, HTTP1, http1(), "http://"+server.Addrs[0])
	k.run(t, HTTP2, http2(&tls.Config{RootCAs: identity.Roots}), "https://"+server.Addrs[1])
}

// run runs the TCK over one protocol.
func (k TCK) run(t *testing.T, proto string, transport *http.Transport, url string) {
	t.Run(proto, func(t *testing.T) {
		strict := &Strict{Transport: transport, Proto: proto}
		t.Cleanup(transport.CloseIdleConnections)

		k.Run(t, strict.Client(), url)

		if n := strict.Cases(); n != k.Cases {
			t.Errorf("%d test cases were run, expected %d", n, k.Cases)
		}
	})
}

func http1() *http.Transport {
	return &http.Transport{TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}}
}

func http2(config *tls.Config) *http.Transport {
	return &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}
}

// Wrap puts the guest of the TCK in front of a handler: the reference host.
type Wrap func(t *testing.T, next http.Handler) http.Handler

// Reference runs the TCK against the reference host within the process: what
// it fails there is a defect of this package.
func (k TCK) Reference(t *testing.T, wrap Wrap) {
	k.reference(t, wrap(t, k.Backend), true)
}

func (k TCK) reference(t *testing.T, handler http.Handler, strict bool) {
	server := httptest.NewUnstartedServer(handler)
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)

	if !strict {
		t.Run(HTTP2, func(t *testing.T) { k.Run(t, server.Client(), server.URL) })
		return
	}

	plain := httptest.NewServer(handler)
	t.Cleanup(plain.Close)

	k.run(t, HTTP1, http1(), plain.URL)
	k.run(t, HTTP2, server.Client().Transport.(*http.Transport), server.URL)
}

// maskedMode selects what the child process of Masked does.
const maskedMode = "TCK_MASKED"

// Masked proves that a failure hidden by a proxy is found: the guest gets
// another method than the runner sent, complains, and the status of its
// complaint is overwritten. The cases of get_method have to fail, and with a
// client that is not strict they pass, which is why there is a strict one.
// The failing run happens in a child process of the same test.
func (k TCK) Masked(t *testing.T, wrap Wrap) {
	if mode := os.Getenv(maskedMode); mode != "" {
		k.reference(t, mask(wrap(t, k.Backend)), mode == "strict")
		return
	}

	const hidden = "/get_method/GET "

	out, err := child(t, "strict")
	for _, proto := range Protocols {
		if want := "--- FAIL: " + t.Name() + "/" + proto + hidden; !strings.Contains(out, want) {
			t.Errorf("no %q in the output:\n%s", want, out)
		}
	}
	if err == nil {
		t.Error("the strict run succeeded")
	}

	out, _ = child(t, "official")
	if want := "--- PASS: " + t.Name() + "/" + HTTP2 + hidden; !strings.Contains(out, want) {
		t.Errorf("no %q in the output:\n%s", want, out)
	}
}

func child(t *testing.T, mode string) (string, error) {
	t.Helper()

	cmd := exec.CommandContext(t.Context(), os.Args[0],
		"-test.run", "^"+t.Name()+"$", "-test.v", "-test.timeout", "1m")
	cmd.Env = append(os.Environ(), maskedMode+"="+mode)
	out, err := cmd.CombinedOutput()

	return string(out), err
}

func mask(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.Header.Get(headerTestID), "get_method/") {
			r.Method = "PROPFIND"
		}
		next.ServeHTTP(&okWriter{ResponseWriter: w}, r)
	})
}

// okWriter answers 200 whatever was asked for.
type okWriter struct{ http.ResponseWriter }

func (w *okWriter) WriteHeader(int) { w.ResponseWriter.WriteHeader(http.StatusOK) }
