//go:build wasip1

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

var config struct {
	URL             string   `json:"url"`
	RequestHeaders  []string `json:"request_headers"`
	ResponseHeaders []string `json:"response_headers"`
	Cache           struct {
		Time    string   `json:"time"`
		Entries int      `json:"entries"`
		By      []string `json:"by"`
		time    time.Duration
	} `json:"cache"`
	Timeout   string `json:"timeout"`
	BodyLimit int64  `json:"body_limit"`
	OnFailure string `json:"on_failure"`
	pass      bool
	service   service
}

// reserved are the names of "response_headers", folded.
var reserved = map[string]bool{}

// Names that the question has of its own, and those that say how a message is
// sent.
var (
	ofQuestion = []string{"X-Forwarded-Method", "X-Forwarded-Uri", "X-Forwarded-Host"}
	ofMessage  = []string{
		"Connection", "Content-Length", "Expect", "Host", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
	}
)

func configure(text string) error {
	config.RequestHeaders = []string{"authorization", "cookie"}
	config.Cache.Time, config.Cache.Entries, config.Cache.By = "0s", 1000, []string{"method", "uri", "host"}
	config.Timeout, config.BodyLimit, config.OnFailure = "2s", 65536, "refuse"

	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&config); err != nil {
		return fmt.Errorf(`expected JSON with "url": %w`, err)
	}
	if _, err := decoder.Token(); err != io.EOF {
		return errors.New("expected nothing behind the JSON")
	}
	to, err := url.Parse(config.URL)
	if err != nil || to.Scheme != "http" && to.Scheme != "https" || to.Hostname() == "" || to.Fragment != "" || to.User != nil {
		return fmt.Errorf("url %q: expected http:// or https:// and a host, without a user", config.URL)
	}
	if err := names("request_headers", config.RequestHeaders, append(ofQuestion, ofMessage...)); err != nil {
		return err
	}
	if err := names("response_headers", config.ResponseHeaders, ofMessage); err != nil {
		return err
	}
	for _, name := range config.ResponseHeaders {
		reserved[folded(name)] = true
	}
	if config.Cache.time, err = time.ParseDuration(config.Cache.Time); err != nil || config.Cache.time < 0 {
		return fmt.Errorf(`cache time %q: expected a time such as "10s"`, config.Cache.Time)
	}
	if config.Cache.Entries < 1 || config.Cache.Entries > 100_000 {
		return fmt.Errorf("cache entries %d: expected 1 to 100000", config.Cache.Entries)
	}
	for _, what := range config.Cache.By {
		if !slices.Contains([]string{"method", "uri", "host"}, what) {
			return fmt.Errorf(`cache by %q: expected "method", "uri" or "host"`, what)
		}
	}
	timeout, err := time.ParseDuration(config.Timeout)
	if err != nil || timeout <= 0 {
		return fmt.Errorf(`timeout %q: expected a time such as "2s"`, config.Timeout)
	}
	if config.BodyLimit < 0 || config.BodyLimit > 1<<20 {
		return fmt.Errorf("body_limit %d: expected 0 to 1048576", config.BodyLimit)
	}
	if config.pass = config.OnFailure == "pass"; !config.pass && config.OnFailure != "refuse" {
		return fmt.Errorf(`on_failure %q: expected "refuse" or "pass"`, config.OnFailure)
	}
	config.service = service{url: to, timeout: timeout}

	return nil
}

// names checks names of headers, and writes them as net/http does.
func names(setting string, list, others []string) error {
	for i, name := range list {
		list[i] = http.CanonicalHeaderKey(name)
		if !isToken(name) || slices.Contains(others, list[i]) {
			return fmt.Errorf("%s %q: expected the name of a header that may be copied", setting, name)
		}
	}

	return nil
}

// folded is a name as CGI and its like tell names apart: X_User is X-User there.
func folded(name string) string {
	return strings.ReplaceAll(strings.ToLower(name), "_", "-")
}

func isToken(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(c rune) bool {
		return c <= ' ' || c >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, c)
	})
}
