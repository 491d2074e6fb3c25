//go:build wasip1

package main

import (
	"container/list"
	"crypto/sha256"
	"encoding/binary"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// cache has what the service has allowed, the longest unused at the end. There is
// one request at a time in an instance.
var cache = &answers{entries: map[digest]*list.Element{}}

// digest stands for credentials: a value takes the same memory however long they
// are, and they are not kept.
type digest [sha256.Size]byte

type answers struct {
	entries map[digest]*list.Element
	used    list.List
}

type entry struct {
	key   digest
	id    identity
	until time.Time
}

// key says what an answer depends on, and whether it may be remembered at all.
func (*answers) key(q question) (key digest, ok bool) {
	if config.Cache.time == 0 || len(q.headers) == 0 {
		return key, false
	}
	var text []byte
	// With their lengths, no two lists of values have the same text.
	add := func(values ...string) {
		text = binary.BigEndian.AppendUint32(text, uint32(len(values)))
		for _, value := range values {
			text = binary.BigEndian.AppendUint32(text, uint32(len(value)))
			text = append(text, value...)
		}
	}
	for _, name := range config.RequestHeaders {
		add(q.headers[name]...)
	}
	for _, part := range [][2]string{{"method", q.method}, {"uri", q.uri}, {"host", q.host}} {
		if slices.Contains(config.Cache.By, part[0]) {
			add(part[1])
		}
	}

	return sha256.Sum256(text), true
}

func (c *answers) get(key digest, now time.Time) (identity, bool) {
	e, ok := c.entries[key]
	if !ok {
		return nil, false
	}
	if !now.Before(e.Value.(*entry).until) {
		c.remove(e)
		return nil, false
	}
	c.used.MoveToFront(e)

	return e.Value.(*entry).id, true
}

func (c *answers) put(key digest, id identity, until time.Time) {
	if e, ok := c.entries[key]; ok {
		c.remove(e)
	}
	if len(c.entries) >= config.Cache.Entries {
		c.remove(c.used.Back())
	}
	c.entries[key] = c.used.PushFront(&entry{key, id, until})
}

func (c *answers) remove(e *list.Element) {
	delete(c.entries, e.Value.(*entry).key)
	c.used.Remove(e)
}

// lifetime is for how long an answer may be remembered, at most the time that is
// configured.
func lifetime(header http.Header, longest time.Duration) time.Duration {
	if len(header.Values("Set-Cookie")) > 0 || strings.Contains(strings.Join(header.Values("Vary"), ","), "*") {
		return 0
	}
	for directive := range strings.SplitSeq(strings.Join(header.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
		switch strings.ToLower(name) {
		case "no-store", "no-cache":
			return 0
		case "max-age":
			seconds, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 31)
			if err != nil {
				return 0
			}
			longest = min(longest, time.Duration(seconds)*time.Second)
		}
	}

	return longest
}
