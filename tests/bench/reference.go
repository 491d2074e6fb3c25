package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strconv"

	"github.com/http-wasm/http-wasm-host-go/handler"
	wasm "github.com/http-wasm/http-wasm-host-go/handler/nethttp"
	"github.com/tetratelabs/wazero"
)

// referenceCell tells the process of the reference host what to serve on a port.
type referenceCell struct {
	Port  int
	Guest string
	// Config is the guest's configuration.
	Config string
	// One of these is the next handler: a backend, a directory of files, the site with a page, or else a small image.
	Backend, Files string
	Page           []byte
}

// serveReference runs http-wasm-host-go on net/http, or on Go's reverse proxy in front of a backend.
func serveReference(orders io.Reader) error {
	var cells []referenceCell
	if err := json.NewDecoder(orders).Decode(&cells); err != nil {
		return err
	}
	failed := make(chan error)
	listeners := make([]net.Listener, len(cells))
	for i, cell := range cells {
		guest, err := os.ReadFile(cell.Guest)
		if err != nil {
			return err
		}
		m, err := wasm.NewMiddleware(context.Background(), guest, handler.GuestConfig([]byte(cell.Config)),
			handler.ModuleConfig(reactor()))
		if err != nil {
			return fmt.Errorf("%s: %w", cell.Guest, err)
		}
		served := m.NewHandler(context.Background(), next(cell))
		if listeners[i], err = net.Listen("tcp4", "127.0.0.1:"+strconv.Itoa(cell.Port)); err != nil {
			return err
		}
		go func() { failed <- http.Serve(listeners[i], served) }()
	}

	return <-failed
}

// reactor has guests in Go start, which wazero does not by itself, with real clocks.
func reactor() wazero.ModuleConfig {
	return wazero.NewModuleConfig().WithStartFunctions("_start", "_initialize").WithSysWalltime().WithSysNanotime().WithSysNanosleep()
}

func next(cell referenceCell) http.Handler {
	if cell.Backend != "" {
		proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: cell.Backend})
		proxy.Transport = &http.Transport{MaxIdleConnsPerHost: 64}

		return proxy
	}
	if cell.Files != "" {
		return http.FileServer(http.Dir(cell.Files))
	}
	if cell.Page != nil {
		return siteHandler(cell.Page)
	}
	pixel := []byte("GIF89a\x01\x00\x01\x00\x80\x01\x00\x00\x00\x00\xff\xff\xff!\xf9\x04\x01\x00\x00\x01\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02L\x01\x00;")

	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "image/gif")
		_, _ = w.Write(pixel)
	})
}

// referenceFor translates a cell; nginx's contents have their counterparts in Go.
func referenceFor(s *Settings, c *Cell, port int, content string, up upstreams) referenceCell {
	guest := filepath.Join(s.Guests, c.Peer.Conf)
	r := referenceCell{Port: port, Guest: guest[:len(guest)-len(".wat")] + ".wasm"}
	switch content {
	case toQuick:
		r.Backend = up.quick
	case toEcho:
		r.Backend = up.echo
	case "root www;":
		r.Files = filepath.Join(s.Dir, "www")
	}

	return r
}
