// Package hostile lets guests do their worst in a worker that serves others, and measures what becomes of both.
package hostile

import (
	"fmt"
	"strings"

	"ngx-http-wasm-handler/conformance/guest"
)

// The phases that a guest can be hostile in: handle_request, handle_response while the body streams by, and
// handle_response with the body held.
const (
	request  = "request"
	response = "response"
	held     = "held"
	start    = "start"
)

// hostile is one row of the table, for each phase.
type hostile struct {
	name   string
	phases []string
	// harm is what the guest does for a request that asks for it, one text for each way that there is. The texts are those
	// of conformance/guest, with the locals $i, $n and $r.
	harm []string
	// module are further fields of the module; whole is all of one that does harm at each request.
	module, whole string
	// location are directives of its location.
	location string
	// clients attack at once, 1 if it is 0.
	clients int
	// status is what every one of them gets; 0 is none before the client gives up.
	status int
	// log is what error_log says of it, a regular expression after the guest's name and function.
	log string
	// takes is how much memory the worker may take for it, in MB, and keeps how much of that may stay: that of instances
	// which were not stopped. What every guest has comes on top.
	takes, keeps int
}

// Always allowed for: heap of the worker that is free again but not given back, an instance of the guest, its stack.
const slackMB = 12

// The files that an instance may have open, and connections.
const slackDescriptors = 48

// Allowed for at a time: the buffers of one host call.
const callMB = 48

const stopped = `ran for longer than \d+ ms and was stopped`

// endless says whether a guest runs until it is stopped.
func (h hostile) endless() bool { return strings.Contains(h.log, stopped) }

// A loop that runs until it is stopped.
func forever(text string) string { return "(loop $again " + text + " (br $again))" }

func repeat(times int, text string) string {
	return fmt.Sprintf("(loop $again %s (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) #1)) #%d)))", text, times)
}

// The rest of the memory's default limit of 128 MB.
const growAll = `(drop (memory.grow #1900))`

// Grows by one page at a time until it is refused, and writes to every page.
const growAndTouch = `(loop $more (br_if $more (i32.ne (memory.grow #1) #-1)))
	(local.set $i #4000)
	(loop $touch
		(i32.store8 (local.get $i) #1)
		(local.set $i (i32.add (local.get $i) #4096))
		(br_if $touch (i32.lt_u (local.get $i) (i32.mul (memory.size) #65536))))`

// Names that differ, of eight letters at 65536.
const otherName = `(i64.store BUF (i64.const 0x6161616161612d78))
	(i32.store (i32.add BUF #6) (i32.or (i32.const 0x61616161) (i32.or (i32.and (local.get $i) #15)
		(i32.or (i32.shl (i32.and (local.get $i) #240) #4)
		(i32.or (i32.shl (i32.and (local.get $i) #3840) #8) (i32.shl (i32.and (local.get $i) #61440) #12))))))`

// A subscription to a clock, for so many nanoseconds from now.
func sleep(ns string) string {
	return fmt.Sprintf(`(i32.store (i32.add BUF #16) #1) (i64.store (i32.add BUF #24) (i64.const %s))
		(if (call $poll_oneoff BUF (i32.add BUF #1024) #1 #0) (then (unreachable)))`, ns)
}

const recursion = `
(type $deep (func (param i32) (result i32)))
(table 1 funcref)
(elem (i32.const 0) $indirect)
(func $plain (param i32) (result i32) (i32.add (call $plain (local.get 0)) #1))
(func $wide (param i32) (result i32) (local i64 i64 i64 i64)
	(local.set 1 (i64.extend_i32_u (local.get 0)))
	(local.set 2 (i64.add (local.get 1) (i64.const 2)))
	(local.set 0 (call $wide (i32.wrap_i64 (local.get 2))))
	(i32.wrap_i64 (i64.add (i64.add (local.get 1) (local.get 2)) (i64.extend_i32_u (local.get 0)))))
(func $indirect (param i32) (result i32) (i32.add (call_indirect (type $deep) (local.get 0) #0) #1))
(func $hosted (param i32) (result i32) (i32.add (call $hosted (call $log_enabled (local.get 0))) #1))
`

// started makes a start function that does harm in workers: the first start, that of the configuration, leaves a mark.
func started(harm string) string {
	return fmt.Sprintf(`(func $begin (if (i32.eqz (call $path_create_directory #3 &"configured")) (then (return))) %s)
(start $begin)`, harm)
}

