//go:build wasip1

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/gomodule/redigo/redis"
	"github.com/stealthrocket/net/wasip1"

	"ngx-http-wasm-handler/tests/guests/go/httpwasm"
)

// Scripts run as a whole: no other client comes between. They get the window in
// milliseconds and the requests in it, and return how many milliseconds to wait,
// 0 for none.
var (
	fixed = redis.NewScript(1, `
local count = redis.call('INCR', KEYS[1])
local left = redis.call('PTTL', KEYS[1])
if left < 0 then
  left = tonumber(ARGV[1])
  redis.call('PEXPIRE', KEYS[1], left)
end
if count <= tonumber(ARGV[2]) then return 0 end
return math.max(left, 1)
`)
	// Two windows with the count of each, as windows of the clock.
	sliding = redis.NewScript(1, `
local window, limit = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local start = now - now % window
local had = redis.call('HMGET', KEYS[1], 'start', 'count', 'before')
local last, count, before = tonumber(had[1] or 0), tonumber(had[2] or 0), tonumber(had[3] or 0)
if last == start - window then
  count, before = 0, count
elseif last ~= start then
  count, before = 0, 0
end
local passed = now - start
if count + before * (window - passed) / window + 1 <= limit then
  redis.call('HSET', KEYS[1], 'start', string.format('%.0f', start), 'count', count + 1, 'before', before)
  redis.call('PEXPIRE', KEYS[1], 2 * window)
  return 0
end
local wait
if count + 1 <= limit then
  wait = window * (1 - (limit - 1 - count) / before) - passed
else
  wait = window - passed + window * (1 - (limit - 1) / count)
end
return math.max(math.ceil(wait), 1)
`)
)

// question is what one request asks for: keys, empty where it does not.
type question struct{ limit, session string }

type answer struct {
	wait       int64 // milliseconds
	fields     []string
	limitErr   error
	sessionErr error
}

// conn stays open from one request to the next; there is one request at a time in
// an instance.
var conn redis.Conn

// ask makes one way to Redis and back. A connection that was closed meanwhile is
// noticed only now, and a new one is made.
func ask(q question) answer {
	reused := conn != nil
	a, err := try(q)
	var timeout net.Error
	if err != nil && reused && !(errors.As(err, &timeout) && timeout.Timeout()) {
		a, err = try(q)
	}
	if err != nil {
		if q.limit != "" {
			a.limitErr = err
		}
		if q.session != "" {
			a.sessionErr = err
		}
	}

	return a
}

// try fails if the connection does; what Redis refuses is in the answer.
func try(q question) (a answer, err error) {
	if conn == nil {
		if conn, err = dial(); err != nil {
			return a, err
		}
	}
	defer func() {
		// The client believes any length that it is told.
		if recover() != nil {
			err = errors.New("the reply is too large")
		}
		if err != nil || conn.Err() != nil {
			conn.Close()
			conn = nil
		}
	}()
	script := fixed
	if config.Limit != nil && config.Limit.Sliding {
		script = sliding
	}
	var args []any
	if q.limit != "" {
		args = []any{q.limit, config.Limit.window.Milliseconds(), config.Limit.Requests}
		script.SendHash(conn, args...)
	}
	if q.session != "" {
		conn.Send("HMGET", redis.Args{}.Add(q.session).AddFlat(config.Session.fields)...)
	}
	if err := conn.Flush(); err != nil {
		return a, err
	}
	var noScript bool
	if q.limit != "" {
		a.wait, a.limitErr = redis.Int64(conn.Receive())
		noScript = a.limitErr != nil && strings.HasPrefix(a.limitErr.Error(), "NOSCRIPT ")
	}
	if q.session != "" {
		a.fields, a.sessionErr = values(conn.Receive())
	}
	if noScript {
		// Redis is new, or has forgotten it.
		a.wait, a.limitErr = redis.Int64(script.Do(conn, args...))
	}

	return a, conn.Err()
}

// values are those of the fields, empty where there is none. One that no header
// may have, is none.
func values(reply any, err error) ([]string, error) {
	fields, err := redis.Strings(reply, err)
	if err != nil {
		return nil, err
	}
	if len(fields) != len(config.Session.fields) {
		return nil, fmt.Errorf("%d fields instead of %d", len(fields), len(config.Session.fields))
	}
	for i, value := range fields {
		if len(value) > 8192 || strings.ContainsFunc(value, func(c rune) bool { return c < ' ' || c == 0x7f }) {
			httpwasm.Log(httpwasm.Warn, fmt.Sprintf("session=ignored field=%q", config.Session.fields[i]))
			fields[i] = ""
		}
	}

	return fields, nil
}

func dial() (redis.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), config.timeout)
	defer cancel()
	c, err := wasip1.DialContext(ctx, config.network, config.address)
	if err != nil {
		return nil, err
	}
	r := redis.NewConn(c, config.timeout, config.timeout)
	if config.Password != "" {
		args := redis.Args{}
		if config.Username != "" {
			args = args.Add(config.Username)
		}
		if _, err := r.Do("AUTH", args.Add(config.Password)...); err != nil {
			r.Close()
			return nil, err
		}
	}
	if config.Database != 0 {
		if _, err := r.Do("SELECT", config.Database); err != nil {
			r.Close()
			return nil, err
		}
	}

	return r, nil
}
