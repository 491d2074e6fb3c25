package cell

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"ngx-http-wasm-handler/matrix/site"
	"ngx-http-wasm-handler/matrix/wire"
)

// Reason is why an answer may differ from that of nginx without a guest. All reasons are here.
type Reason string

const (
	changed   Reason = "a guest changed it"
	whole     Reason = "a guest that waits or buffers makes a range the whole"
	otherBody Reason = "a condition is not asked of a body that a guest changes"
	lengthen  Reason = "its length is known, because it was collected"
	noRanges  Reason = "ranges are not offered"
	noMatch   Reason = "validators are those of another body"
	decoded   Reason = "the content coding is that of another body"
	page      Reason = "the page of a guest's failure"
	badPage   Reason = "the page about a body that could not be collected"
	silent    Reason = "closed before the first byte, because of a failure"
	opaque    Reason = "bytes in front of a compressed body are not looked into"
	upgraded  Reason = "a header of 101 is not changed"
	uncoded   Reason = "a guest has the body asked for without a content coding; nginx compresses it afterwards"
	filled    Reason = "a guest gives a body to a response that was to have none"
	bare      Reason = "the page of a failure has no body where the response was to have none"
)

// Plain is what nginx answers without guests: to that client, to it without ranges and conditions, and the pages of two
// failures, with and without those.
type Plain struct {
	asked, whole wire.Answer
	pages        map[int][]wire.Answer
	// uncoded is, of what was compressed before nginx got it, what is answered to a client that takes no content coding: its
	// body, and the header that it has when nginx compresses it.
	uncoded *wire.Answer
	// ends: nginx closes the connection after what was asked for, and does not say so.
	ends bool
}

// Want is one answer that is allowed.
type Want struct {
	base    wire.Answer
	body    []byte
	reasons []Reason
	// set are the header lines of guests.
	set []wire.Field
	// may are some that need not be there; with optional none needs to.
	may      []wire.Field
	optional bool
	// alters: the body is that of a guest, even if none goes out; changed: it does. collected: its length is known.
	// held: ranges are not offered.
	alters, changed, collected, held bool
	// length is what a HEAD may announce, -1 is unknown.
	length int
	// cut: the body ends early. closed: nothing comes.
	cut, closed bool
	// unread: the body is not looked at.
	unread bool
	// page: it is one about a failure. ends: nothing more comes on the connection.
	page, ends bool
}

