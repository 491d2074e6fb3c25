package cell

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"ngx-http-wasm-handler/matrix/site"
	"ngx-http-wasm-handler/matrix/wire"
)

// Cell is one question.
type Cell struct {
	Server site.Server
	Source site.Source
	Client Client
}

// Name has no other cell.
func (c Cell) Name() string { return c.Server.Name + "/" + c.Source.Name + "/" + c.Client.Name }

// Fails says whether one of its guests does, and is not passed over.
func (c Cell) Fails() bool {
	return !c.Server.Open && !c.Source.Bypass && anyLevel(c.Server.Levels, func(l site.Level) bool { return l.Early || l.Late })
}

// LeftOut are cells to which there is no right answer: a part that nobody asked for and whose body a guest changes; what is
// made of another method where that asks for something else; what becomes of a guest's own answer in filters that add to it.
func (c Cell) LeftOut() bool {
	levels := c.Server.Levels
	switch {
	case c.Source.Name == "upstream-part":
		return anyLevel(levels, func(l site.Level) bool { return l.Prefix != "" || l.Replaces != "" })
	case anyLevel(levels, func(l site.Level) bool { return l.Method != "" }):
		return c.Source.Adds || c.Source.Method != "" || c.Source.Cut || c.Source.Upgrade || c.Client.ranged || c.Client.conditional[1] != ""
	case anyLevel(levels, func(l site.Level) bool { return l.Answers != "" }):
		return c.Source.Adds || c.Source.Upgrade
	default:
		return false
	}
}

// All are the cells whose name a regular expression finds.
func All(only *regexp.Regexp, h3 bool) (all []Cell) {
	for _, server := range site.Servers {
		for _, source := range site.Sources {
			for _, client := range Clients {
				c := Cell{server, source, client}
				if client.Asks(source) && (h3 || !client.H3) && !c.LeftOut() && only.MatchString(c.Name()) {
					all = append(all, c)
				}
			}
		}
	}

	return all
}

// Asker asks one nginx.
type Asker struct {
	Environment

	n   atomic.Int64
	mu  sync.Mutex
	old map[string]*memo
	// stale are numbers whose entries in the cache have expired.
	stale chan int
}

// memo is what was answered without a guest.
type memo struct {
	once  sync.Once
	plain Plain
	// skip: there is nothing to ask.
	skip bool
	err  error
}

// Outcome is what came of a cell.
type Outcome struct {
	Reply Reply
	// Diffs say what is wrong, Used why the answer may differ from the one without a guest.
	Diffs []string
	Used  []Reason
	// Nothing: this client has nothing to ask of that source.
	Nothing bool
	// Ends: all that is wrong is that the connection ends earlier than it would without guests.
	Ends bool
}

// NewAsker asks the nginx of that environment.
func NewAsker(e Environment) *Asker {
	return &Asker{Environment: e, old: make(map[string]*memo), stale: make(chan int, 1<<20)}
}

var plainHost = site.Server{Name: site.Plain}.Host()

// Ask asks a cell, and judges. With restless every guest may have waited.
func (a *Asker) Ask(c Cell, restless bool) (o Outcome) {
	m := a.memo(c)
	if m.err != nil || m.skip {
		o.Nothing = m.skip
		if m.err != nil {
			o.Diffs = []string{"without a guest: " + m.err.Error()}
		}
		return o
	}

	var n int
	var err error
	o.Reply, n, err = a.send(c.Server.Host(), c.Source, c.Client, true, m.plain.whole.Get(c.Client.conditional[0]))
	if err != nil {
		o.Diffs = []string{err.Error()}
		return o
	}
	wants := Expect(c.Server, c.Source, c.Client, m.plain, restless)
	o.Diffs, o.Used = best(wants, o.Reply, c.Client)
	missing := false
	if o.Reply.Second != nil && len(o.Diffs) == 0 {
		o.Diffs, _ = best(wants, Reply{Answer: *o.Reply.Second}, c.Client)
		missing = len(o.Diffs) > 0 && errors.Is(o.Reply.Second.Err, wire.ErrClosed)
	}
	untouched := !c.Server.Open && anyLevel(c.Server.Levels, func(l site.Level) bool { return l.Early || l.Answers != "" })
	if err = a.Site.After(c.Source, n, untouched); err != nil {
		o.Diffs = append(o.Diffs, err.Error())
	}
	o.Ends = len(o.Diffs) > 0
	for _, d := range o.Diffs {
		o.Ends = o.Ends && (d == closes || errors.Is(o.Reply.Next, wire.ErrClosed) && d == o.Reply.Next.Error())
	}
	// Only the second of two has not begun.
	o.Ends = o.Ends || missing && err == nil

	return o
}

