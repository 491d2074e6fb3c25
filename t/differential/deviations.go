package differential

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// deviation is a class of differences that is meant to be, and why. One that no trial shows any more is reported as stale:
// the trials begin with one for each class.
type deviation struct {
	name, reason, ref string
	// matches looks at what the module did too: being different is not enough, it has to be different in the right way.
	matches func(t trial, d difference) bool
	// chance is set where a run may not show it.
	chance bool
}

var deviations = []deviation{
	{
		name:   "the reference host loses request bodies",
		reason: "with buffer_request its guest uses up all but the last read, or the last chunk that came in time",
		ref:    "ABI read_body: the next handler gets the body as the client sent it",
		matches: func(t trial, d difference) bool {
			return t.guest == "read" && d.about == "body at the backend" && d.ours == sum(t.send.Body, nil)
		},
	},
	{
		name:   "the reference host announces the length of another body",
		reason: "it sends the length that the backend set with the body that the guest wrote: cut, empty or refused by the client",
		ref:    "RFC 9110 8.6",
		matches: func(t trial, d difference) bool {
			return t.guest == "rewrite" && t.answer.length && d.about == "response body" && d.ours == sum(rewritten(t), nil)
		},
	},
	{
		name:   "the reference host closes on a client that it did not listen to",
		reason: "net/http resets the connection when a body was not read, and with it the end of a long response",
		ref:    "RFC 9112 9.6",
		chance: true,
		matches: func(t trial, d difference) bool {
			return t.guest == "write" && d.about == "response body" && strings.HasSuffix(d.theirs, cut) &&
				d.ours == sum(filler(t.answer.size), nil)
		},
	},
	{
		name:   "illegal bytes in a path: only these are escaped",
		reason: "the reference host decodes and encodes the whole path then, which turns %2F into a slash",
		ref:    "RFC 3986 6.2.2.2: reserved characters and their escapes are not the same",
		matches: func(t trial, d difference) bool {
			path, query, found := strings.Cut(t.send.Target, "?")
			if !illegal(path) {
				return false
			}
			want := escapeIllegal(path)
			if found {
				want += "?" + query
			}
			switch {
			case t.guest == "uri" && d.about == "URI at the backend":
				return d.ours == "/p"+escapeQuery(want)
			case t.guest == "tell" && d.about == "header X-Seen-Uri at the backend":
				return d.ours == fmt.Sprintf("%q", []string{want})
			default:
				return false
			}
		},
	},
	{
		name:   "spaces and bytes beyond ASCII in a query that a guest sets are escaped",
		reason: "the reference host hands the text to its next handler as it is; on the wire it has to be a request target",
		ref:    "RFC 3986 3.4",
		matches: func(t trial, d difference) bool {
			path, _, _ := strings.Cut(t.send.Target, "?")
			return t.guest == "uri" && d.about == "URI at the backend" && !illegal(path) &&
				d.ours == "/p"+escapeQuery(t.send.Target) && d.ours != "/p"+t.send.Target
		},
	},
	{
		name:   "nobody guesses the type of a guest's body",
		reason: "net/http guesses one from the bytes that are written last; the module leaves the backend's guess, or none",
		ref:    "RFC 9110 8.3: a sender that does not know the media type leaves the field out",
		matches: func(t trial, d difference) bool {
			guess := fmt.Sprintf("%q", []string{http.DetectContentType(filler(t.answer.size))})
			return d.about == "header Content-Type of the response" && (d.ours == nothing || d.ours == guess) &&
				!slices.ContainsFunc(t.answer.header, isHeader("Content-Type"))
		},
	},
	{
		name:   "net/http takes the Content-Type out of 304",
		reason: "so do the backend of the module, before the guest, and the server of the reference host, after it",
		ref:    "RFC 9110 15.4.5: a 304 says what a 200 would, as far as a cache needs it",
		matches: func(t trial, d difference) bool {
			return t.answer.status == http.StatusNotModified && d.about == "header Content-Type of the response" &&
				(d.ours == nothing || d.theirs == nothing && t.guest == "headers")
		},
	},
	{
		name:   "validators of a body that the guest replaced",
		reason: "an ETag or a date of the backend's body would be wrong for another one",
		ref:    "RFC 9110 8.8",
		matches: func(t trial, d difference) bool {
			return t.guest == "rewrite" && d.ours == nothing &&
				(d.about == "header Etag of the response" || d.about == "header Last-Modified of the response")
		},
	},
	{
		name:   "no Range to the backend when the response is buffered",
		reason: "a guest that looks at a body has to get all of it",
		ref:    "RFC 9110 14.2: a server may ignore Range",
		matches: func(t trial, d difference) bool {
			return guests[t.guest].Features&2 != 0 && d.about == "header Range at the backend" && d.ours == nothing
		},
	},
	{
		name:   "no Accept-Encoding to the backend when the response is buffered",
		reason: "a guest that looks at a body has to get it as it is, not compressed",
		ref:    "RFC 9110 12.5.3: without the field a server should send no content coding",
		matches: func(t trial, d difference) bool {
			return guests[t.guest].Features&2 != 0 && d.about == "header Accept-Encoding at the backend" && d.ours == nothing
		},
	},
	{
		name:   "nginx refuses a second line of a header that there is once",
		reason: "nginx answers before any module is asked; net/http takes it",
		ref:    "RFC 9110 5.3",
		matches: func(t trial, d difference) bool {
			return d.about == refused && d.ours == "400" && slices.ContainsFunc(single, func(name string) bool {
				n := 0
				for _, line := range t.send.Header {
					if isHeader(name)(line) {
						n++
					}
				}
				return n > 1
			})
		},
	},
	{
		name:   "nginx refuses methods that are not in capital letters",
		reason: "nginx answers before any module is asked; to net/http every token is a method",
		ref:    "RFC 9110 9.1",
		matches: func(t trial, d difference) bool {
			return d.about == refused && d.ours == "400" && strings.ToUpper(t.send.Method) != t.send.Method
		},
	},
	{
		name:   "nginx refuses TRACE",
		reason: "nginx answers before any module is asked; error_page 405 can bring it to a guest",
		ref:    "RFC 9110 9.3.8",
		matches: func(t trial, d difference) bool {
			return d.about == refused && d.ours == "405" && t.send.Method == http.MethodTrace
		},
	},
	{
		name:   "nginx refuses a path above the root",
		reason: "nginx answers before any module is asked",
		ref:    "RFC 3986 5.2.4",
		matches: func(t trial, d difference) bool {
			return d.about == refused && d.ours == "400" && aboveRoot(t.send.Target)
		},
	},
	{
		name:   "nginx drops headers with unusual names",
		reason: "underscores_in_headers and ignore_invalid_headers leave letters, digits and hyphens; neither guest nor backend sees the others",
		ref:    "nginx, ignore_invalid_headers",
		matches: func(t trial, d difference) bool {
			name := strings.TrimSuffix(strings.TrimPrefix(d.about, "header "), " at the backend")
			return strings.HasSuffix(d.about, "at the backend") && strings.ContainsAny(name, "_.!") && d.ours == nothing
		},
	},
	{
		name:   "nginx does not pass on headers of one hop",
		reason: "the reference host is measured in the process of the backend, where there is no second hop",
		ref:    "RFC 9110 7.6.1",
		matches: func(_ trial, d difference) bool {
			return d.ours == nothing && slices.Contains([]string{"header Te at the backend", "header Keep-Alive at the backend",
				"header Upgrade at the backend", "header Expect at the backend"}, d.about)
		},
	},
	{
		name:   "an absolute form reaches the backend as its path",
		reason: "the reference host is measured in the process of the backend, which sees the request line of the client",
		ref:    "RFC 9112 3.2.1",
		matches: func(t trial, d difference) bool {
			return strings.HasPrefix(t.send.Target, "http://") && d.about == "URI at the backend" &&
				strings.HasSuffix(t.send.Target, d.ours)
		},
	},
}

