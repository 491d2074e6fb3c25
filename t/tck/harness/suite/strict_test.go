package suite

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestStrict(t *testing.T) {
	tests := []struct {
		name    string
		proto   string
		answer  func(w http.ResponseWriter)
		failure string
	}{
		{"accepted", HTTP1, func(w http.ResponseWriter) {}, ""},
		{"marker", HTTP1, func(w http.ResponseWriter) { w.Header().Set("x-httpwasm-tck-failed", "reason") },
			"the guest says: reason"},
		{"empty marker", HTTP1, func(w http.ResponseWriter) { w.Header().Set("x-httpwasm-tck-failed", "") },
			"the guest says: "},
		{"status", HTTP1, func(w http.ResponseWriter) { w.WriteHeader(http.StatusMethodNotAllowed) },
			"status is 405 Method Not Allowed, expected 200"},
		{"redirect", HTTP1, func(w http.ResponseWriter) {
			w.Header().Set("Location", "/")
			w.WriteHeader(http.StatusFound)
		}, "status is 302 Found, expected 200"},
		{"protocol", HTTP2, func(w http.ResponseWriter) {}, "response is HTTP/1.1, expected HTTP/2.0"},
		{"aborted", HTTP1, func(w http.ResponseWriter) { panic(http.ErrAbortHandler) }, "no response: EOF"},
	}

	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				tt.answer(w)
			}))
			defer server.Close()

			strict := &Strict{Transport: http1(), Proto: tt.proto}
			// POST, as the transport repeats a GET on a broken connection.
			resp, err := strict.Client().Post(server.URL, "text/plain", strings.NewReader("body"))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()

			want := http.StatusOK
			if tt.failure != "" {
				want = http.StatusInternalServerError
			}
			if resp.StatusCode != want {
				t.Errorf("status is %d, expected %d", resp.StatusCode, want)
			}
			if have := resp.Header.Get(headerFailed); have != tt.failure {
				t.Errorf("failure is %q, expected %q", have, tt.failure)
			}
		})
	}
}

func TestStrictCountsCasesOnce(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()

	strict := &Strict{Transport: http1(), Proto: HTTP1}
	for _, id := range []string{"a", "b", "a"} {
		req, err := http.NewRequest("GET", server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(headerTestID, id)
		resp, err := strict.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}

	if n := strict.Cases(); n != 2 {
		t.Errorf("counted %d cases, expected 2", n)
	}
}