// Request is one that a cell asks, never the same twice.
func (a *Asker) Request(c Cell) wire.Request {
	return c.Client.request(c.Server.Host(), c.Source, c.Source.Path(int(a.n.Add(1))), true, "")
}

// Learn asks without guests what these cells are compared with.
func (a *Asker) Learn(cells []Cell) error {
	queue := make(chan Cell)
	errs := make(chan error, 16)
	for range cap(errs) {
		go func() {
			var all error
			for c := range queue {
				if m := a.memo(c); m.err != nil && all == nil {
					all = fmt.Errorf("%s/%s without a guest: %w", c.Source.Name, c.Client.Name, m.err)
				}
			}
			errs <- all
		}()
	}
	for _, c := range cells {
		queue <- c
	}
	close(queue)
	var err error
	for range cap(errs) {
		err = cmp.Or(err, <-errs)
	}

	return err
}

// Get asks the server without guests.
func (a *Asker) Get(path string) wire.Answer {
	return http1(&a.Environment, wire.Request{Method: "GET", Target: path, Host: plainHost}, nil).Answer
}

// Alive asks for something that is there always.
func (a *Asker) Alive() error {
	return isCanary(http1(&a.Environment, canary(plainHost), nil).Answer)
}

// Plain is what the client of a cell got without a guest.
func (a *Asker) Plain(c Cell) wire.Answer { return a.memo(c).plain.asked }

// best is in what an answer differs from the likest of those that are allowed.
func best(wants []Want, got Reply, c Client) (diffs []string, used []Reason) {
	likeness := func(w Want, diffs []string) int {
		if w.closed || w.base.Status != got.Status {
			return 100
		}
		return len(diffs)
	}
	least := -1
	for _, w := range wants {
		d, u := w.differs(got, c)
		if len(d) == 0 {
			return nil, u
		}
		if n := likeness(w, d); least < 0 || n < least {
			least, diffs, used = n, d, u
		}
	}

	return diffs, used
}

// send asks one server for a source, and also returns the number of the request.
func (a *Asker) send(host string, source site.Source, c Client, all bool, validator string) (Reply, int, error) {
	n, err := a.number(source)
	if err != nil {
		return Reply{}, n, err
	}
	if err := a.Site.Before(source, n); err != nil {
		return Reply{}, n, err
	}
	again := func() wire.Request {
		if source.Once {
			return canary(host)
		}
		return c.request(host, source, source.Path(int(a.n.Add(1))), all, validator)
	}

	return c.ask(&a.Environment, c.request(host, source, source.Path(n), all, validator), again), n, nil
}

func (a *Asker) number(source site.Source) (int, error) {
	if !source.Stale {
		return int(a.n.Add(1)), nil
	}
	select {
	case n := <-a.stale:
		return n, nil
	default:
		return 0, errors.New("no entry in the cache is left")
	}
}

// memo asks where there is no guest, once for a source and a client.
func (a *Asker) memo(c Cell) *memo {
	key := c.Source.Name + "/" + c.Client.Name
	a.mu.Lock()
	m := a.old[key]
	if m == nil {
		m = new(memo)
		a.old[key] = m
	}
	a.mu.Unlock()
	m.once.Do(func() { m.err = a.ascertain(m, c.Source, c.Client) })

	return m
}

