package conformance

import (
	"strings"

	"ngx-http-wasm-handler/conformance/client"
	"ngx-http-wasm-handler/conformance/guest"
)

// watText escapes a text for WAT.
func watText(s string) string {
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case c < ' ' || c > '~' || c == '"' || c == '\\':
			const hex = "0123456789abcdef"
			b.WriteString(`\` + string(hex[c>>4]) + string(hex[c&15]))
		default:
			b.WriteByte(c)
		}
	}

	return b.String()
}

func uriCases() []Case {
	var cases []Case

	for _, t := range []struct {
		id, doc, target, want string
		raw                   bool
	}{
		{"path", "a path", "/a/b", "/a/b", false},
		{"root", "the root", "/", "/", false},
		{"query", "path and query", "/animal?name=panda", "/animal?name=panda", false},
		{"empty query", "a bare question mark stays", "/?", "/?", false},
		{"two question marks", "only the first one ends the path", "/a?b?c", "/a?b?c", false},
		{"escapes", "escapes stay as they came, in their case", "/a%2Fb%2fc%7E?x=%2f", "/a%2Fb%2fc%7E?x=%2f", false},
		{"escaped ampersand", "escapes of reserved characters stay", "/simple%26clean", "/simple%26clean", false},
		{"dot segments", "dot segments are not removed", "/a/../b/./c", "/a/../b/./c", false},
		{"double slashes", "slashes are not merged", "/a//b///c", "/a//b///c", false},
		{"leading slashes", "two slashes in front are not an authority", "//dd", "//dd", false},
		{"reserved", "characters that may stand in a path are not escaped", "/[;,@:!$&'()*+=~]", "/[;,@:!$&'()*+=~]", false},
		{"illegal bytes", "bytes that may not stand in a path are escaped", "/\xc3\xa9\"<>", "/%C3%A9%22%3C%3E", true},
		{"raw query", "the query is passed as it came", "/?q=%zz\"<>", "/?q=%zz\"<>", true},
		{"absolute form", "of an absolute form the path and query", "http://AUTHORITY/x/y?z", "/x/y?z", true},
		{"long", "8000 bytes", "/" + strings.Repeat("a", 7999), "/" + strings.Repeat("a", 7999), true},
	} {
		c := Case{
			ID: "get_uri/" + t.id, Doc: t.doc, Ref: "ABI get_uri",
			Guest: guest.Guest{Request: `(call $is_text (call $get_uri BUF #10000) &"` + watText(t.want) + `")`},
			Send:  client.Request{Target: t.target},
		}
		if !t.raw {
			c.Want.Backend = &Upstream{Target: t.target}
		}
		if strings.HasPrefix(t.target, "http") {
			c.Only, c.OnlyWhy = []string{client.HTTP1}, "there is an absolute form in HTTP/1.1 only"
			c.Do = func(x *Run) {
				r := x.Send
				r.Target = strings.Replace(r.Target, "AUTHORITY", x.host, 1)
				x.Exchange(r, x.Want)
			}
		}
		if t.id == "raw query" {
			c.Only, c.OnlyWhy = []string{client.HTTP1}, "the HTTP/2 and HTTP/3 clients refuse to send it"
		}
		cases = append(cases, c)
	}

	for _, t := range []struct{ id, doc, uri, want string }{
		{"path", "replaces the path and drops the old query", "/new", "/new"},
		{"path and query", "replaces both", "/new?b=c", "/new?b=c"},
		{"empty query", "a bare question mark stays", "/foo?", "/foo?"},
		{"leading slashes", "two slashes in front are not an authority", "//foo", "//foo"},
		{"escapes", "escapes reach the backend as they were set", "/a%2fb%2Fc?x=%26", "/a%2fb%2Fc?x=%26"},
		{"escaped ampersand", "in path and query", "/simple%26clean?name=chip%26dale", "/simple%26clean?name=chip%26dale"},
		{"brackets", "characters that may stand in a path stay", "/a[1];b,c@d", "/a[1];b,c@d"},
		{"dot segments", "are not removed", "/a/../b/./c//d", "/a/../b/./c//d"},
	} {
		cases = append(cases, Case{
			ID: "set_uri/" + t.id, Doc: t.doc, Ref: "ABI set_uri",
			Guest: guest.Guest{
				Request:  `(call $set_uri &"` + watText(t.uri) + `") (call $is_text (call $get_uri BUF #1000) &"` + watText(t.want) + `")`,
				Response: `(call $is_text (call $get_uri BUF #1000) &"` + watText(t.want) + `")`,
			},
			Send: client.Request{Target: "/old?query"},
			Want: Want{Backend: &Upstream{Target: t.want}},
		})
	}

	// What the backend gets then is left open: the reference host hands on the raw bytes.
	for _, t := range []struct{ id, doc, uri, want, decision string }{
		{"empty", "is the root without a query", "", "/", ""},
		{"space", "is escaped in the path", "/a b", "/a%20b", ""},
		{"space and query", "the query stays as it is", "/a b?q=go+language", "/a%20b?q=go+language", ""},
		{"raw query", "the query is raw", "/a?q=go language", "/a?q=go language", ""},
		{"number sign", "is a character of the path, there are no fragments", "/a#b?c", "/a%23b?c", ""},
		{"illegal bytes", "are escaped in the path", "/\xc3\xa9\"<>", "/%C3%A9%22%3C%3E", ""},
		{"absolute form", "gives path and query, its authority is ignored", "http://h.example/p?q", "/p?q", ""},
		{"absolute form without path", "is the root", "http://h.example", "/", ""},
		{"query alone", "is a query of the root", "?x=1", "/?x=1",
			"guests that cut a prefix off the path leave this behind; the reference host answers 500"},
	} {
		operands := `&"` + watText(t.uri) + `"`
		cases = append(cases, Case{
			ID: "set_uri/" + t.id, Doc: t.doc, Ref: "ABI set_uri, reference host", Decision: t.decision,
			Guest: guest.Guest{
				Request: `(call $set_uri ` + operands + `) (call $is_text (call $get_uri BUF #1000) &"` + watText(t.want) + `")`,
			},
			Send: client.Request{Target: "/old?query"},
		})
	}
	cases = append(cases,
		Case{
			ID: "set_uri/escaped at the backend", Doc: "the backend gets a valid request line", Ref: "RFC 9112 3.2",
			Decision: "the reference host hands the text that was set to its next handler as it is",
			Guest:    guest.Guest{Request: `(call $set_uri &"/a b#c?d")`},
			Want:     Want{Backend: &Upstream{Target: "/a%20b%23c?d"}},
		},
		Case{
			ID: "set_uri/authority", Doc: "the Host is not changed by an authority in the URI", Ref: "reference host",
			Guest: guest.Guest{Request: `(call $set_uri &"http://h.example/p")`},
			Do: func(x *Run) {
				x.Exchange(x.Send, Want{Backend: &Upstream{Host: x.host}})
			},
		},
		Case{
			ID: "set_uri/twice", Doc: "the last one counts", Ref: "ABI set_uri",
			Guest: guest.Guest{Request: `(call $set_uri &"/one?q") (call $set_uri &"/two")`},
			Want:  Want{Backend: &Upstream{Target: "/two"}},
		},
		Case{
			ID: "set_uri/out of range", Doc: "bytes outside the memory trap", Ref: "reference host",
			Guest: guest.Guest{Request: "(call $set_uri " + outside + ")"}, Want: Want{Trap: InRequest, In: "set_uri"},
		},
	)

	for _, t := range []struct{ id, doc, uri, decision string }{
		{"relative", "a path without a slash in front traps", "a/b", ""},
		{"relative name", "a name alone traps", "new", ""},
		{"bad escape", "an escape that is none traps", "/%zz", ""},
		{"cut escape", "half an escape traps", "/a%2", ""},
		{"control byte", "a control byte traps", "/a\x01b", ""},
		{"delete", "so does DEL", "/a\x7fb", ""},
		{"line break", "so does a line break, in the path", "/a\r\nX: y", ""},
		{"line break in the query", "and in the query", "/a?b\r\nX: y", ""},
		{"NUL", "and NUL", "/a\x00b", ""},
		{"opaque", "an opaque URI traps", "mailto:x", "the reference host silently makes it \"/\""},
	} {
		cases = append(cases, Case{
			ID: "set_uri/" + t.id, Doc: t.doc, Ref: "reference host", Decision: t.decision,
			Guest: guest.Guest{Request: `(call $set_uri &"` + watText(t.uri) + `")`}, Want: Want{Trap: InRequest, In: "set_uri"},
		})
	}

	return cases
}