// A directory of its own for each.
const (
	lent  = `http_wasm_dir %s /rw rw;`
	fresh = `http_wasm_isolation request; ` + lent
)

// opener opens one file again and again until it is refused, and keeps what it has.
const opener = `(module
	(import "wasi_snapshot_preview1" "path_open"
		(func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
	(memory (export "memory") 1)
	(data (i32.const 0) "f")
	(func (export "handle_request") (result i64)
		(loop $more (br_if $more (i32.eqz (call $open
			(i32.const 3) (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 1) (i64.const 66) (i64.const 66) (i32.const 0) (i32.const 16)))))
		(i64.const 1))
	(func (export "handle_response") (param i32 i32)))`

var all = []hostile{
	{name: "endless loop", phases: []string{request, response, held}, harm: []string{forever("")}, status: 500, log: stopped},
	{name: "endless loop, 8 clients", phases: []string{request}, clients: 8, harm: []string{forever("")}, status: 500, log: stopped},
	{name: "endless loop, slice 1ms", phases: []string{request}, harm: []string{forever("")}, location: "http_wasm_slice 1ms;",
		status: 500, log: stopped},
	{name: "endless host calls", phases: []string{request, response, held}, status: 500, log: stopped,
		harm: []string{forever(`(drop (call $get_uri BUF #1000))`), forever(`(drop (call $get_header_names REQUEST BUF #1000))`)}},
	{name: "endless small fill and copy", phases: []string{request}, status: 500, log: stopped, harm: []string{
		forever(`(memory.fill BUF #1 #4096)`), forever(`(memory.copy BUF #0 #4096)`)}},
	{name: "huge fill and copy", phases: []string{request, held}, status: 500, log: stopped, takes: 128, harm: []string{
		growAll + forever(`(memory.fill BUF #1 #120000000)`), growAll + forever(`(memory.copy BUF #131072 #120000000)`)}},
	{name: "endless table.fill", phases: []string{request}, status: 500, log: stopped,
		module: "(table $t 1000000 1000000 funcref) (func $f) (elem declare func $f)",
		harm:   []string{forever(`(table.fill $t #0 (ref.func $f) #1000000)`)}, takes: 8},
	{name: "huge random_get", phases: []string{request}, status: 500, takes: 128, log: `random_get: failed to call .get-random-bytes.`,
		harm: []string{growAll + forever(`(drop (call $random_get BUF #120000000))`)}},
	{name: "deep recursion", phases: []string{request, response}, status: 500, log: `wasm trap: call stack exhausted`, module: recursion,
		harm: []string{`(drop (call $plain #0))`, `(drop (call $wide #0))`, `(drop (call $indirect #0))`, `(drop (call $hosted #0))`}},
	{name: "trap after each host call", phases: []string{request, response, held}, harm: trapAfterEach(), status: 500,
		log: `(?:wasm trap: wasm .unreachable|\w+ (?:is not allowed|needs feature))`},
	{name: "wild pointers", phases: []string{request, held}, harm: wildPointers(), status: 500,
		log: `\w+ (?:got \d+ bytes at \d+, outside|is not allowed|needs feature)`},
	{name: "CR, LF, NUL, bad UTF-8", phases: []string{request}, harm: badStrings(), status: 500, log: `\w+ got .*`},
	{name: "proc_exit", phases: []string{request, response, held}, status: 500, log: `proc_exit\(\d+\) was called`,
		harm: []string{`(call $proc_exit #0)`, `(call $proc_exit #1)`, `(call $proc_exit #-1)`}},
	{name: "log flood", phases: []string{request, response}, status: 200, log: `has written too much for one request`, harm: []string{
		repeat(20000, `(call $log #2 &"one more line")`),
		`(drop (memory.grow #100))` + repeat(10, `(call $log #1 BUF #1000000)`),
		`(i64.store BUF (i64.const 0x0001000000020000))` + repeat(100, `(drop (call $fd_write #2 BUF #1 (i32.add BUF #16)))`)}},
	{name: "header flood", phases: []string{request, response, held}, status: 500,
		log: `(?:\w+: what guests set on one request .* would exceed 1048576 bytes|` + stopped + ")", harm: headerFloods()},
	{name: "body flood", phases: []string{request}, status: 500, location: `client_max_body_size 4m; http_wasm_response_buffer 64k max=8m;`,
		log: `write_body: the re\w+ body \(\w+\) would exceed \d+ bytes`, harm: []string{
			forever(`(call $write_body REQUEST BUF #100000)`), forever(`(call $write_body RESPONSE BUF #100000)`),
			forever(`(call $write_body RESPONSE BUF #1)`)}},
	{name: "body flood", phases: []string{held}, status: 500, location: `http_wasm_response_buffer 64k max=8m;`,
		log: `write_body: the response body \(\w+\) would exceed \d+ bytes`, harm: []string{
			forever(`(call $write_body RESPONSE BUF #100000)`)}},
	{name: "sleep for an hour", phases: []string{request, response, held}, harm: []string{sleep("3600000000000")},
		location: "http_wasm_pool max=1 queue=1 wait=10s;"},
	{name: "sleep for 1 ns, for ever", phases: []string{request, held}, harm: []string{forever(sleep("1"))},
		location: "http_wasm_pool max=1 queue=1 wait=10s;"},
	{name: "descriptor flood", phases: []string{request}, whole: opener, location: lent, status: 200},
	{name: "start traps at each request", phases: []string{start}, module: started("unreachable"), location: fresh, status: 503, log: `cannot start an instance: does not start: start section: wasm trap: .*unreachable`},
	{name: "start loops at each request", phases: []string{start}, module: started(forever("")), location: fresh + " http_wasm_pool wait=10s;", status: 503, log: `cannot start an instance: does not start: start section: ` + stopped},
	{name: "start takes all memory", phases: []string{start}, module: "(func $bomb (local $i i32) " + growAndTouch + ")" +
		started("(call $bomb)"), location: fresh, status: 200, takes: 128},
	// Last: what their instances keep would stand in all rows after them.
	{name: "memory bomb", phases: []string{request, response}, harm: []string{growAndTouch}, status: 200, takes: 128, keeps: 128},
	{name: "memory bomb, fresh instances", phases: []string{request}, harm: []string{growAndTouch}, status: 200,
		location: "http_wasm_isolation request;", takes: 128},
	{name: "memory bomb, limit 16m, 8 clients", phases: []string{request}, clients: 8, harm: []string{growAndTouch}, status: 200,
		location: "http_wasm_memory_limit 16m; http_wasm_pool max=4;", takes: 4 * 16, keeps: 4 * 16},
	{name: "table bomb", phases: []string{request}, status: 200, module: "(table $t 1 funcref) (func $f) (elem declare func $f)",
		harm: []string{`(loop $more (br_if $more (i32.ne (table.grow $t (ref.func $f) #10000) #-1)))`}, takes: 8, keeps: 8},
}

