//go:build wasip1

// Command waf is a web application firewall as an http-wasm guest: Coraza with
// the OWASP Core Rule Set, which are built in. The configuration of the guest
// (config= or config_file=) is JSON and says what differs from the defaults;
// see conf.Config.
package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/corazawaf/coraza/v3"
	"github.com/corazawaf/coraza/v3/types"

	"ngx-http-wasm-handler/examples/waf/conf"
	"ngx-http-wasm-handler/tests/guests/go/httpwasm"
)

// heapGrowth is GOGC: a request of a WAF leaves a lot of garbage. Memory is
// limited by the host (http_wasm_memory_limit, 128 MB if nobody says otherwise):
// from memoryLimit on garbage is looked for more often.
const (
	heapGrowth  = 400
	memoryLimit = 96 << 20
)

var (
	config conf.Config
	waf    coraza.WAF
	// current is the transaction of the request in hand: an instance has one
	// request at a time.
	current types.Transaction
	// started is set when requests may come: nobody wants to know what matches
	// before.
	started bool
)

// The start function of the guest: a reactor's init functions run inside of
// _initialize. With a snapshot they run once for all instances.
func init() {
	if err := start(); err != nil {
		httpwasm.Log(httpwasm.Error, err.Error())
		os.Exit(1)
	}
}

func start() (err error) {
	if config, err = conf.Parse(httpwasm.Config()); err != nil {
		return err
	}
	if waf, err = config.NewWAF(logMatch); err != nil {
		return fmt.Errorf("waf: the rules cannot be read: %w", err)
	}
	features := httpwasm.BufferRequest
	if config.ResponseInspection {
		features |= httpwasm.BufferResponse
	}
	if !httpwasm.Enable(features) {
		return fmt.Errorf("waf: the host does not give bodies to guests")
	}
	httpwasm.HandleRequest, httpwasm.HandleResponse = handleRequest, handleResponse

	// What the first requests would have to set up is ready, and garbage of the
	// start is gone, before a snapshot is taken.
	debug.SetGCPercent(heapGrowth)
	debug.SetMemoryLimit(memoryLimit)
	for range 3 {
		warmUp()
	}
	runtime.GC()
	started = true

	return nil
}

// warmUp sends a request through the rules that nobody has asked for.
func warmUp() {
	tx := waf.NewTransactionWithID("start")
	defer tx.Close()
	tx.ProcessConnection("127.0.0.1", 1, "127.0.0.1", 80)
	tx.ProcessURI("/search?q=what+is+new&page=2", "POST", "HTTP/1.1")
	for name, value := range map[string]string{
		"Host": "localhost", "Accept": "text/html", "User-Agent": "start", "Cookie": "session=0123456789",
		"Content-Type": "application/x-www-form-urlencoded", "Content-Length": "27",
	} {
		tx.AddRequestHeader(name, value)
	}
	tx.ProcessRequestHeaders()
	_, _, _ = tx.WriteRequestBody([]byte("name=somebody&text=some+text"))
	_, _ = tx.ProcessRequestBody()
}

func main() {}

// handleRequest lets a request pass, or answers it.
func handleRequest() (next bool, reqCtx uint32) {
	end()
	tx := waf.NewTransactionWithID(transactionID())
	current = tx
	if tx.IsRuleEngineOff() {
		return true, 0
	}
	interruption, err := inspectRequest(tx)
	if err != nil {
		fail(tx, err)
		return false, 0
	}
	if interruption != nil {
		refuse(tx, interruption)
		end()
		return false, 0
	}

	return true, 0
}

// handleResponse lets a response pass, or puts a page in its place.
func handleResponse(_ uint32, isError bool) {
	tx := current
	if tx == nil || tx.IsRuleEngineOff() || isError {
		end()
		return
	}
	interruption, err := inspectResponse(tx)
	switch {
	case err != nil:
		fail(tx, err)
	case interruption != nil:
		refuse(tx, interruption)
	}
	end()
}

// end logs what has to be logged of the request in hand, and forgets it.
func end() {
	if current == nil {
		return
	}
	current.ProcessLogging()
	if err := current.Close(); err != nil {
		httpwasm.Log(httpwasm.Error, "waf: "+err.Error())
	}
	current = nil
}

// fail is for what should not happen: a request that cannot be inspected is not
// let through.
func fail(tx types.Transaction, err error) {
	httpwasm.Log(httpwasm.Error, fields("msg", "the request cannot be inspected", "error", err.Error(), "tx", tx.ID()))
	httpwasm.SetStatus(500)
	httpwasm.WriteBody(httpwasm.Response, nil)
	end()
}

// refuse answers as a rule wants it.
func refuse(tx types.Transaction, it *types.Interruption) {
	status := it.Status
	if it.Action == "redirect" {
		if status < 300 || status > 399 {
			status = 302
		}
		httpwasm.SetHeader(httpwasm.Response, "Location", it.Data)
	}
	if status < 200 {
		status = 403
	}
	httpwasm.Log(httpwasm.Warn, fields("msg", "refused", "action", it.Action, "status", fmt.Sprint(status),
		"rule", fmt.Sprint(it.RuleID), "tx", tx.ID()))
	httpwasm.SetStatus(status)
	httpwasm.SetHeader(httpwasm.Response, "Content-Type", "text/plain")
	httpwasm.WriteBody(httpwasm.Response, []byte(fmt.Sprintf("%d\n", status)))
}