// rewritten is the response body that the guest rewrite makes.
func rewritten(t trial) []byte {
	if t.send.Method == http.MethodHead {
		return nil
	}
	body := filler(t.answer.size)
	for i := 0; i < len(body); i += 65536 {
		body[i] = '#'
	}

	return append(body, " the end"...)
}

// aboveRoot says whether a path leaves the root the way nginx reads it: unescaped, with slashes merged.
func aboveRoot(target string) bool {
	path, _, _ := strings.Cut(target, "?")
	path, err := url.PathUnescape(path)
	if err != nil {
		return false
	}
	depth := 0
	for segment := range strings.SplitSeq(path, "/") {
		switch segment {
		case "", ".":
		case "..":
			depth--
		default:
			depth++
		}
		if depth < 0 {
			return true
		}
	}

	return false
}

// single are headers that nginx takes once, in one of the versions that are tested.
var single = []string{"If-None-Match", "Range", "Content-Type", "Referer", "User-Agent", "If-Modified-Since", "Authorization"}

func isHeader(name string) func(string) bool {
	return func(line string) bool {
		got, _, _ := strings.Cut(line, ":")
		return strings.EqualFold(got, name)
	}
}

// illegal says whether a path has bytes that may not stand in one (RFC 3986 3.3), and escapeIllegal escapes them.
func illegal(path string) bool { return escapeIllegal(path) != path }

func escapeIllegal(path string) string { return escape(path, "\"<>\\^`{|}#") }

// escapeQuery escapes what no request line can hold.
func escapeQuery(target string) string { return escape(target, "") }

func escape(text, more string) string {
	var b strings.Builder
	for i := range len(text) {
		if c := text[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(more, c) >= 0 {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}

	return b.String()
}