// trapAfterEach makes every call of the ABI once, and traps where the host has not said no already.
func trapAfterEach() []string {
	calls := []string{
		`(drop (call $enable_features #1))`, `(drop (call $get_config BUF #100))`, `(call $log #1 &"a line")`,
		`(drop (call $log_enabled #1))`, `(drop (call $get_method BUF #100))`, `(call $set_method &"PUT")`,
		`(drop (call $get_uri BUF #100))`, `(call $set_uri &"/other?a=b")`, `(drop (call $get_protocol_version BUF #100))`,
		`(drop (call $get_source_addr BUF #100))`, `(drop (call $get_header_names REQUEST BUF #1000))`,
		`(drop (call $get_header_values REQUEST &"host" BUF #100))`, `(call $set_header_value RESPONSE &"x-leaked" &"leaked")`,
		`(call $add_header_value RESPONSE &"x-leaked" &"leaked")`, `(call $remove_header RESPONSE &"server")`,
		`(drop (call $read_body RESPONSE BUF #100))`, `(call $write_body RESPONSE &"leaked")`, `(drop (call $get_status_code))`,
		`(call $set_status_code #404)`, `(drop (call $get_template BUF #100))`, `(call $set_template &"leaked")`,
	}
	for i := range calls {
		calls[i] += " (unreachable)"
	}

	return calls
}

