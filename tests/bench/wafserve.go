package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"

	txhttp "github.com/corazawaf/coraza/v3/http"
	"github.com/corazawaf/coraza/v3/types"

	"ngx-http-wasm-handler/examples/waf/conf"
)

// The site behind the firewall, on nginx and in Go.
const (
	siteText = "ok\n"
	sitePage = "/page.html"
	// siteLeak is an error message of a database, which rules for responses refuse.
	siteLeak     = "/broken"
	siteLeakText = "You have an error in your SQL syntax; check the manual that corresponds to your MySQL server version\n"
)

// siteBlock is the site as a server of nginx.
func siteBlock(port int) string {
	return fmt.Sprintf(`    server {
        listen 127.0.0.1:%d;
        default_type text/html;
        location / { return 200 "ok\n"; }
        location = %s { root www; }
        location = %s { return 200 "%s\n"; }
    }
`, port, sitePage, siteLeak, siteLeakText[:len(siteLeakText)-1])
}

// siteHandler is the same in Go.
func siteHandler(page []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/html")
		switch r.URL.Path {
		case sitePage:
			_, _ = w.Write(page)
		case siteLeak:
			_, _ = io.WriteString(w, siteLeakText)
		default:
			_, _ = io.WriteString(w, siteText)
		}
	})
}

// corazaOrders are what the subcommand "coraza" is told.
type corazaOrders struct {
	Port int
	// Config is the configuration of the guest.
	Config string
	Page   []byte
}

// serveCoraza runs Coraza as its own middleware, with the rules and the configuration of the guest.
func serveCoraza(orders io.Reader) error {
	var o corazaOrders
	if err := json.NewDecoder(orders).Decode(&o); err != nil {
		return err
	}
	config, err := conf.Parse(o.Config)
	if err != nil {
		return err
	}
	waf, err := config.NewWAF(func(types.MatchedRule) {})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp4", "127.0.0.1:"+strconv.Itoa(o.Port))
	if err != nil {
		return err
	}

	return http.Serve(l, txhttp.WrapHandler(waf, siteHandler(o.Page)))
}