// Expect is all that a client may get from a source through guests, the likeliest first. With restless every guest that is
// called may have waited.
func Expect(server site.Server, source site.Source, c Client, p Plain, restless bool) []Want {
	if source.Bypass {
		w := from(p.asked, source)
		w.ends = p.ends
		return []Want{w}
	}

	if restless {
		server.Levels = slices.Clone(server.Levels)
		for i, l := range server.Levels {
			if !l.Quiet {
				server.Levels[i].Waits = max(l.Waits, 1)
			}
		}
	}

	// Those that are owed their handle_response, and what they are to see.
	var owed []site.Level
	bases := []Want{from(p.asked, source)}
	bases[0].ends = p.ends
	if part(p) || condition(p) {
		bases = append(bases, from(p.whole, source))
	}
	// Nothing behind the next handler says anything.
	var answered bool
	for _, l := range server.Levels {
		switch {
		case l.Early && !server.Open:
			return failed(owed, p)
		case l.Early:
			continue
		case l.Reads && p.asked.Status == 413:
			// Its body was refused while it waited for it.
			answered = true
		case l.Answers != "":
			bases, answered = []Want{own(l, p, source)}, true
		default:
			owed = append(owed, l)
		}
		if answered {
			break
		}
	}
	takes := func(l site.Level) bool { return l.Waits > 0 || l.Buffers }
	short := source.Cut && !c.head && !answered
	tooLarge := source.Tags == "too large" && !c.head && !answered

	// The failure of the innermost guest that fails; those inside of it have had their call.
	for i, l := range slices.Backward(owed) {
		if l.Late && !server.Open {
			wants := failed(owed[:i], p)
			if source.Bare {
				for _, w := range wants {
					if !w.closed {
						w.body, w.length, w.alters = nil, 0, true
						w.reasons = append(w.reasons, bare)
						wants = append(wants, w)
					}
				}
			}
			if (short || tooLarge) && anyLevel(owed[i:], takes) {
				wants = append(wants, uncollected(owed, p)...)
			}
			return wants
		}
	}

	waits := anyLevel(owed, takes)
	changes := anyLevel(owed, func(l site.Level) bool { return l.Prefix != "" || l.Replaces != "" && !l.Late })
	collects := anyLevel(owed, func(l site.Level) bool { return l.Buffers })
	bodiless := c.head || source.Bare && !answered || p.asked.Status == 101
	if p.uncoded != nil && (collects || changes) && !answered {
		base := from(*p.uncoded, source)
		base.base.Header = append(slices.Clone(base.base.Header), wire.Field{Name: "content-encoding", Value: "gzip"})
		base.reasons = append(base.reasons, uncoded)
		bases = append(bases, base)
	}
	var wants []Want
	for i, base := range bases {
		w := through(owed, base, bodiless)
		switch {
		case i == 0 && part(p) && changes && !answered, i == 1 && part(p) && !waits && !changes, i == 1 && condition(p) && !changes:
			continue
		case i == 1 && part(p):
			w.reasons = append(w.reasons, whole)
		case i == 1 && condition(p):
			w.reasons = append(w.reasons, otherBody)
		}
		if source.Packed && w.base.Has("content-encoding") && anyLevel(owed, func(l site.Level) bool { return l.Prefix != "" }) {
			w.unread, w.reasons = true, append(w.reasons, opaque)
		}
		w.cut = short && w.base.Status < 300
		wants = append(wants, w)
		if anyLevel(owed, func(l site.Level) bool { return l.Method == "HEAD" }) {
			w.body, w.length, w.alters, w.changed, w.held = nil, 0, true, true, true
			wants = append(wants, w)
		}
		if source.Bare && w.alters && !answered && w.base.Status != 204 {
			w = through(owed, base, c.head)
			w.reasons = append(w.reasons, filled)
			wants = append(wants, w)
		}
	}
	switch {
	case collects && (short || tooLarge && p.asked.Status == 200):
		wants = uncollected(owed, p)
	case short && waits, tooLarge && collects && part(p):
		wants = append(wants, uncollected(owed, p)...)
	}

	return wants
}

// part says whether a client got something else because it asked for a range, condition because of its condition.
func part(p Plain) bool {
	return p.asked.Status != p.whole.Status && (p.asked.Status == 206 || p.asked.Status == 416)
}

func condition(p Plain) bool {
	return p.asked.Status != p.whole.Status && (p.asked.Status == 304 || p.asked.Status == 412)
}

// own is a guest's own answer. nginx adds to it what it adds to every answer of the location.
func own(l site.Level, p Plain, source site.Source) Want {
	w := Want{body: []byte(l.Answers), length: len(l.Answers), alters: true, changed: true, collected: true, held: true}
	w.base.Status, w.base.Framing, w.base.Close = 200, wire.Length, p.whole.Close
	for _, f := range p.whole.Header {
		if f.Name == "server" || f.Name == "x-always" {
			w.base.Header = append(w.base.Header, f)
		}
	}
	w.base.Header = append(w.base.Header, wire.Field{Name: "content-length", Value: strconv.Itoa(w.length)})
	name, value, _ := strings.Cut(l.Before, ": ")
	w.set = []wire.Field{{Name: name, Value: value}}

	return w
}

func anyLevel(levels []site.Level, is func(site.Level) bool) bool {
	return slices.ContainsFunc(levels, is)
}

// from is a base as it is.
func from(base wire.Answer, source site.Source) Want {
	w := Want{base: base, length: -1}
	w.body, _ = base.Decoded()
	if source.Cut && base.Status == 200 {
		w.body = source.Whole()
	}
	if n, err := strconv.Atoi(base.Get("content-length")); err == nil {
		w.length = n
	}

	return w
}

// failed is the page of a guest's failure as the guests outside of it make it, or none.
func failed(outside []site.Level, p Plain) (wants []Want) {
	for _, base := range p.pages[500] {
		w := paged(outside, base)
		w.reasons, w.page, w.ends = append(w.reasons, page), true, true
		wants = append(wants, w)
	}

	return append(wants, Want{closed: true, reasons: []Reason{silent}})
}

