//go:build wasip1

// Command fetch is a guest that asks another server with net/http: for the URL
// behind "/fetch?", following redirects, and answers with what it got. Behind
// "/both?" are two of them, with a space between, which it asks at the same
// time.
package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/stealthrocket/net/wasip1"

	"ngx-http-wasm-handler/tests/guests/go/httpwasm"
)

var client = &http.Client{
	Transport: &http.Transport{DialContext: wasip1.DialContext, MaxIdleConnsPerHost: 4},
	Timeout:   5 * time.Second,
}

func get(target string) string {
	reused := "new"
	request, err := http.NewRequest("GET", target, nil)
	if err != nil {
		return err.Error()
	}
	trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		if info.Reused {
			reused = "reused"
		}
	}}
	response, err := client.Do(request.WithContext(httptrace.WithClientTrace(request.Context(), trace)))
	if err != nil {
		return err.Error()
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d %s %s", response.StatusCode, reused, body)
}

func init() {
	httpwasm.HandleRequest = func() (bool, uint32) {
		path, query, _ := strings.Cut(httpwasm.URI(), "?")
		query, err := url.QueryUnescape(query)
		if err != nil || path != "/fetch" && path != "/both" {
			return true, 0
		}
		targets := strings.Fields(query)
		results := make([]string, len(targets))
		var all sync.WaitGroup
		for i, target := range targets {
			all.Add(1)
			go func() {
				defer all.Done()
				results[i] = get(target)
			}()
		}
		all.Wait()
		httpwasm.WriteBody(httpwasm.Response, []byte(strings.Join(results, "\n")))
		return false, 0
	}
}

func main() {}