func (a *Asker) ascertain(m *memo, source site.Source, c Client) error {
	p := &m.plain
	sane := func(c Client, all bool, validator string) (wire.Answer, error) {
		r, n, err := a.send(plainHost, source, c, all, validator)
		p.ends = errors.Is(r.Next, wire.ErrClosed)
		err = cmp.Or(err, a.Site.After(source, n, false))
		if err == nil && !p.ends {
			err = r.Next
		}
		if err == nil && r.Err != nil && !(source.Cut && errors.Is(r.Err, wire.ErrTruncated)) {
			err = r.Err
		}
		return r.Answer, err
	}
	var err error
	if p.whole, err = sane(c, false, ""); err != nil {
		return err
	}
	p.asked = p.whole
	if c.ranged || c.conditional[1] != "" {
		validator := p.whole.Get(c.conditional[0])
		if c.conditional[0] != "" && validator == "" {
			m.skip = true
			return nil
		}
		if p.asked, err = sane(c, true, validator); err != nil {
			return err
		}
	}
	if p.whole.Has("content-encoding") && p.whole.Has("content-length") {
		// It was not nginx that has compressed it.
		takesAll := c
		takesAll.header = slices.DeleteFunc(slices.Clone(c.header), func(f wire.Field) bool { return f == acceptGzip })
		answer, err := sane(takesAll, false, "")
		if err != nil {
			return err
		}
		p.uncoded = compressed(answer)
	}
	p.pages = make(map[int][]wire.Answer)
	for _, status := range []int{500, 502} {
		page := site.Source{Method: source.Method}
		if !source.Chunked {
			page.Body = source.Body
		}
		for _, all := range []bool{false, true} {
			r := c.ask(&a.Environment, c.request(plainHost, page, source.Failed(status), all, ""), func() wire.Request { return canary(plainHost) })
			if r.Err != nil {
				return fmt.Errorf("the page for status %d: %w", status, r.Err)
			}
			p.pages[status] = append(p.pages[status], r.Answer)
		}
	}

	return nil
}

// compressed is what nginx makes of the header of an answer whose body it compresses.
func compressed(a wire.Answer) *wire.Answer {
	var header []wire.Field
	for _, f := range a.Header {
		switch f.Name {
		case "content-length", "accept-ranges":
			continue
		case "etag":
			f.Value = "W/" + strings.TrimPrefix(f.Value, "W/")
		}
		header = append(header, f)
	}
	a.Header = header

	return &a
}

// Prepare fills the cache with what these cells are to find in it, and lets go by the second in which some of it expires.
func (a *Asker) Prepare(cells []Cell) error {
	until := func(path string, states ...string) error {
		for end := time.Now().Add(a.Patience); ; {
			state := a.Get(path).Get("x-cache")
			for _, s := range states {
				if s == state {
					return nil
				}
			}
			if time.Now().After(end) {
				return fmt.Errorf("%s is %q in the cache, expected %q", path, state, states)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	var source site.Source
	count := 0
	for _, c := range cells {
		if c.Source.Stale {
			source, count = c.Source, count+1
		} else if c.Source.Name == "cache-hit" {
			if err := until(c.Source.Path(0), "HIT"); err != nil {
				return err
			}
		}
	}
	if count == 0 {
		return nil
	}
	// Some cells are asked twice, and those without a guest as well. The last one says when it is time.
	for range 2*count + 3*len(Clients) {
		n := int(a.n.Add(1))
		if r := a.Get(source.Path(n)); r.Err != nil || r.Status != 200 {
			return fmt.Errorf("filling the cache: %v", r)
		}
		a.stale <- n
	}
	probe := source.Path(int(a.n.Add(1)))
	a.Get(probe)

	return until(probe, "STALE", "EXPIRED")
}
