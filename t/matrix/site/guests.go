// Package site is an nginx with guests of all sorts in front of responses from everywhere: every guest has a server of its
// own, and all servers have the same locations.
package site

import (
	"fmt"
	"strings"

	"ngx-http-wasm-handler/conformance/guest"
)

// Level is one guest of a server, and what it does. Everything it does to a response is here.
type Level struct {
	// Name names its file.
	Name string
	// Header is a line that it sets on every response that its handle_response sees.
	Header string
	// Quiet: handle_response is an empty function, and is not called.
	Quiet bool
	// Before is a line that handle_request sets on the response there will be.
	Before string
	// Waits says that handle_response waits, Asks that handle_request does, for so many milliseconds.
	Waits, Asks int
	// Works says that handle_request computes for some milliseconds.
	Works bool
	// Reads says that handle_request reads the request's body.
	Reads bool
	// Answers is the body of a response that handle_request gives itself.
	Answers string
	// Method is what it makes of the request's method.
	Method string
	// Buffers says that it has the response's body collected. It reads all of it.
	Buffers bool
	// Replaces is the body it gives the response instead, Prefix what it writes before the next handler runs.
	Replaces, Prefix string
	// Early and Late say that handle_request or handle_response traps, after it has done all the rest.
	Early, Late bool
}

// Server is what runs in one server: guests from the outermost to the innermost, or none, as in the one that it is compared
// with.
type Server struct {
	Name   string
	Levels []Level
	// Open is http_wasm_on_error open.
	Open bool
}

const (
	replacement = "replaced by a guest, whatever there was before, and of another length than that\n"
	preface     = "written by a guest before the next handler ran\n"
)

var (
	identity    = Level{Name: "identity", Quiet: true}
	header      = Level{Name: "header", Header: "x-guest: header"}
	buffer      = Level{Name: "buffer", Header: "x-buffer: all read", Buffers: true}
	replace     = Level{Name: "replace", Header: "x-replace: replaced", Buffers: true, Replaces: replacement}
	wait        = Level{Name: "wait", Header: "x-wait: waited", Waits: 2}
	waitBuffer  = Level{Name: "wait-buffer", Header: "x-wait-buffer: waited", Waits: 1, Buffers: true}
	waitReplace = Level{Name: "wait-replace", Header: "x-wait-replace: waited", Waits: 3, Buffers: true, Replaces: replacement}
	// Long enough for an upstream to have said all it has, and for a file of it.
	patient     = Level{Name: "patient", Header: "x-patient: waited", Waits: 50}
	patientLate = Level{Name: "patient-late", Waits: 50, Late: true}
	ask         = Level{Name: "ask", Header: "x-ask: asked", Asks: 2}
	work        = Level{Name: "work", Header: "x-work: worked", Works: true}
	before      = Level{Name: "before", Quiet: true, Before: "x-before: set before"}
	read        = Level{Name: "read", Header: "x-read: read", Reads: true}
	toHead      = Level{Name: "to-head", Header: "x-to-head: asked for the header", Method: "HEAD"}
	answer      = Level{Name: "answer", Before: "x-answer: answered", Answers: "answered by a guest\n"}
	prefix      = Level{Name: "prefix", Quiet: true, Prefix: preface}
	early       = Level{Name: "early", Early: true}
	earlyWait   = Level{Name: "early-wait", Asks: 1, Early: true}
	late        = Level{Name: "late", Header: "x-late: leaked", Late: true}
	lateBuffer  = Level{Name: "late-buffer", Header: "x-late: leaked", Buffers: true, Replaces: replacement, Late: true}
	lateWait    = Level{Name: "late-wait", Header: "x-late: leaked", Waits: 2, Late: true}
)

// Plain is the name of the server without guests.
const Plain = "plain"

