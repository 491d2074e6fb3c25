//go:build wasip1

// Package httpwasm is the guest side of the http_handler ABI, as far as the
// guests here need it. A guest is a reactor: it is built with
// -buildmode=c-shared, its main function is never called, and it names its
// handlers in an init function, which runs inside _initialize.
package httpwasm

import "unsafe"

// Kinds of headers and bodies.
const (
	Request  uint32 = 0
	Response uint32 = 1
)

// BufferResponse is the feature that gives a guest the body of the response.
const BufferResponse uint32 = 2

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
func SetURI(uri string) {
	u := []byte(uri)
	setURI(pointer(u), uint32(len(u)))
}

// Header is the first value of a header, or nothing.
func Header(kind uint32, name string) string {
	n := []byte(name)
	values := getMany(func(buf unsafe.Pointer, limit uint32) uint64 {
		return getHeaderValues(kind, pointer(n), uint32(len(n)), buf, limit)
	})
	for i, c := range values {
		if c == 0 {
			return string(values[:i])
		}
	}

	return ""
}

// SetHeader replaces all values of a header.
func SetHeader(kind uint32, name, value string) {
	n, v := []byte(name), []byte(value)
	setHeaderValue(kind, pointer(n), uint32(len(n)), pointer(v), uint32(len(v)))
}

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

// WriteBody replaces a body with the first call and appends with the next.
func WriteBody(kind uint32, body []byte) { writeBody(kind, pointer(body), uint32(len(body))) }

// SetStatus sets the status of the response.
func SetStatus(status int) { setStatusCode(uint32(status)) }

// get calls a getter a second time when the value did not fit.
func get(getter func(buf unsafe.Pointer, limit uint32) uint32) string {
	buf := make([]byte, 2048)
	n := getter(pointer(buf), uint32(len(buf)))
	if int(n) > len(buf) {
		buf = make([]byte, n)
		n = getter(pointer(buf), n)
	}

	return string(buf[:n])
}

// getMany is get for a count and length of NUL-terminated values.
func getMany(getter func(buf unsafe.Pointer, limit uint32) uint64) []byte {
	buf := make([]byte, 2048)
	n := uint32(getter(pointer(buf), uint32(len(buf))))
	if int(n) > len(buf) {
		buf = make([]byte, n)
		n = uint32(getter(pointer(buf), n))
	}

	return buf[:n]
}

func pointer(b []byte) unsafe.Pointer { return unsafe.Pointer(unsafe.SliceData(b)) }
