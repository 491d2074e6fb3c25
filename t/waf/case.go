// Package waf sends the regression tests of the Core Rule Set through the
// firewall of examples/waf on nginx, and through Coraza in a Go server with the
// same rules, and compares which rules match. It also serves with the firewall:
// large bodies, bursts, reloads, dead workers.
package waf

import (
	"encoding/base64"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	crs "github.com/corazawaf/coraza-coreruleset/v4/tests"
	"github.com/goccy/go-yaml"
)

// Case is one test of the rule set: requests that follow each other.
type Case struct {
	Name   string
	Stages []Stage
}

// Stage is one request, as bytes, and what is expected of it.
type Stage struct {
	Request []byte
	// Expect and Forbid are rules that have to match, and that must not.
	Expect, Forbid []int
	// Status is what is expected where no rule is; 0 if nothing is said.
	Status int
}

type file struct {
	RuleID int `yaml:"rule_id"`
	Tests  []struct {
		TestID int `yaml:"test_id"`
		Stages []struct {
			Input  input
			Output output
		}
	}
}

type input struct {
	Method  string
	URI     string `yaml:"uri"`
	Version *string
	Headers yaml.MapSlice
	Data    *string
	Encoded string `yaml:"encoded_request"`
	// Autocomplete adds the headers that every client sends.
	Autocomplete *bool `yaml:"autocomplete_headers"`
}

type output struct {
	Status int
	Log    struct {
		Expect []int `yaml:"expect_ids"`
		Forbid []int `yaml:"no_expect_ids"`
	}
}

// Cases are all tests that the module of the rule set brings along.
func Cases() ([]Case, error) {
	var cases []Case
	err := fs.WalkDir(crs.FS, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || path.Ext(name) != ".yaml" {
			return err
		}
		text, err := fs.ReadFile(crs.FS, name)
		if err != nil {
			return err
		}
		var f file
		if err := yaml.Unmarshal(text, &f); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		for _, test := range f.Tests {
			c := Case{Name: fmt.Sprintf("%d-%d", f.RuleID, test.TestID)}
			for _, stage := range test.Stages {
				request, err := stage.Input.bytes()
				if err != nil {
					return fmt.Errorf("%s: %s: %w", name, c.Name, err)
				}
				c.Stages = append(c.Stages, Stage{request, stage.Output.Log.Expect, stage.Output.Log.Forbid, stage.Output.Status})
			}
			cases = append(cases, c)
		}

		return nil
	})

	return cases, err
}

// bytes are what a client sends.
func (in *input) bytes() ([]byte, error) {
	if in.Encoded != "" {
		return base64.StdEncoding.DecodeString(in.Encoded)
	}
	method, uri, version := in.Method, in.URI, "HTTP/1.1"
	if method == "" {
		method = "GET"
	}
	if uri == "" {
		uri = "/"
	}
	if in.Version != nil {
		version = *in.Version
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%s %s %s\r\n", method, uri, version)
	var names []string
	for _, header := range in.Headers {
		fmt.Fprintf(&text, "%v: %v\r\n", header.Key, header.Value)
		names = append(names, strings.ToLower(fmt.Sprint(header.Key)))
	}
	if in.Autocomplete == nil || *in.Autocomplete {
		if in.Data != nil && !slices.Contains(names, "content-length") && !slices.Contains(names, "transfer-encoding") {
			if !slices.Contains(names, "content-type") {
				text.WriteString("Content-Type: application/x-www-form-urlencoded\r\n")
			}
			fmt.Fprintf(&text, "Content-Length: %d\r\n", len(*in.Data))
		}
		if !slices.Contains(names, "connection") {
			text.WriteString("Connection: close\r\n")
		}
	}
	text.WriteString("\r\n")
	if in.Data != nil {
		text.WriteString(*in.Data)
	}

	return []byte(text.String()), nil
}

// holds says whether the rules that matched, or the status, are as expected.
func (s *Stage) holds(matched []int, status int) bool {
	if len(s.Expect) == 0 && len(s.Forbid) == 0 {
		return s.Status == 0 || s.Status == status
	}
	for _, id := range s.Expect {
		if !slices.Contains(matched, id) {
			return false
		}
	}
	for _, id := range s.Forbid {
		if slices.Contains(matched, id) {
			return false
		}
	}

	return true
}
