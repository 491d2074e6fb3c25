//go:build wasip1

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

var config struct {
	Redis    string `json:"redis"`
	Username string `json:"username"`
	Password string `json:"password"`
	Database int    `json:"database"`
	Timeout  string `json:"timeout"`
	Limit    *struct {
		Requests  int64  `json:"requests"`
		Window    string `json:"window"`
		Sliding   bool   `json:"sliding"`
		Header    string `json:"header"`
		Prefix    string `json:"prefix"`
		OnFailure string `json:"on_failure"`
		window    time.Duration
		pass      bool
	} `json:"limit"`
	Session *struct {
		Cookie  string            `json:"cookie"`
		Prefix  string            `json:"prefix"`
		Headers map[string]string `json:"headers"`
		// Headers in the order of their names, their fields, and the names folded.
		names, fields []string
		reserved      map[string]bool
	} `json:"session"`
	network, address string
	timeout          time.Duration
}

func configure(text string) (err error) {
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&config); err != nil {
		return fmt.Errorf(`expected JSON with "redis" and "limit" or "session": %w`, err)
	}
	if _, err := decoder.Token(); err != io.EOF {
		return errors.New("expected nothing behind the JSON")
	}
	config.network, config.address = "tcp", config.Redis
	if path, ok := strings.CutPrefix(config.Redis, "unix:"); ok {
		config.network, config.address = "unix", path
	}
	if config.address == "" || config.network == "tcp" && !strings.Contains(config.address, ":") {
		return fmt.Errorf(`redis %q: expected host:port or unix:path`, config.Redis)
	}
	if config.Username != "" && config.Password == "" {
		return errors.New("username: expected a password, too")
	}
	if config.timeout, err = duration("timeout", config.Timeout, 500*time.Millisecond); err != nil {
		return err
	}
	if config.Limit == nil && config.Session == nil {
		return errors.New(`expected "limit" or "session"`)
	}
	if err := configureLimit(); err != nil {
		return err
	}

	return configureSession()
}

func configureLimit() (err error) {
	l := config.Limit
	if l == nil {
		return nil
	}
	if l.Requests < 1 || l.Requests > 1<<40 {
		return fmt.Errorf("requests %d: expected at least 1", l.Requests)
	}
	if l.window, err = duration("window", l.Window, 0); err != nil {
		return err
	}
	if l.Header != "" && !isToken(l.Header) {
		return fmt.Errorf("header %q: expected the name of a header", l.Header)
	}
	if l.Prefix == "" {
		l.Prefix = "limit:"
	}
	if l.pass = l.OnFailure == "pass" || l.OnFailure == ""; !l.pass && l.OnFailure != "refuse" {
		return fmt.Errorf(`on_failure %q: expected "pass" or "refuse"`, l.OnFailure)
	}

	return nil
}

func configureSession() error {
	s := config.Session
	if s == nil {
		return nil
	}
	if !isToken(s.Cookie) {
		return fmt.Errorf("cookie %q: expected the name of a cookie", s.Cookie)
	}
	if s.Prefix == "" {
		s.Prefix = "session:"
	}
	if len(s.Headers) == 0 {
		return errors.New(`expected "headers" in "session"`)
	}
	s.reserved = map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(s.Headers)) {
		if !isToken(name) || s.Headers[name] == "" {
			return fmt.Errorf("headers %q: expected the name of a header, and of a field", name)
		}
		s.names = append(s.names, name)
		s.fields = append(s.fields, s.Headers[name])
		s.reserved[folded(name)] = true
	}

	return nil
}

// duration reads a time of at least a millisecond.
func duration(setting, text string, standard time.Duration) (time.Duration, error) {
	if text == "" && standard > 0 {
		return standard, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < time.Millisecond {
		return 0, fmt.Errorf(`%s %q: expected a time such as "1m"`, setting, text)
	}

	return d, nil
}

func isToken(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(c rune) bool {
		return c <= ' ' || c >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, c)
	})
}
