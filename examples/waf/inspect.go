//go:build wasip1

package main

import (
	"crypto/rand"
	"encoding/hex"
	"mime"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/corazawaf/coraza/v3/types"

	"ngx-http-wasm-handler/examples/waf/conf"
	"ngx-http-wasm-handler/tests/guests/go/httpwasm"
)

// bodyPart is how much of a body is read at a time.
const bodyPart = 64 << 10

// inspectRequest runs the rules for the request's header and body.
func inspectRequest(tx types.Transaction) (*types.Interruption, error) {
	client, port := address(httpwasm.SourceAddr())
	tx.ProcessConnection(client, port, "", 0)
	tx.ProcessURI(httpwasm.URI(), httpwasm.Method(), httpwasm.ProtocolVersion())
	for _, name := range httpwasm.HeaderNames(httpwasm.Request) {
		for _, value := range httpwasm.HeaderValues(httpwasm.Request, name) {
			tx.AddRequestHeader(name, value)
			if strings.EqualFold(name, "host") {
				host, _ := address(value)
				tx.SetServerName(host)
			}
		}
	}
	if it := tx.ProcessRequestHeaders(); it != nil {
		return it, nil
	}
	if tx.IsRequestBodyAccessible() {
		part := make([]byte, bodyPart)
		for last := false; !last; {
			var n int
			n, last = httpwasm.ReadBody(httpwasm.Request, part)
			if it, _, err := tx.WriteRequestBody(part[:n]); it != nil || err != nil {
				return it, err
			}
		}
	}

	return tx.ProcessRequestBody()
}

// inspectResponse runs the rules for the response's header and body.
func inspectResponse(tx types.Transaction) (*types.Interruption, error) {
	contentType := ""
	for _, name := range httpwasm.HeaderNames(httpwasm.Response) {
		for _, value := range httpwasm.HeaderValues(httpwasm.Response, name) {
			tx.AddResponseHeader(name, value)
			if strings.EqualFold(name, "content-type") {
				contentType = value
			}
		}
	}
	if it := tx.ProcessResponseHeaders(httpwasm.Status(), httpwasm.ProtocolVersion()); it != nil {
		return it, nil
	}
	// Bodies of other types go by, and are not held where the operator says so
	// (http_wasm_buffer_types): to ask for them would be a trap.
	media, _, _ := mime.ParseMediaType(contentType)
	if config.ResponseInspection && slices.Contains(conf.Inspected, media) && tx.IsResponseBodyProcessable() {
		part := make([]byte, bodyPart)
		for last := false; !last; {
			var n int
			n, last = httpwasm.ReadBody(httpwasm.Response, part)
			it, written, err := tx.WriteResponseBody(part[:n])
			if it != nil || err != nil {
				return it, err
			}
			if written < n {
				break // the limit: the rest is not looked at
			}
		}
	}

	return tx.ProcessResponseBody()
}

// address is what is before and behind the colon of host:port.
func address(text string) (string, int) {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return text, 0
	}
	number, _ := strconv.Atoi(port)

	return host, number
}

// transactionID is what the log calls the request: its X-Request-Id, as nginx
// may set it with http_wasm_field, or a random one. It is never the same for two
// requests, also where instances begin with one snapshot.
func transactionID() string {
	if id := httpwasm.Header(httpwasm.Request, "x-request-id"); id != "" && len(id) <= 64 && isPlain(id) {
		return id
	}
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails: the program would end

	return hex.EncodeToString(id[:])
}

func isPlain(id string) bool {
	return strings.IndexFunc(id, func(c rune) bool {
		return (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && c != '-' && c != '_'
	}) < 0
}

// logMatch writes a line for a rule that matched.
func logMatch(match types.MatchedRule) {
	if !started {
		return
	}
	rule := match.Rule()
	data := match.Data()
	if len(data) > 200 {
		data = data[:200]
	}
	level := httpwasm.Info
	if rule.Severity() <= types.RuleSeverityWarning {
		level = httpwasm.Warn
	}
	httpwasm.Log(level, fields("msg", match.Message(), "rule", strconv.Itoa(rule.ID()),
		"severity", rule.Severity().String(), "data", data, "tx", match.TransactionID()))
}

// fields is a message of names and values, as logfmt has it: the variables
// $wasm_log_rule and so on find them.
func fields(pairs ...string) string {
	var text strings.Builder
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] == "" {
			continue
		}
		if text.Len() > 0 {
			text.WriteByte(' ')
		}
		text.WriteString(pairs[i] + "=" + strconv.Quote(pairs[i+1]))
	}

	return text.String()
}
