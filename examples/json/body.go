//go:build wasip1

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"strings"

	"ngx-http-wasm-handler/tests/guests/go/httpwasm"
)

// maxDepth keeps bodies from using up the stack.
const maxDepth = 100

var errType = errors.New("the body is not JSON in UTF-8 by its content-type")

// isReadable says whether a body is JSON by its type, and what makes it
// unreadable then.
func isReadable(kind uint32) (bool, error) {
	types := httpwasm.HeaderValues(kind, "content-type")
	if len(types) == 0 {
		return false, nil
	}
	media, params, err := mime.ParseMediaType(types[0])
	if err != nil {
		media, _, _ = strings.Cut(types[0], ";")
		media = strings.ToLower(strings.TrimSpace(media))
	}
	sub, isApplication := strings.CutPrefix(media, "application/")
	if !isApplication || sub != "json" && !strings.HasSuffix(sub, "+json") {
		return false, nil
	}
	// Of several types nobody knows which one others go by.
	if charset := params["charset"]; err != nil || len(types) > 1 || charset != "" && !strings.EqualFold(charset, "utf-8") {
		return true, errType
	}
	for _, encoding := range httpwasm.HeaderValues(kind, "content-encoding") {
		if encoding != "" && !strings.EqualFold(encoding, "identity") {
			return true, errors.New("the body is compressed")
		}
	}

	return true, nil
}

// node is what is done to a member, and below it.
type node struct {
	remove  bool
	rename  string
	members map[string]*node
}

// untouched is a member that nothing is done to.
var untouched = &node{}

// at is the node of a path.
func (n *node) at(path string) (*node, error) {
	for name := range strings.SplitSeq(path, ".") {
		if name == "" {
			return nil, fmt.Errorf("path %q: expected names with a dot between two of them", path)
		}
		if n.members == nil {
			n.members = make(map[string]*node)
		}
		if n.members[name] == nil {
			n.members[name] = &node{}
		}
		n = n.members[name]
	}

	return n, nil
}

// apply makes a body of what the rules leave of it. It builds no values: they
// take many times as much memory as their text, and clients choose the text.
func (r *rules) apply(body []byte) ([]byte, error) {
	if tooDeep(body) {
		return nil, fmt.Errorf("the body has more than %d levels", maxDepth)
	}
	if !json.Valid(body) {
		return nil, errors.New("the body is not JSON")
	}
	w := rewriter{in: body, out: make([]byte, 0, len(body))}
	w.value(&r.tree)

	return w.out, nil
}

// rewriter copies JSON that is known to be right.
type rewriter struct {
	in  []byte
	pos int
	out []byte
}

// value copies what comes next, changed as the node says.
func (w *rewriter) value(n *node) {
	switch c := w.next(); {
	case c == '{' && n.members != nil:
		w.object(n)
	case c == '[' && n.members != nil:
		w.put('[')
		w.pos++
		for first := true; w.next() != ']'; first = false {
			if !first {
				w.put(',')
			}
			w.value(n)
		}
		w.put(']')
		w.pos++
	default:
		start := w.pos
		w.skip()
		w.out = append(w.out, w.in[start:w.pos]...)
	}
}

func (w *rewriter) object(n *node) {
	kept := w.renamed(n)
	w.put('{')
	w.pos++
	first := true
	for w.next() != '}' {
		at := w.pos
		key := w.key()
		raw := w.in[at:w.pos]
		member := n.members[key]
		if member == nil {
			member = untouched
		}
		if member.rename != "" {
			key = member.rename
			raw, _ = json.Marshal(key)
		}
		w.next() // the value
		if other, ok := kept[key]; member.remove || ok && other != at {
			w.skip()
			continue
		}
		if !first {
			w.put(',')
		}
		first = false
		w.out = append(append(w.out, raw...), ':')
		w.value(member)
	}
	w.put('}')
	w.pos++
}

// renamed looks through an object for members that get a new name. The last of
// those with the same one is kept: this is where it begins.
func (w *rewriter) renamed(n *node) map[string]int {
	var kept map[string]int
	start := w.pos
	w.pos++
	for w.next() != '}' {
		at := w.pos
		if member := n.members[w.key()]; member != nil && member.rename != "" && !member.remove {
			if kept == nil {
				kept = make(map[string]int)
			}
			kept[member.rename] = at
		}
		w.next()
		w.skip()
	}
	w.pos = start

	return kept
}

func (w *rewriter) put(c byte) { w.out = append(w.out, c) }

// next goes past what is between values, and says what the next one begins with.
func (w *rewriter) next() byte {
	for {
		switch c := w.in[w.pos]; c {
		case ' ', '\t', '\r', '\n', ',', ':':
			w.pos++
		default:
			return c
		}
	}
}

// key reads a name, without its escapes.
func (w *rewriter) key() string {
	start := w.pos
	w.skip()
	text := w.in[start:w.pos]
	if bytes.IndexByte(text, '\\') < 0 {
		return string(text[1 : len(text)-1])
	}
	var name string
	_ = json.Unmarshal(text, &name) // is a text, and right

	return name
}

// skip goes past a value without going down into it.
func (w *rewriter) skip() {
	depth, isText := 0, false
	for ; w.pos < len(w.in); w.pos++ {
		switch c := w.in[w.pos]; {
		case isText && c == '\\':
			w.pos++
		case c == '"':
			isText = !isText
		case isText:
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			// The end of what the value is in.
			if depth == 0 {
				return
			}
			depth--
		case depth == 0 && strings.IndexByte(" \t\r\n,:", c) >= 0:
			return
		default:
			continue
		}
		// A text, an object or an array ends with this byte.
		if depth == 0 && !isText {
			w.pos++
			return
		}
	}
}

// tooDeep counts brackets outside of texts, without going down itself.
func tooDeep(body []byte) bool {
	depth, isText := 0, false
	for i := 0; i < len(body); i++ {
		switch c := body[i]; {
		case isText && c == '\\':
			i++
		case c == '"':
			isText = !isText
		case isText:
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return true
			}
		case c == '}' || c == ']':
			depth--
		}
	}

	return false
}