// uncollected is the page about a body that could not be collected, as those guests make it that had not been called yet, or
// none.
func uncollected(levels []site.Level, p Plain) (wants []Want) {
	for n := len(levels); n >= 0; n-- {
		for _, base := range p.pages[502] {
			w := paged(levels[:n], base)
			for _, l := range levels[n:] {
				if name, value, found := strings.Cut(l.Before, ": "); found {
					w.may = append(w.may, wire.Field{Name: name, Value: value})
				}
			}
			w.reasons, w.page, w.ends = append(w.reasons, badPage), true, true
			wants = append(wants, w)
		}
	}

	return append(wants, Want{closed: true, reasons: []Reason{silent}})
}

// paged sends a page past guests. What they set before there was a response may be gone with that.
func paged(levels []site.Level, base wire.Answer) Want {
	w := from(base, site.Source{})
	for i, l := range levels {
		if name, value, found := strings.Cut(l.Before, ": "); found {
			w.may = append(w.may, wire.Field{Name: name, Value: value})
			levels = slices.Clone(levels)
			levels[i].Before = ""
		}
	}

	return through(levels, w, base.Framing == wire.None)
}

// through sends a response past guests, the innermost first.
func through(levels []site.Level, w Want, bodiless bool) Want {
	bodiless = bodiless || slices.Contains([]int{204, 304}, w.base.Status)
	w.optional = w.base.Status == 101
	for _, l := range levels {
		if name, value, found := strings.Cut(l.Before, ": "); found {
			w.set = append(w.set, wire.Field{Name: name, Value: value})
		}
	}
	for _, l := range slices.Backward(levels) {
		if l.Prefix != "" {
			w.alters, w.held = true, true
			w.body = append([]byte(l.Prefix), w.body...)
			if w.length >= 0 {
				w.length += len(l.Prefix)
			}
		}
		w.held = w.held || l.Waits > 0 || l.Buffers
		w.collected = w.collected || l.Buffers
		if l.Late {
			continue
		}
		if name, value, found := strings.Cut(l.Header, ": "); found {
			w.set = append(w.set, wire.Field{Name: name, Value: value})
		}
		if l.Replaces != "" {
			w.alters = true
			w.body, w.length = []byte(l.Replaces), len(l.Replaces)
		}
	}
	if bodiless {
		w.body = w.base.Body
	}
	w.changed = w.alters && !bodiless
	if w.changed || len(w.set) > 0 {
		w.reasons = append(w.reasons, changed)
	}

	return w
}

const closes = "the connection is closed"

// differs says in what an answer is not the one that is wanted, and what else is allowed that it made use of.
func (w Want) differs(got Reply, c Client) (diffs []string, used []Reason) {
	used = slices.Clone(w.reasons)
	say := func(format string, values ...any) { diffs = append(diffs, fmt.Sprintf(format, values...)) }
	if w.closed {
		if !errors.Is(got.Err, wire.ErrClosed) {
			say("expected no answer at all, got %v", got.Answer)
		}
		if got.Next != nil {
			say("%v", got.Next)
		}
		return diffs, used
	}

	if got.Status != w.base.Status {
		say("status %d, expected %d", got.Status, w.base.Status)
		if got.Err != nil {
			say("%v", got.Err)
		}
		return diffs, used
	}
	switch short := errors.Is(got.Err, wire.ErrTruncated); {
	case w.cut && (short || got.Err == nil && got.Framing == wire.Close):
	case w.cut && got.Err == nil:
		say("the end of a body that was cut short looks as if it was whole: %s", got.Framing)
	case got.Err != nil:
		say("%v", got.Err)
	}
	if got.Next != nil && !(w.ends && errors.Is(got.Next, wire.ErrClosed)) {
		say("%v", got.Next)
	}
	if !w.cut && !w.ends && got.Close && !w.base.Close {
		say(closes)
	}

	for _, s := range w.lines(got.Answer, c, &used) {
		say("%s", s)
	}
	if s := w.bodies(got.Answer, c); s != "" {
		say("%s", s)
	}
	if s := w.framing(got.Answer, c, &used); s != "" {
		say("%s", s)
	}

	return diffs, used
}

// Headers that are about the connection or this moment.
var passing = []string{"date", "connection", "keep-alive", "transfer-encoding", "content-length"}

// What differs from request to request in a location.
var number = regexp.MustCompile(`/[0-9]+$`)

