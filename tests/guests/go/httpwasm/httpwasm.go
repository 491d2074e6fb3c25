//go:build wasip1

// Package httpwasm is the guest side of the http_handler ABI, as far as the
// guests here need it. A guest is a reactor: it is built with
// -buildmode=c-shared, its main function is never called, and it names its
// handlers in an init function, which runs inside _initialize.
package httpwasm

import (
	"strings"
	"unsafe"
)

// Kinds of headers and bodies.
const (
	Request  uint32 = 0
	Response uint32 = 1
)

// Features: BufferRequest leaves a body that was read for the next handler,
// BufferResponse gives a guest the body of the response.
const (
	BufferRequest  uint32 = 1
	BufferResponse uint32 = 2
)

// Levels of messages.
const (
	Debug int32 = -1
	Info  int32 = 0
	Warn  int32 = 1
	Error int32 = 2
)

var (
	// HandleRequest returns whether the request goes on, and a value that
	// HandleResponse gets back.
	HandleRequest = func() (next bool, reqCtx uint32) { return true, 0 }
	// HandleResponse runs when the response of a request that went on is there.
	HandleResponse = func(reqCtx uint32, isError bool) {}
)

//go:wasmexport handle_request
func handleRequest() uint64 {
	next, reqCtx := HandleRequest()
	if !next {
		return 0
	}

	return uint64(reqCtx)<<32 | 1
}

//go:wasmexport handle_response
func handleResponse(reqCtx, isError uint32) { HandleResponse(reqCtx, isError != 0) }

//go:wasmimport http_handler enable_features
func enableFeatures(features uint32) uint32

//go:wasmimport http_handler get_config
func getConfig(buf unsafe.Pointer, limit uint32) uint32

//go:wasmimport http_handler get_method
func getMethod(buf unsafe.Pointer, limit uint32) uint32

//go:wasmimport http_handler get_uri
func getURI(buf unsafe.Pointer, limit uint32) uint32

//go:wasmimport http_handler set_uri
func setURI(uri unsafe.Pointer, uriLen uint32)

//go:wasmimport http_handler get_header_values
func getHeaderValues(kind uint32, name unsafe.Pointer, nameLen uint32, buf unsafe.Pointer, limit uint32) uint64

//go:wasmimport http_handler set_header_value
func setHeaderValue(kind uint32, name unsafe.Pointer, nameLen uint32, value unsafe.Pointer, valueLen uint32)

//go:wasmimport http_handler add_header_value
func addHeaderValue(kind uint32, name unsafe.Pointer, nameLen uint32, value unsafe.Pointer, valueLen uint32)

//go:wasmimport http_handler remove_header
func removeHeader(kind uint32, name unsafe.Pointer, nameLen uint32)

//go:wasmimport http_handler get_header_names
func getHeaderNames(kind uint32, buf unsafe.Pointer, limit uint32) uint64

//go:wasmimport http_handler get_protocol_version
func getProtocolVersion(buf unsafe.Pointer, limit uint32) uint32

//go:wasmimport http_handler get_source_addr
func getSourceAddr(buf unsafe.Pointer, limit uint32) uint32

//go:wasmimport http_handler get_status_code
func getStatusCode() uint32

//go:wasmimport http_handler log
func log(level int32, message unsafe.Pointer, messageLen uint32)

//go:wasmimport http_handler read_body
func readBody(kind uint32, buf unsafe.Pointer, limit uint32) uint64

//go:wasmimport http_handler write_body
func writeBody(kind uint32, body unsafe.Pointer, bodyLen uint32)

//go:wasmimport http_handler set_status_code
func setStatusCode(status uint32)

// Enable asks for features and reports whether all of them were granted.
func Enable(features uint32) bool { return enableFeatures(features)&features == features }

// Config is the configuration of the guest.
func Config() string { return get(getConfig) }

// Method is the method of the request.
func Method() string { return get(getMethod) }

// URI is the path and query of the request.
func URI() string { return get(getURI) }

// SetURI replaces path and query.
func SetURI(uri string) { setURI(text(uri), uint32(len(uri))) }

