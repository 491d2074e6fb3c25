package conformance

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"ngx-http-wasm-handler/conformance/guest"
	"ngx-http-wasm-handler/conformance/host"
)

var (
	write = flag.Bool("write", false, "write the comparison instead of comparing with it")
	only  = flag.String("only", "", "run the cases whose id contains this, on the module only, and show their logs")
)

const recorded = "RESULTS.md"

func init() {
	// Go's HTTP/2 client says there what is wrong with a response; the cases that are about it fail all the same.
	log.SetOutput(io.Discard)
}

// The texts of all cases: their ids tell them apart, and each says what it shows and where that comes from.
func TestCasesAreDescribed(t *testing.T) {
	seen := make(map[string]bool)
	for _, c := range Cases() {
		if seen[c.ID] {
			t.Errorf("two cases are called %q", c.ID)
		}
		seen[c.ID] = true
		if c.Doc == "" || c.Ref == "" || strings.ContainsAny(c.ID+c.Doc+c.Ref+c.Decision, "\n|") {
			t.Errorf("%s: expected a description and a reference, each on one line and without bars", c.ID)
		}
		if (c.Only == nil) != (c.OnlyWhy == "") {
			t.Errorf("%s: some protocols are left out without a reason", c.ID)
		}
	}
}

// The module in an nginx has to pass every case over every protocol that it speaks. What the reference host does is the
// published comparison, which has to be up to date.
func TestConformance(t *testing.T) {
	nginx := host.NewNginx(t)

	var cases []*deployed
	compiler, err := guest.NewCompiler("../..", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range Cases() {
		if !strings.Contains(c.ID, *only) {
			continue
		}
		wasm, err := compiler.Compile(c.Guest)
		if err != nil {
			t.Fatalf("%s: %v", c.ID, err)
		}
		cases = append(cases, &deployed{Case: &c, name: fmt.Sprintf("g%d", i), wasm: wasm})
	}

	module := run(t, nginx, cases, true)
	for _, c := range cases {
		for _, proto := range module.protocols {
			for _, failure := range module.results[proto][c.ID] {
				t.Errorf("%s over %s: %s\n    %s (%s)", c.ID, proto, failure, c.Doc, c.Ref)
			}
		}
	}
	if *only != "" {
		return
	}

	reference := run(t, host.Reference{}, cases, false)
	for _, c := range cases {
		if c.Decision != "" && !reference.failed(c) {
			t.Errorf("%s: the reference host does the same, expected no Decision", c.ID)
		}
	}

	fmt.Print(summary(cases, module), summary(cases, reference))

	comparison := compare(cases, module, reference)
	if *write {
		if err := os.WriteFile(recorded, comparison, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	old, err := os.ReadFile(recorded)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(old, comparison) {
		t.Errorf("t/conformance/%s is out of date: write it anew with run.sh --write\n%s", recorded, difference(old, comparison))
	}
}

// deployed is a case and its guest.
type deployed struct {
	*Case
	name string
	wasm []byte
}

// column is what one host did.
type column struct {
	host      string
	ours      bool
	protocols []string
	others    map[string]string
	// results are failures by protocol and case; a case that passed has an entry without any.
	results map[string]map[string][]string
}

func run(t *testing.T, h host.Host, cases []*deployed, ours bool) *column {
	t.Helper()

	c := &column{host: h.Name(), ours: ours, results: make(map[string]map[string][]string)}
	c.protocols, c.others = h.Protocols()
	for _, proto := range c.protocols {
		c.results[proto] = make(map[string][]string)
	}

	var deployments []*host.Deployment
	backends := make(map[string]*backend)
	for _, d := range cases {
		deployment := &host.Deployment{Name: d.name, Wasm: d.wasm, LogLevel: d.LogLevel, Default: d.Default}
		if d.Config != nil {
			deployment.Config = []byte(*d.Config)
		}
		if d.Refused != "" {
			// What a guest does before any request has nothing to do with a protocol.
			c.results[c.protocols[0]][d.ID] = refusal(h.Refusal(t, deployment), d.Refused, ours)
			continue
		}
		backends[d.ID] = &backend{c: d.Case}
		deployment.Backend = backends[d.ID]
		deployments = append(deployments, deployment)
	}

	running := h.Start(t, deployments)
	clients := running.Clients()
	newRun := func(d *deployed, proto string) *Run {
		return &Run{
			Case: d.Case, Proto: proto, Ours: ours, client: clients[proto], backend: backends[d.ID],
			host: d.name + ".test", log: func() string { return running.Log(d.name) },
		}
	}

	runs := make(map[string]int)
	for i, proto := range c.protocols {
		if i > 0 {
			// A failure that repeats itself within a second is not logged again, and these do.
			time.Sleep(1100 * time.Millisecond)
		}
		for _, d := range cases {
			if d.Refused != "" || !d.appliesTo(proto) {
				continue
			}
			x := newRun(d, proto)
			x.logStart = len(running.Log(d.name))
			if d.Do != nil {
				x.backend.take()
				d.Do(x)
			} else {
				x.Exchange(d.Send, d.Want)
			}
			c.results[proto][d.ID] = x.failures
			runs[d.ID]++
		}
		clients[proto].Close()
	}

	running.Stop()
	for _, d := range cases {
		if *only != "" && d.Refused == "" {
			t.Logf("log of %s:\n%s", d.ID, running.Log(d.name))
		}
	}
	for _, d := range cases {
		if d.Finally == nil {
			continue
		}
		x := newRun(d, c.protocols[0])
		x.runs = runs[d.ID]
		d.Finally(x)
		c.results[c.protocols[0]][d.ID] = append(c.results[c.protocols[0]][d.ID], x.failures...)
	}

	return c
}

func (d *deployed) appliesTo(proto string) bool {
	if d.Only == nil {
		return true
	}
	for _, p := range d.Only {
		if p == proto {
			return true
		}
	}

	return false
}

func refusal(got, want string, ours bool) []string {
	switch {
	case got == "":
		return []string{"the guest was loaded, expected a refusal"}
	case ours && !strings.Contains(got, want):
		return []string{fmt.Sprintf("the guest was refused without naming %q: %s", want, got)}
	default:
		return nil
	}
}

// failed says whether a case failed over any protocol, or might have.
func (c *column) failed(d *deployed) bool {
	if d.Varies != "" && !c.ours {
		return true
	}
	for _, proto := range c.protocols {
		if len(c.results[proto][d.ID]) > 0 {
			return true
		}
	}

	return false
}

// verdict is the cell of a case: pass, or what is different.
func (c *column) verdict(d *deployed) string {
	if d.Varies != "" && d.Decision == "" {
		return "**fails** at times, depending on " + d.Varies
	} else if d.Varies != "" {
		return "differs: " + d.Decision
	}

	var protocols, failures []string
	ran := 0
	for _, proto := range c.protocols {
		list, ok := c.results[proto][d.ID]
		if ok {
			ran++
		}
		if len(list) > 0 {
			protocols, failures = append(protocols, proto), append(failures, list[0])
		}
	}
	if len(failures) == 0 {
		return "pass"
	}
	where := ""
	if len(failures) < ran {
		where = " over " + strings.Join(protocols, ", ")
	}
	if d.Decision != "" {
		return "differs" + where + ": " + d.Decision
	}

	return "**fails**" + where + ": " + strings.NewReplacer("|", "\\|", "\n", " ").Replace(failures[0])
}

func (c *column) counts(cases []*deployed) (passed, failed, differing int) {
	for _, d := range cases {
		switch {
		case !c.failed(d):
			passed++
		case d.Decision != "":
			differing++
		default:
			failed++
		}
	}

	return
}

// summary is what a run prints: one line for each protocol.
func summary(cases []*deployed, c *column) string {
	var b strings.Builder
	for _, proto := range c.protocols {
		passed, failed, others := 0, 0, 0
		for _, d := range cases {
			if d.Refused == "" && !d.appliesTo(proto) {
				others++
			}
		}
		for _, list := range c.results[proto] {
			if len(list) == 0 {
				passed++
			} else {
				failed++
			}
		}
		fmt.Fprintf(&b, "conformance %s %s: %d passed, %d failed, %d do not apply\n",
			c.host, proto, passed, failed, others)
	}
	for proto, why := range c.others {
		fmt.Fprintf(&b, "conformance %s %s: not run, %s\n", c.host, proto, why)
	}

	return b.String()
}

// compare is the published comparison. It is the same for every nginx that passes.
func compare(cases []*deployed, module, reference *column) []byte {
	var b bytes.Buffer
	passed, failed, differing := reference.counts(cases)
	missed := 0
	for _, d := range cases {
		if module.failed(d) {
			missed++
		}
	}

	fmt.Fprintf(&b, `# Conformance

What this module and the reference host do with the %[1]d cases of `+"`t/conformance`"+`, each over HTTP/1.1 and HTTP/2. Written by
`+"`t/conformance/run.sh --write NGINX MODULE`"+`, and compared by every run without `+"`--write`"+`.

| host | passes | fails | differs |
|---|---:|---:|---:|
| this module | %[6]d | %[7]d | 0 |
| %[2]s | %[3]d | %[4]d | %[5]d |

"Fails" is against the ABI, an RFC or what the reference host itself does elsewhere. "Differs" is where nothing says what is
right and the two of us have decided differently; our reason is given. The reference host runs with the backend as its next
handler in the same process, which is how its own test kit runs it; the module runs in nginx, in front of a backend that
it reaches over HTTP.

The column "source" names where a rule comes from: ABI and a function for the
[specification](https://http-wasm.io/http-handler-abi/), an RFC and its section, "reference host" for what the specification leaves
open and that host defines.

`, len(cases), reference.host, passed, failed, differing, len(cases)-missed, missed)

	last := ""
	for _, d := range grouped(cases) {
		if g := d.group(); g != last {
			last = g
			fmt.Fprintf(&b, "\n## %s\n\n| case | rule | source | this module | reference host |\n|---|---|---|---|---|\n", g)
		}
		ours := "pass"
		if module.failed(d) {
			ours = "**fails**"
		}
		if d.Only != nil {
			ours += fmt.Sprintf(" (%s only: %s)", strings.Join(d.Only, ", "), d.OnlyWhy)
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", d.ID, d.Doc, d.Ref, ours, reference.verdict(d))
	}

	return b.Bytes()
}

// group is what stands before the slash of an id.
func (d *deployed) group() string {
	g, _, _ := strings.Cut(d.ID, "/")

	return g
}

// grouped are the cases group by group, in the order in which the groups begin.
func grouped(cases []*deployed) []*deployed {
	first := make(map[string]int)
	for i, d := range cases {
		if _, ok := first[d.group()]; !ok {
			first[d.group()] = i
		}
	}
	cases = slices.Clone(cases)
	slices.SortStableFunc(cases, func(a, b *deployed) int { return first[a.group()] - first[b.group()] })

	return cases
}

// difference are the first lines that differ.
func difference(old, now []byte) string {
	var b strings.Builder
	was := make(map[string]bool)
	for line := range strings.Lines(string(old)) {
		was[line] = true
	}
	n := 0
	for line := range strings.Lines(string(now)) {
		if !was[line] && n < 10 {
			n++
			b.WriteString("    now: " + line)
		}
	}

	return b.String()
}