// wildPointers gives every pointer that a host function takes to bytes outside the memory of 524288 bytes.
func wildPointers() []string {
	var texts []string
	for _, call := range []string{
		`(drop (call $get_config AT))`, `(call $log #2 AT)`, `(drop (call $get_method AT))`, `(call $set_method AT)`,
		`(drop (call $get_uri AT))`, `(call $set_uri AT)`, `(drop (call $get_protocol_version AT))`, `(drop (call $get_source_addr AT))`,
		`(drop (call $get_header_names REQUEST AT))`, `(drop (call $get_header_values REQUEST AT BUF #100))`,
		`(drop (call $get_header_values REQUEST &"host" AT))`, `(call $set_header_value RESPONSE AT &"value")`,
		`(call $set_header_value RESPONSE &"x-name" AT)`, `(call $add_header_value RESPONSE AT &"value")`,
		`(call $add_header_value RESPONSE &"x-name" AT)`, `(call $remove_header RESPONSE AT)`,
		`(drop (call $read_body RESPONSE AT))`, `(call $write_body RESPONSE AT)`, `(call $set_template AT)`,
		`(call $set_template &"template") (drop (call $get_template AT))`,
	} {
		for _, at := range []string{"#-1 #-1", "#-1 #2000", "#524288 #2000", "#524287 #2000", "#-2147483648 #-2147483648"} {
			texts = append(texts, strings.Replace(call, "AT", at, 1))
		}
	}

	return texts
}

// badStrings gives bytes that would split a message, or end a string, wherever they would do so.
func badStrings() []string {
	var texts []string
	for _, bad := range []string{`\0d\0aX-Split: yes\0d\0a\0d\0asplit`, `\0a2026/01/01 00:00:00 [alert] 1#1: split`, `\0d`, `\00`} {
		for _, call := range []string{
			`(call $set_method &"PUTBADX")`, `(call $set_uri &"/aBADb")`, `(call $set_uri &"/a?bBADc")`,
			`(call $set_header_value REQUEST &"x-aBADb" &"value")`, `(call $set_header_value RESPONSE &"x-ab" &"aBADb")`,
			`(call $add_header_value RESPONSE &"x-aBADb" &"value")`, `(call $add_header_value REQUEST &"x-ab" &"aBADb")`,
			`(call $remove_header RESPONSE &"x-aBADb")`,
		} {
			texts = append(texts, strings.Replace(call, "BAD", bad, 1))
		}
	}
	for _, bad := range []string{`\ff\c3\28\ed\a0\80`, `\e2\80\a8\c2\85`} {
		texts = append(texts, `(call $set_method &"PUT`+bad+`")`, `(call $set_header_value RESPONSE &"x-`+bad+`" &"value")`)
	}

	return texts
}

func headerFloods() []string {
	large := `(drop (memory.grow #4)) (memory.fill (i32.add BUF #64) #120 #180000)`
	return []string{
		repeat(100000, otherName+`(call $add_header_value RESPONSE BUF #10 &"v")`),
		repeat(100000, otherName+`(call $set_header_value RESPONSE BUF #10 &"v")`),
		large + repeat(500, `(call $set_header_value RESPONSE &"x-again" (i32.add BUF #64) #180000)`),
		large + repeat(500, otherName+`(call $add_header_value RESPONSE BUF #10 (i32.add BUF #64) #180000)`),
	}
}

// guest makes the module. A request without the header x-harm is served as by any other guest.
func (h hostile) guest(phase string) guest.Guest {
	if h.whole != "" {
		return guest.Guest{Whole: h.whole}
	}
	g := guest.Guest{Module: h.module}
	if len(h.harm) > 0 {
		harm := `(func $harm (local $which i32) (local $i i32) (local $r i64)
			(if (i32.eqz (i32.wrap_i64 (call $get_header_values REQUEST &"x-harm" BUF #4))) (then (return)))
			(local.set $which (i32.add (i32.add
				(i32.mul (i32.sub (i32.load8_u BUF) #48) #100)
				(i32.mul (i32.sub (i32.load8_u (i32.add BUF #1)) #48) #10))
				(i32.sub (i32.load8_u (i32.add BUF #2)) #48)))`
		for i, text := range h.harm {
			harm += fmt.Sprintf("\n(if (i32.eq (local.get $which) #%d) (then %s))", i, text)
		}
		g.Module += harm + ")"
	}
	switch phase {
	case request:
		g.Request = "(call $harm)"
	case response:
		g.Response = "(call $harm)"
	case held:
		g.Features = guest.BufferResponse
		g.Response = "(call $harm)"
	}

	return g
}
