package tck_test

import (
	"net/http"
	"testing"

	wasm "github.com/http-wasm/http-wasm-host-go/handler/nethttp"
	"github.com/http-wasm/http-wasm-host-go/tck"

	"ngx-http-wasm-handler/tck/harness/suite"
)

var official = suite.TCK{
	Version: suite.V070,
	Guest:   tck.GuestWASM,
	Backend: tck.BackendHandler(),
	Run:     tck.Run,
}

func TestTCK(t *testing.T) { official.Nginx(t) }

func TestReferenceHost(t *testing.T) { official.Reference(t, referenceHost) }

func TestMaskedFailure(t *testing.T) { official.Masked(t, referenceHost) }

func referenceHost(t *testing.T, next http.Handler) http.Handler {
	middleware, err := wasm.NewMiddleware(t.Context(), tck.GuestWASM)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { middleware.Close(t.Context()) })

	return middleware.NewHandler(t.Context(), next)
}