// Header is the first value of a header, or nothing.
func Header(kind uint32, name string) string {
	values := getMany(func(buf unsafe.Pointer, limit uint32) uint64 {
		return getHeaderValues(kind, text(name), uint32(len(name)), buf, limit)
	})
	for i, c := range values {
		if c == 0 {
			return string(values[:i])
		}
	}

	return ""
}

// HeaderValues are all values of a header.
func HeaderValues(kind uint32, name string) []string {
	return split(getMany(func(buf unsafe.Pointer, limit uint32) uint64 {
		return getHeaderValues(kind, text(name), uint32(len(name)), buf, limit)
	}))
}

// HeaderNames are the names of all headers, each once.
func HeaderNames(kind uint32) []string {
	return split(getMany(func(buf unsafe.Pointer, limit uint32) uint64 { return getHeaderNames(kind, buf, limit) }))
}

// ProtocolVersion is such as HTTP/1.1.
func ProtocolVersion() string { return get(getProtocolVersion) }

// SourceAddr is the client's address and port.
func SourceAddr() string { return get(getSourceAddr) }

// Status is the status of the response.
func Status() int { return int(getStatusCode()) }

// Log writes a message into the log of the host.
func Log(level int32, message string) { log(level, text(message), uint32(len(message))) }

// SetHeader replaces all values of a header.
func SetHeader(kind uint32, name, value string) {
	setHeaderValue(kind, text(name), uint32(len(name)), text(value), uint32(len(value)))
}

// AddHeader adds a value to those of a header.
func AddHeader(kind uint32, name, value string) {
	addHeaderValue(kind, text(name), uint32(len(name)), text(value), uint32(len(value)))
}

// RemoveHeader removes all values of a header.
func RemoveHeader(kind uint32, name string) { removeHeader(kind, text(name), uint32(len(name))) }

// Body reads a whole body.
func Body(kind uint32) []byte {
	var body []byte
	buf := make([]byte, 4096)
	for {
		eofLen := readBody(kind, pointer(buf), uint32(len(buf)))
		body = append(body, buf[:uint32(eofLen)]...)
		if eofLen>>32 != 0 {
			return body
		}
	}
}

// ReadBody reads the next part of a body, and says whether it was the last.
func ReadBody(kind uint32, buf []byte) (n int, last bool) {
	eofLen := readBody(kind, pointer(buf), uint32(len(buf)))

	return int(uint32(eofLen)), eofLen>>32 != 0
}

// WriteBody replaces a body with the first call and appends with the next.
func WriteBody(kind uint32, body []byte) { writeBody(kind, pointer(body), uint32(len(body))) }

// SetStatus sets the status of the response.
func SetStatus(status int) { setStatusCode(uint32(status)) }

// room is where the host writes what it is asked for. There is one request at a
// time, and a new slice for each call would be work for the garbage collector.
var room = make([]byte, 2048)

// get calls a getter a second time when the value did not fit.
func get(getter func(buf unsafe.Pointer, limit uint32) uint32) string {
	n := getter(pointer(room), uint32(len(room)))
	if int(n) > len(room) {
		room = make([]byte, n)
		n = getter(pointer(room), n)
	}

	return string(room[:n])
}

// getMany is get for a count and length of NUL-terminated values, which are there
// until the next call.
func getMany(getter func(buf unsafe.Pointer, limit uint32) uint64) []byte {
	n := uint32(getter(pointer(room), uint32(len(room))))
	if int(n) > len(room) {
		room = make([]byte, n)
		n = uint32(getter(pointer(room), n))
	}

	return room[:n]
}

// split takes NUL-terminated values apart.
func split(values []byte) []string {
	if len(values) == 0 {
		return nil
	}

	return strings.Split(string(values[:len(values)-1]), "\x00")
}

func pointer(b []byte) unsafe.Pointer { return unsafe.Pointer(unsafe.SliceData(b)) }

func text(s string) unsafe.Pointer { return unsafe.Pointer(unsafe.StringData(s)) }
