// Package guest makes http-wasm guests out of short texts in WebAssembly's text format.
package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Guest is what one guest does. Every text is WAT with short forms:
//
//	&"text"           pointer and length of a text, two operands
//	#5 #-1            (i32.const 5) (i32.const -1)
//	REQUEST RESPONSE  0 and 1, header or body kind; REQUEST_TRAILERS and RESPONSE_TRAILERS are 2 and 3
//	BUF               where the buffer starts; it reaches to the end of 8 pages
//
// The functions of the ABI are called by their names ($get_uri, …), the helpers are in tests/guests/conformance/prelude.wat.
type Guest struct {
	// Features are enabled by the start section.
	Features int
	// Start is the rest of the start section, StartName exports it under that name instead.
	Start, StartName string
	// Module are further fields of the module.
	Module string
	// Request is handle_request up to its result, and Result that result; none is next with context 0.
	Request, Result string
	// Response is handle_response; $ctx and $is_error are its parameters.
	Response string
	// Whole replaces all of it by the text of a module.
	Whole string
}

// Results of handle_request.
const (
	Next = "(i64.const 1)"
	Stop = "(i64.const 0)"
)

// Features of the ABI.
const (
	BufferRequest = 1 << iota
	BufferResponse
	Trailers
)

// Name, number of i32 parameters, result.
var abi = [][3]string{
	{"enable_features", "1", "i32"}, {"get_config", "2", "i32"}, {"log", "3", ""}, {"log_enabled", "1", "i32"},
	{"get_method", "2", "i32"}, {"set_method", "2", ""}, {"get_uri", "2", "i32"}, {"set_uri", "2", ""},
	{"get_protocol_version", "2", "i32"}, {"get_source_addr", "2", "i32"},
	{"get_header_names", "3", "i64"}, {"get_header_values", "5", "i64"}, {"set_header_value", "5", ""},
	{"add_header_value", "5", ""}, {"remove_header", "3", ""},
	{"read_body", "3", "i64"}, {"write_body", "3", ""},
	{"get_status_code", "0", "i32"}, {"set_status_code", "1", ""},
}

// Imported only by a guest that uses them, because a host may lack them.
var optional = [][4]string{
	{"http_handler", "get_template", "2", "i32"}, {"http_handler", "set_template", "2", ""},
	{"wasi_snapshot_preview1", "proc_exit", "1", ""}, {"wasi_snapshot_preview1", "fd_write", "4", "i32"},
	{"wasi_snapshot_preview1", "poll_oneoff", "4", "i32"}, {"wasi_snapshot_preview1", "random_get", "2", "i32"},
	{"wasi_snapshot_preview1", "path_create_directory", "3", "i32"},
}

// Texts are stored from here up to the buffer.
const (
	firstText = 1024
	buffer    = 65536
)

// WAT is the whole module as text.
func (g Guest) WAT(prelude string) (string, error) {
	if g.Whole != "" {
		return g.Whole, nil
	}

	features := ""
	if g.Features != 0 {
		features = fmt.Sprintf("(drop (call $enable_features #%d))", g.Features)
	}
	fields := g.Module
	if start := features + g.Start; start != "" {
		if g.StartName == "" {
			fields += fmt.Sprintf("\n(func $start %s)\n(start $start)", start)
		} else {
			fields += fmt.Sprintf("\n(func (export %s) %s)", g.StartName, start)
		}
	}
	result := g.Result
	if result == "" {
		result = Next
	}
	fields += fmt.Sprintf("\n(func (export handle_request) (result i64) (local $i i32) (local $r i64)\n%s\n%s)", g.Request, result)
	fields += fmt.Sprintf("\n(func (export handle_response) (param $ctx i32) (param $is_error i32) (local $i i32) (local $r i64)\n%s)", g.Response)

	text, err := expand(fields)
	if err != nil {
		return "", err
	}

	var out strings.Builder
	out.WriteString("(module\n")
	for _, f := range abi {
		importFunc(&out, "http_handler", f[0], f[1], f[2])
	}
	for _, f := range optional {
		if strings.Contains(fields, "$"+f[1]) {
			importFunc(&out, f[0], f[1], f[2], f[3])
		}
	}
	out.WriteString(prelude)
	out.WriteString(text)
	out.WriteString(")\n")

	return out.String(), nil
}

