//go:build wasip1

// Command json is a guest that renames and removes members of JSON bodies, of
// requests, of responses or of both.
//
// The configuration is JSON as well. A member is named by its path; arrays on
// the way stand for each of their elements. First members are removed, then
// the others get their new names, in the order of the old ones:
//
//	{
//	  "request":  { "remove": ["admin", "user.roles"] },
//	  "response": { "remove": ["users.password"], "rename": { "users.mail": "email" } }
//	}
//
// A body that this cannot be done to does not go on. The client gets 400 for
// what is no JSON, or has more than 100 levels, and 415 for another type than
// application/json and application/…+json, another charset than UTF-8, or a
// compressed body. Requests without a body go on. A response of another type
// goes on as it is; one that says that it is JSON and is none, or is compressed,
// becomes 502. The reason is in error_log.
//
// What goes on has been written anew: members in the order of their names, and
// the last of those that had the same name. Numbers stay as they were written.
// Where a member with the new name is there already, the renamed one replaces it.
// Names are compared as they are written: "Admin" is another one than "admin".
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"os"
	"slices"
	"strings"

	"ngx-http-wasm-handler/tests/guests/go/httpwasm"
)

// maxDepth keeps bodies from using up the stack.
const maxDepth = 100

// rules are what is done to bodies of one kind.
type rules struct {
	Remove []string          `json:"remove"`
	Rename map[string]string `json:"rename"`
}

var config struct {
	Request  *rules `json:"request"`
	Response *rules `json:"response"`
}

var (
	errType    = errors.New("the body is not JSON in UTF-8 by its content-type")
	errEncoded = errors.New("the body is compressed")
)

// The start function of the guest: a reactor's init functions run inside of
// _initialize.
func init() {
	if err := start(); err != nil {
		httpwasm.Log(httpwasm.Error, "json: "+err.Error())
		os.Exit(1)
	}
}

func start() error {
	decoder := json.NewDecoder(strings.NewReader(httpwasm.Config()))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&config); err != nil {
		return fmt.Errorf(`expected JSON with "request" or "response": %w`, err)
	}
	if _, err := decoder.Token(); err != io.EOF {
		return errors.New("expected nothing behind the JSON")
	}
	if config.Request == nil && config.Response == nil {
		return errors.New(`expected "request" or "response"`)
	}
	features := uint32(0)
	if config.Request != nil {
		features |= httpwasm.BufferRequest
	}
	if config.Response != nil {
		features |= httpwasm.BufferResponse
	}
	for _, r := range []*rules{config.Request, config.Response} {
		if err := r.check(); err != nil {
			return err
		}
	}
	if !httpwasm.Enable(features) {
		return errors.New("expected a host that gives bodies to guests")
	}
	httpwasm.HandleRequest, httpwasm.HandleResponse = handleRequest, handleResponse

	return nil
}

func (r *rules) check() error {
	if r == nil {
		return nil
	}
	if len(r.Remove)+len(r.Rename) == 0 {
		return errors.New(`expected "remove" or "rename" in "request" and "response"`)
	}
	for from, to := range r.Rename {
		if to == "" || strings.Contains(to, ".") {
			return fmt.Errorf("rename %q to %q: expected a name without a path", from, to)
		}
	}
	for _, path := range slices.Concat(r.Remove, r.order()) {
		if slices.Contains(strings.Split(path, "."), "") {
			return fmt.Errorf("path %q: expected names with a dot between two of them", path)
		}
	}

	return nil
}

func main() {}

func handleRequest() (next bool, reqCtx uint32) {
	if config.Request == nil {
		return true, 0
	}
	body := httpwasm.Body(httpwasm.Request)
	if len(body) == 0 {
		return true, 0
	}
	isJSON, err := isReadable(httpwasm.Request)
	if err == nil && !isJSON {
		err = errType
	}
	if err == nil {
		body, err = config.Request.apply(body)
	}
	switch {
	case err == nil:
		httpwasm.WriteBody(httpwasm.Request, body)
		return true, 0
	case errors.Is(err, errType), errors.Is(err, errEncoded):
		refuse(415, err)
	default:
		refuse(400, err)
	}

	return false, 0
}

func handleResponse(_ uint32, isError bool) {
	if config.Response == nil || isError {
		return
	}
	isJSON, err := isReadable(httpwasm.Response)
	if !isJSON {
		return
	}
	// Where http_wasm_buffer_types is set, it has to have the types of JSON: to
	// ask for other bodies is a trap.
	body := httpwasm.Body(httpwasm.Response)
	if len(body) == 0 {
		return // HEAD, 304 and such
	}
	if err == nil {
		body, err = config.Response.apply(body)
	}
	if err != nil {
		refuse(502, err)
		return
	}
	httpwasm.WriteBody(httpwasm.Response, body)
}

// refuse answers in place of what cannot go on.
func refuse(status int, err error) {
	httpwasm.Log(httpwasm.Warn, fmt.Sprintf("json=refused status=%d reason=%q", status, err.Error()))
	httpwasm.SetStatus(status)
	httpwasm.RemoveHeader(httpwasm.Response, "content-encoding")
	httpwasm.SetHeader(httpwasm.Response, "content-type", "text/plain")
	httpwasm.WriteBody(httpwasm.Response, fmt.Appendf(nil, "%d\n", status))
}

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
			return true, errEncoded
		}
	}

	return true, nil
}

// apply makes a body of what the rules leave of it.
func (r *rules) apply(body []byte) ([]byte, error) {
	if tooDeep(body) {
		return nil, fmt.Errorf("the body has more than %d levels", maxDepth)
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return nil, fmt.Errorf("the body is not JSON: %w", err)
	}
	if _, err := decoder.Token(); err != io.EOF {
		return nil, errors.New("the body is not JSON: something is behind it")
	}

	for _, path := range r.Remove {
		visit(value, strings.Split(path, "."), func(object map[string]any, name string) { delete(object, name) })
	}
	for _, path := range r.order() {
		visit(value, strings.Split(path, "."), func(object map[string]any, name string) {
			if member, ok := object[name]; ok {
				delete(object, name)
				object[r.Rename[path]] = member
			}
		})
	}

	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return nil, err
	}

	return out.Bytes(), nil
}

// order is what Rename is done in.
func (r *rules) order() []string { return slices.Sorted(maps.Keys(r.Rename)) }

// visit calls f for each object that has the last name of the path.
func visit(value any, path []string, f func(object map[string]any, name string)) {
	switch value := value.(type) {
	case []any:
		for _, element := range value {
			visit(element, path, f)
		}
	case map[string]any:
		if len(path) == 1 {
			f(value, path[0])
		} else if member, ok := value[path[0]]; ok {
			visit(member, path[1:], f)
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
