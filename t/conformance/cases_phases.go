package conformance

import (
	"fmt"
	"strings"

	"ngx-http-wasm-handler/conformance/guest"
)

// allowed says when a function may be called in one phase.
type allowed int

const (
	no allowed = iota
	yes
	withRequest
	withResponse
	withTrailers
)

func (a allowed) feature() int {
	return map[allowed]int{withRequest: 1, withResponse: 2, withTrailers: 4}[a]
}

// phaseTable has a call of every function for every kind: whether start functions may make it, handle_request,
// handle_response; and a reason where handle_response of the reference host differs by our decision.
var phaseTable = []struct {
	id, wat           string
	start             bool
	request, response allowed
	decision          string
}{
	{"enable_features", "(drop (call $enable_features #0))", true, yes, yes, ""},
	{"get_config", "(drop (call $get_config BUF #8))", true, yes, yes, ""},
	{"log", `(call $log #0 &"x")`, true, yes, yes, ""},
	{"log_enabled", "(drop (call $log_enabled #0))", true, yes, yes, ""},
	{"get_method", "(drop (call $get_method BUF #8))", false, yes, yes, ""},
	{"set_method", `(call $set_method &"GET")`, false, yes, no, ""},
	{"get_uri", "(drop (call $get_uri BUF #8))", false, yes, yes, ""},
	{"set_uri", `(call $set_uri &"/")`, false, yes, no, ""},
	{"get_protocol_version", "(drop (call $get_protocol_version BUF #8))", false, yes, yes, ""},
	{"get_source_addr", "(drop (call $get_source_addr BUF #8))", false, yes, yes, ""},
	{"get_header_names REQUEST", "(drop (call $get_header_names REQUEST BUF #8))", false, yes, yes, ""},
	{"get_header_names RESPONSE", "(drop (call $get_header_names RESPONSE BUF #8))", false, yes, yes, ""},
	{"get_header_names REQUEST_TRAILERS", "(drop (call $get_header_names REQUEST_TRAILERS BUF #8))", false, yes, yes, ""},
	{"get_header_names RESPONSE_TRAILERS", "(drop (call $get_header_names RESPONSE_TRAILERS BUF #8))", false, yes, yes, ""},
	{"get_header_values REQUEST", `(drop (call $get_header_values REQUEST &"x" BUF #8))`, false, yes, yes, ""},
	{"get_header_values RESPONSE", `(drop (call $get_header_values RESPONSE &"x" BUF #8))`, false, yes, yes, ""},
	{"get_header_values REQUEST_TRAILERS", `(drop (call $get_header_values REQUEST_TRAILERS &"x" BUF #8))`, false, yes, yes, ""},
	{"get_header_values RESPONSE_TRAILERS", `(drop (call $get_header_values RESPONSE_TRAILERS &"x" BUF #8))`, false, yes, yes, ""},
	{"set_header_value REQUEST", `(call $set_header_value REQUEST &"x" &"1")`, false, yes, no, ""},
	{"set_header_value RESPONSE", `(call $set_header_value RESPONSE &"x" &"1")`, false, yes, yes, d5},
	{"set_header_value RESPONSE_TRAILERS", `(call $set_header_value RESPONSE_TRAILERS &"x" &"1")`, false, withTrailers, withTrailers, d5},
	{"add_header_value REQUEST", `(call $add_header_value REQUEST &"x" &"1")`, false, yes, no, ""},
	{"add_header_value RESPONSE", `(call $add_header_value RESPONSE &"x" &"1")`, false, yes, yes, d5},
	{"add_header_value RESPONSE_TRAILERS", `(call $add_header_value RESPONSE_TRAILERS &"x" &"1")`, false, withTrailers, withTrailers, d5},
	{"remove_header REQUEST", `(call $remove_header REQUEST &"x")`, false, yes, no, ""},
	{"remove_header RESPONSE", `(call $remove_header RESPONSE &"x")`, false, yes, yes, d5},
	{"remove_header RESPONSE_TRAILERS", `(call $remove_header RESPONSE_TRAILERS &"x")`, false, withTrailers, withTrailers, d5},
	{"set_header_value REQUEST_TRAILERS", `(call $set_header_value REQUEST_TRAILERS &"x" &"1")`, false, no, no, ""},
	{"add_header_value REQUEST_TRAILERS", `(call $add_header_value REQUEST_TRAILERS &"x" &"1")`, false, no, no, ""},
	{"remove_header REQUEST_TRAILERS", `(call $remove_header REQUEST_TRAILERS &"x")`, false, no, no, ""},
	{"read_body REQUEST", "(drop (call $read_body REQUEST BUF #8))", false, yes, withRequest, ""},
	{"read_body RESPONSE", "(drop (call $read_body RESPONSE BUF #8))", false, yes, withResponse, ""},
	{"write_body REQUEST", `(call $write_body REQUEST &"x")`, false, yes, no, ""},
	{"write_body RESPONSE", `(call $write_body RESPONSE &"x")`, false, yes, withResponse, ""},
	{"get_status_code", "(drop (call $get_status_code))", false, yes, yes, "the reference host traps without buffer_response"},
	{"set_status_code", "(call $set_status_code #200)", false, yes, yes, d5},
	{"get_template", "(drop (call $get_template BUF #8))", false, yes, yes, ""},
	{"set_template", `(call $set_template &"x")`, false, yes, no, ""},
}

// phaseCases make every call of the table in every phase, without any feature, with the one it needs, and with all others.
func phaseCases() []Case {
	var cases []Case
	for _, p := range phaseTable {
		function, _, _ := strings.Cut(p.id, " ")
		decision := func(when Phase, features int) string {
			switch {
			case strings.HasSuffix(function, "_template"):
				return fork
			case strings.HasSuffix(p.id, "REQUEST_TRAILERS") && when == InRequest && p.request == no:
				return oneStore
			case strings.HasSuffix(p.id, "RESPONSE_TRAILERS") && (when == InRequest || features&guest.Trailers == 0):
				return ""
			case p.id == "read_body RESPONSE" && when == InRequest:
				return "the reference host traps without buffer_response"
			case when == InResponse || p.id == "get_status_code":
				return p.decision
			default:
				return ""
			}
		}

		start := Case{
			ID: "phase/" + p.id + ", start", Doc: "not in a start function: there is no request", Ref: "reference host",
			Guest:   guest.Guest{Start: p.wat},
			Refused: function,
		}
		if p.start {
			start.Doc, start.Refused = "in a start function", ""
		}
		cases = append(cases, start)

		for _, when := range []Phase{InRequest, InResponse} {
			a := p.request
			if when == InResponse {
				a = p.response
			}
			add := func(features int, ok bool) {
				c := Case{
					ID:  fmt.Sprintf("phase/%s, %s, features %d", p.id, when, features),
					Doc: "allowed", Ref: "ABI " + function, Decision: decision(when, features),
					Guest: guest.Guest{Features: features},
				}
				if when == InRequest {
					c.Request = p.wat
				} else {
					c.Response = p.wat
				}
				switch {
				case !ok:
					c.Doc, c.Want = "traps", Want{Trap: when, In: function}
				case function == "write_body" && p.id != "write_body REQUEST":
					c.Want.Body = map[Phase]string{InRequest: "xNEXT", InResponse: "x"}[when]
				}
				cases = append(cases, c)
			}

			switch need := a.feature(); a {
			case yes:
				add(0, true)
			case no:
				add(0, false)
				add(7, false)
			default:
				add(0, false)
				add(7&^need, false)
				add(need, true)
			}
		}
	}

	return cases
}