// lines compares headers and trailers.
func (w Want) lines(got wire.Answer, c Client, used *[]Reason) (diffs []string) {
	has, expected := sorted(got.Header), sorted(append(slices.Clone(w.base.Header), w.set...))
	for _, name := range slices.Sorted(maps.Keys(merged(has, expected))) {
		is, should := strings.Join(has[name], " | "), strings.Join(expected[name], " | ")
		if name == "location" {
			is, should = number.ReplaceAllString(is, "/N"), number.ReplaceAllString(should, "/N")
		}
		if name == "content-type" && strings.HasPrefix(should, boundary) {
			is, should = is[:min(len(boundary), len(is))], boundary
		}
		if slices.Contains(passing, name) || is == should {
			continue
		}
		missing := has[name] == nil
		switch {
		case w.alters && missing && (name == "etag" || name == "last-modified"):
			note(used, noMatch)
		case w.alters && name == "content-encoding":
			note(used, decoded)
		case w.held && missing && name == "accept-ranges":
			note(used, noRanges)
		case should == "" && slices.Contains(w.may, wire.Field{Name: name, Value: is}):
		case w.optional && missing && slices.ContainsFunc(w.set, func(f wire.Field) bool { return f.Name == name }):
			note(used, upgraded)
		case missing:
			diffs = append(diffs, fmt.Sprintf("no %s, expected %q", name, should))
		default:
			diffs = append(diffs, fmt.Sprintf("%s: %q, expected %q", name, is, should))
		}
	}
	if is, should := fmt.Sprint(sorted(got.Trailer)), fmt.Sprint(sorted(w.base.Trailer)); is != should && !w.cut {
		diffs = append(diffs, fmt.Sprintf("trailers %s, expected %s", is, should))
	}

	return diffs
}

func note(used *[]Reason, r Reason) {
	if !slices.Contains(*used, r) {
		*used = append(*used, r)
	}
}

func sorted(fields []wire.Field) map[string][]string {
	out := make(map[string][]string)
	for _, f := range fields {
		out[f.Name] = append(out[f.Name], f.Value)
	}

	return out
}

func merged(a, b map[string][]string) map[string]bool {
	out := make(map[string]bool)
	for name := range a {
		out[name] = true
	}
	for name := range b {
		out[name] = true
	}

	return out
}

const boundary = "multipart/byteranges; boundary="

// parts makes the boundary of several ranges one that is always the same.
func parts(a wire.Answer, body []byte) []byte {
	mark, found := strings.CutPrefix(a.Get("content-type"), boundary)
	if !found {
		return body
	}

	return bytes.ReplaceAll(body, []byte("--"+mark), []byte("--boundary"))
}

func (w Want) bodies(got wire.Answer, c Client) string {
	if w.unread || c.head && got.Framing == wire.None {
		return ""
	}
	body, err := got.Decoded()
	if w.cut {
		if !bytes.HasPrefix(w.body, body) {
			return fmt.Sprintf("%d bytes are not the beginning of the body: %s", len(body), wire.Excerpt(body))
		}
		return ""
	}
	if err != nil {
		return fmt.Sprintf("the body does not match its content-encoding: %v: %s", err, wire.Excerpt(body))
	}
	is, should := parts(got, body), parts(w.base, w.body)
	if w.page {
		is, should = version.ReplaceAll(is, []byte("</center>")), version.ReplaceAll(should, []byte("</center>"))
	}
	if !bytes.Equal(is, should) {
		return fmt.Sprintf("body of %d bytes, expected %d; they differ from byte %d on: %s, expected %s",
			len(is), len(should), common(is, should), wire.Excerpt(is), wire.Excerpt(should))
	}

	return ""
}

// A page may leave out which nginx it is of.
var version = regexp.MustCompile(`/[0-9.]+</center>`)

func common(a, b []byte) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}

	return n
}

// framing compares how the end of the body is found, and the length that is announced.
func (w Want) framing(got wire.Answer, c Client, used *[]Reason) string {
	announced, expected := got.Has("content-length"), w.base.Has("content-length")
	switch {
	case w.base.Framing == wire.Tunnel:
		return ""
	case c.head:
		length := got.Get("content-length")
		switch {
		case !w.alters && announced == expected && length == w.base.Get("content-length"),
			w.alters && (!announced || length == strconv.Itoa(w.length)),
			w.ends:
			return ""
		default:
			return fmt.Sprintf("content-length %q for HEAD, expected %d", length, w.length)
		}
	case announced && !expected && got.Status != 304:
		if !w.collected && !w.changed && !w.page {
			return "a length of what has not been collected"
		}
		note(used, lengthen)
	case !announced && expected && !w.changed && !w.unread:
		return "no content-length"
	}

	return ""
}