// Servers are all of them but the plain one.
var Servers = []Server{
	{Name: "none"},
	chain(identity), chain(header), chain(buffer), chain(replace), chain(wait), chain(waitBuffer), chain(waitReplace),
	chain(ask), chain(prefix),
	chain(header, wait), chain(wait, buffer), chain(buffer, replace), chain(waitBuffer, waitReplace), chain(prefix, wait),
	chain(replace, prefix), chain(ask, waitBuffer),
	chain(patient), chain(before), chain(before, wait), chain(before, late), chain(read), chain(header, read),
	chain(read, waitBuffer), chain(read, late), chain(toHead), chain(work), chain(header, work), chain(answer), chain(header, answer), chain(waitBuffer, answer),
	chain(wait, header, waitBuffer), chain(replace, wait, prefix), chain(header, buffer, wait),
	chain(early), chain(earlyWait), chain(wait, early), chain(buffer, earlyWait),
	chain(late), chain(lateBuffer), chain(lateWait), chain(wait, late), chain(lateWait, wait), chain(waitBuffer, lateWait),
	open(early), open(late), open(lateWait), open(lateBuffer), open(wait, lateWait, header), open(patientLate),
}

func chain(levels ...Level) Server {
	var names []string
	for _, l := range levels {
		names = append(names, l.Name)
	}

	return Server{Name: strings.Join(names, "+"), Levels: levels}
}

func open(levels ...Level) Server {
	s := chain(levels...)
	s.Name, s.Open = "open:"+s.Name, true

	return s
}

// Host is the name that the server listens to.
func (s Server) Host() string { return host(s.Name) }

func host(name string) string {
	return strings.NewReplacer("+", "--", ":", "--").Replace(name) + ".test"
}

// guest is the text of the guest.
func (l Level) guest() guest.Guest {
	var g guest.Guest
	if l.Buffers {
		g.Features = guest.BufferResponse
	}
	g.Request = sleep(l.Asks)
	if l.Works {
		g.Request += `(loop $on (br_if $on (i32.lt_u (local.tee $i (i32.add (local.get $i) #1)) #5000000)))`
	}
	if l.Asks > 0 {
		g.Request += `(call $set_header_value REQUEST &"x-asked" &"yes") (call $add_header_value REQUEST &"x-asked" &"again")`
	}
	if l.Reads {
		g.Request += `(drop (call $read_all REQUEST #1000))`
	}
	if l.Method != "" {
		g.Request += fmt.Sprintf("(call $set_method &%q)", l.Method)
	}
	if name, value, found := strings.Cut(l.Before, ": "); found {
		g.Request += fmt.Sprintf("(call $set_header_value RESPONSE &%q &%q)", name, value)
	}
	if l.Answers != "" {
		g.Request += fmt.Sprintf("(call $write_body RESPONSE &%q)", l.Answers)
		g.Result = guest.Stop
	}
	if l.Prefix != "" {
		g.Request += fmt.Sprintf("(call $write_body RESPONSE &%q)", l.Prefix)
	}
	if l.Early {
		g.Request += `(call $set_header_value RESPONSE &"x-early" &"leaked") (call $write_body RESPONSE &"leaked") (unreachable)`
	}
	if l.Quiet {
		return g
	}
	g.Response = sleep(l.Waits)
	if l.Buffers {
		g.Response += `(drop (call $read_all RESPONSE #8192))`
	}
	if name, value, found := strings.Cut(l.Header, ": "); found {
		g.Response += fmt.Sprintf("(call $set_header_value RESPONSE &%q &%q)", name, value)
	}
	if l.Replaces != "" {
		g.Response += fmt.Sprintf("(call $write_body RESPONSE &%q)", l.Replaces)
	}
	if l.Late {
		g.Response += `(call $set_status_code #299) (unreachable)`
	}

	return g
}

// sleep subscribes to the clock for so many milliseconds from now.
func sleep(ms int) string {
	if ms == 0 {
		return ""
	}

	return fmt.Sprintf(`(memory.fill BUF #0 #48) (i32.store (i32.add BUF #16) #1) (i64.store (i32.add BUF #24) (i64.const %d))
		(if (call $poll_oneoff BUF (i32.add BUF #1024) #1 #0) (then (unreachable)))`, ms*1_000_000)
}