func importFunc(out *strings.Builder, module, name, params, result string) {
	n, _ := strconv.Atoi(params)
	fmt.Fprintf(out, "  (import %q %q (func $%s", module, name, name)
	if n > 0 {
		fmt.Fprintf(out, " (param%s)", strings.Repeat(" i32", n))
	}
	if result != "" {
		fmt.Fprintf(out, " (result %s)", result)
	}
	out.WriteString("))\n")
}

var (
	textForm = regexp.MustCompile(`&"((?:[^"\\]|\\.)*)"`)
	// After the texts are taken out, what is left to replace stands between blanks or brackets.
	shortForm = regexp.MustCompile(`#-?[0-9]+|\b(?:REQUEST_TRAILERS|RESPONSE_TRAILERS|REQUEST|RESPONSE|BUF)\b|\(export [a-z_]+\)|\(call \$is[a-z0-9_]*`)
	escape    = regexp.MustCompile(`\\(?:[0-9a-fA-F]{2}|.)`)
	constants = map[string]int{"REQUEST": 0, "RESPONSE": 1, "REQUEST_TRAILERS": 2, "RESPONSE_TRAILERS": 3, "BUF": buffer}
)

func expand(text string) (string, error) {
	at, data := firstText, ""
	text = textForm.ReplaceAllStringFunc(text, func(form string) string {
		quoted := form[1:]
		length := len(escape.ReplaceAllString(quoted[1:len(quoted)-1], "."))
		data += fmt.Sprintf("  (data (i32.const %d) %s)\n", at, quoted)
		ptr := at
		at += length
		return fmt.Sprintf("#%d #%d", ptr, length)
	})
	if at > buffer {
		return "", fmt.Errorf("the texts take %d bytes, %d fit", at-firstText, buffer-firstText)
	}

	checks := 0
	text = shortForm.ReplaceAllStringFunc(text, func(form string) string {
		switch {
		case form[0] == '#':
			return "(i32.const " + form[1:] + ")"
		case strings.HasPrefix(form, "(export "):
			return fmt.Sprintf("(export %q)", form[len("(export "):len(form)-1])
		case strings.HasPrefix(form, "(call $is"):
			checks++
			return fmt.Sprintf("(global.set $check (i32.const %d)) %s", checks, form)
		default:
			return fmt.Sprintf("(i32.const %d)", constants[form])
		}
	})

	return text + "\n" + data, nil
}

// Compiler turns guests into binaries. Root is the root of the repository.
type Compiler struct{ prelude, dir string }

// NewCompiler keeps its files in dir.
func NewCompiler(root, dir string) (*Compiler, error) {
	if _, err := exec.LookPath("wat2wasm"); err != nil {
		return nil, errors.New("wat2wasm not found, expected the package wabt to be installed")
	}
	prelude, err := os.ReadFile(filepath.Join(root, "tests/guests/conformance/prelude.wat"))
	if err != nil {
		return nil, err
	}

	return &Compiler{string(prelude), dir}, nil
}

// Compile returns the binary of a guest.
func (c *Compiler) Compile(g Guest) ([]byte, error) {
	text, err := g.WAT(c.prelude)
	if err != nil {
		return nil, err
	}
	in, out := filepath.Join(c.dir, "guest.wat"), filepath.Join(c.dir, "guest.wasm")
	if err := os.WriteFile(in, []byte(text), 0o600); err != nil {
		return nil, err
	}

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	message, err := exec.CommandContext(ctx, "wat2wasm", in, "-o", out).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("wat2wasm: %w\n%s", err, bytes.TrimSpace(message))
	}

	return os.ReadFile(out)
}
