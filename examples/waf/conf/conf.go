// Package conf is the configuration of the firewall: JSON in, Coraza out. It
// knows no host, so that tests can compare the guest with Coraza itself.
package conf

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/corazawaf/coraza-coreruleset/v4"
	"github.com/corazawaf/coraza/v3"
	"github.com/corazawaf/coraza/v3/types"
)

// Config is the configuration of the guest, in JSON. What is left out has its
// default.
type Config struct {
	// ParanoiaLevel of the Core Rule Set, 1 to 4: higher ones have more rules,
	// and more false alarms.
	ParanoiaLevel int `json:"paranoia_level"`
	// Inbound and Outbound are the anomaly scores from which on a request or a
	// response is refused.
	Inbound  int `json:"inbound"`
	Outbound int `json:"outbound"`
	// DetectionOnly logs what would be refused, and lets it pass.
	DetectionOnly bool `json:"detection_only"`
	// ResponseInspection has the rules look at responses of text, HTML, XML and
	// JSON, which are held for it.
	ResponseInspection bool `json:"response_inspection"`
	// RequestBodyLimit is how much of a request body there may be, in bytes, and
	// RequestBodyNoFilesLimit how much of it that is no uploaded file. Requests
	// with more are refused with 413.
	RequestBodyLimit        int `json:"request_body_limit"`
	RequestBodyNoFilesLimit int `json:"request_body_no_files_limit"`
	// ResponseBodyLimit is how much of a response body is looked at, in bytes.
	ResponseBodyLimit int `json:"response_body_limit"`
	// CoreRuleSet is whether the rules that are built in are used.
	CoreRuleSet bool `json:"core_rule_set"`
	// Before and After are directives of Coraza (SecRule and so on) that come
	// before and after the Core Rule Set: exclusions, and rules of one's own.
	Before []string `json:"before"`
	After  []string `json:"after"`
}

// Defaults are those of the Core Rule Set, and of Coraza's recommended
// configuration; responses are not inspected.
func Defaults() Config {
	return Config{
		ParanoiaLevel: 1, Inbound: 5, Outbound: 4,
		RequestBodyLimit: 13107200, RequestBodyNoFilesLimit: 131072, ResponseBodyLimit: 524288,
		CoreRuleSet: true,
	}
}

// Parse reads a configuration. A name that is not known is an error, and
// so is a value that cannot be meant.
func Parse(text string) (Config, error) {
	config := Defaults()
	if strings.TrimSpace(text) == "" {
		return config, nil
	}
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&config); err != nil {
		return config, fmt.Errorf("waf: the configuration is no JSON as expected: %w", err)
	}
	if _, err := decoder.Token(); err != io.EOF {
		return config, fmt.Errorf("waf: the configuration has something behind its JSON object")
	}
	for name, value := range map[string]int{"inbound": config.Inbound, "outbound": config.Outbound,
		"request_body_limit": config.RequestBodyLimit, "request_body_no_files_limit": config.RequestBodyNoFilesLimit,
		"response_body_limit": config.ResponseBodyLimit} {
		if value < 1 {
			return config, fmt.Errorf("waf: %q is %d, expected 1 or more", name, value)
		}
	}
	if config.ParanoiaLevel < 1 || config.ParanoiaLevel > 4 {
		return config, fmt.Errorf("waf: \"paranoia_level\" is %d, expected 1 to 4", config.ParanoiaLevel)
	}
	if config.RequestBodyNoFilesLimit > config.RequestBodyLimit {
		config.RequestBodyNoFilesLimit = config.RequestBodyLimit
	}

	return config, nil
}

// Inspected are the types of responses whose bodies rules look at.
var Inspected = []string{"text/plain", "text/html", "text/xml", "application/json", "application/xml"}

// directives are the configuration in Coraza's language, in their order. Bodies
// are kept in memory: a guest has no files.
func (c *Config) directives() string {
	var text strings.Builder
	line := func(format string, values ...any) { fmt.Fprintf(&text, format+"\n", values...) }
	line("Include @coraza.conf-recommended")
	line("SecRuleEngine %s", map[bool]string{false: "On", true: "DetectionOnly"}[c.DetectionOnly])
	line("SecRxPreFilter On")
	line("SecAuditEngine Off")
	line("SecRequestBodyAccess On")
	line("SecRequestBodyLimit %d", c.RequestBodyLimit)
	line("SecRequestBodyInMemoryLimit %d", c.RequestBodyLimit)
	line("SecRequestBodyNoFilesLimit %d", c.RequestBodyNoFilesLimit)
	line("SecRequestBodyLimitAction Reject")
	line("SecResponseBodyAccess %s", map[bool]string{false: "Off", true: "On"}[c.ResponseInspection])
	line("SecResponseBodyMimeType %s", strings.Join(Inspected, " "))
	line("SecResponseBodyLimit %d", c.ResponseBodyLimit)
	line("SecResponseBodyLimitAction ProcessPartial")
	if c.CoreRuleSet {
		line("Include @crs-setup.conf.example")
		line(`SecAction "id:1,phase:1,nolog,pass,t:none,setvar:tx.blocking_paranoia_level=%d,setvar:tx.detection_paranoia_level=%[1]d,setvar:tx.inbound_anomaly_score_threshold=%d,setvar:tx.outbound_anomaly_score_threshold=%d"`,
			c.ParanoiaLevel, c.Inbound, c.Outbound)
	}
	for _, directive := range c.Before {
		line("%s", directive)
	}
	if c.CoreRuleSet {
		line("Include @owasp_crs/*.conf")
	}
	for _, directive := range c.After {
		line("%s", directive)
	}

	return text.String()
}

// NewWAF reads the rules. What matches is told to log.
func (c *Config) NewWAF(log func(types.MatchedRule)) (coraza.WAF, error) {
	return coraza.NewWAF(coraza.NewWAFConfig().WithRootFS(coreruleset.FS).WithErrorCallback(log).
		WithDirectives(c.directives()))
}
