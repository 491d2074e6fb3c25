package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
)

// Where the firewall's part of the page begins and ends. It is written by a run that was asked for it, and stays as it is
// when another run writes the rest.
const (
	wafBegin = "<!-- waf: written by `make bench ONLY=waf WRITE=1` -->\n"
	wafEnd   = "<!-- /waf -->\n"
)

// wafTable is one table, on the page and in a terminal.
type wafTable struct {
	title string
	head  []string
	rows  [][]string
}

// tables are all there is to say in figures.
func (w *Waf) tables() []wafTable {
	head := []string{""}
	for _, job := range w.Jobs {
		head = append(head, job.Title)
	}
	cpu, ratio := wafTable{"CPU per request, ms", head, nil}, wafTable{"CPU ÷ " + wafNative, head, nil}
	p99 := wafTable{fmt.Sprintf("99 of 100 requests are answered within, ms, %d at a time", w.Conns), head, nil}
	start := wafTable{"Memory, MB, and starts, ms", []string{"", "most memory", "with responses inspected", "share in the end",
		"first answer, nothing compiled", "first answer", "`nginx -t`"}, nil}
	for _, p := range w.Peers {
		cells := [3][]string{{p.Name}, {p.Name}, {p.Name}}
		for _, job := range w.Jobs {
			row := w.row(job.Key, p.Name)
			if row == nil {
				for i := range cells {
					cells[i] = append(cells[i], "–")
				}
				continue
			}
			cells[0] = append(cells[0], fmt.Sprintf("%.2f (%.2f)", row.Least/1e3, row.CPU.Median/1e3))
			cells[1] = append(cells[1], fmt.Sprintf("%.2f", row.Ratio))
			slow := number(row.P99)
			if row.Requests < 100 {
				slow = number(row.Slowest) + " *"
			}
			cells[2] = append(cells[2], slow)
		}
		cpu.rows, ratio.rows, p99.rows = append(cpu.rows, cells[0]), append(ratio.rows, cells[1]), append(p99.rows, cells[2])
		known := func(value float64, text string) string {
			if value == 0 {
				return "–"
			}
			return text
		}
		memory := func(kb int) string { return known(float64(kb), fmt.Sprintf("%.0f", float64(kb)/1024)) }
		start.rows = append(start.rows, []string{p.Name, memory(p.Memory[0].Peak), memory(p.Memory[1].Peak), memory(p.Memory[0].Share),
			known(p.Cold, fmt.Sprintf("%.0f", p.Cold)), known(p.Warm.Median, spread(p.Warm, 0)), known(p.Test.Median, spread(p.Test, 0))})
	}
	targets := wafTable{"Targets of the firewall", []string{"", "measured", "target", ""}, nil}
	for _, t := range w.Targets {
		targets.rows = append(targets.rows, t.cells())
	}

	return []wafTable{targets, cpu, ratio, p99, start}
}

// failures are peers that did not work, with the reason.
func (w *Waf) failures() []string {
	var lines []string
	for _, p := range w.Peers {
		if p.Failed != "" {
			lines = append(lines, fmt.Sprintf("%s: %s", p.Name, strings.Join(strings.Fields(p.Failed), " ")))
		}
	}

	return lines
}

func printWaf(out io.Writer, w *Waf) {
	for _, table := range w.tables() {
		fmt.Fprintf(out, "\n%s\n", table.title)
		t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		printRow(t, table.head)
		for _, row := range table.rows {
			printRow(t, row)
		}
		t.Flush()
	}
	fmt.Fprintln(out, strings.Join(w.failures(), "\n"))
}

// section is the firewall's part of the page.
func (w *Waf) section() string {
	var page strings.Builder
	page.WriteString("\n## Web application firewall\n\n" + wafIntroduction)
	fmt.Fprintf(&page, "on %s:\n\n", w.When)
	for _, line := range w.Machine {
		fmt.Fprintf(&page, "- %s\n", line)
	}
	fmt.Fprintf(&page, wafMethod, w.Conns)
	if w.Quick {
		page.WriteString("\n**This was a smoke run (`QUICK=1`): its figures mean nothing.**\n")
	}
	for _, table := range w.tables() {
		fmt.Fprintf(&page, "\n### %s\n\n", table.title)
		tableRow(&page, table.head)
		page.WriteString(strings.Repeat("|---", len(table.head)) + "|\n")
		for _, row := range table.rows {
			tableRow(&page, row)
		}
	}
	for _, line := range w.failures() {
		fmt.Fprintf(&page, "\nNot measured: %s\n", line)
	}

	return page.String() + "\n"
}

const wafIntroduction = "What the firewall of [examples/waf](../examples/waf), Coraza with the Core Rule Set, costs beside others that run such\n" +
	"rules. All in one run of\n\n```sh\nmake bench ONLY=waf\n```\n\n"

const wafMethod = `
Coraza is the same everywhere, with the same rules and the same configuration, ` + "`examples/waf/waf.json`" + `, where
` + "`response_inspection`" + ` is switched. libmodsecurity has Debian's older edition of the rules, with the same limits. nginx has one
worker and passes requests on to a backend; the servers in Go have one thread for Go code and Go's usual settings, and
answer themselves. One of them works at a time, on one core. The load has another: %d connections, of which each sends the
next request when it has its answer, with the headers of a browser. Every answer is compared with the expected one. Before
that, each firewall has refused an attack of the same kind with 403, and has let the harmless request pass again; nginx
without a firewall has let both pass. libmodsecurity refuses a response by closing the connection, as the header is sent by
then.

The module has its default settings, except that requests may wait longer for an instance (` + "`http_wasm_pool wait=60s`" + `).
The peers take turns in 3 to 8 rounds, and each round begins with another one. CPU is that of the worker or of the server,
with all of its threads: of the round in which it was least, as what else the machine does can only add to it, and in
parentheses the median of all rounds. Ratios are of the least. Where there were less than 100 requests in all rounds, the
slowest is shown instead of the 99th of 100, with an asterisk. Memory is the greatest resident set of the worker or of the
server (` + "`VmHWM`" + `), and in the end its share of what it has in common with others (` + "`Pss`" + `). Starts use all cores and end with the
first answer; they are the median of three and, in parentheses, the range. What was compiled before is in the cache, unless
the table says otherwise.

The reference host ends with a panic where a guest asks for the status of a response that is not held, which this one does.
So it is measured with responses inspected only. It keeps its instances in a ` + "`sync.Pool`" + `, which Go's garbage collector
empties: then requests pay for the start of other instances, and a round in which that happens is many times as slow.
`

// writeWaf puts the firewall's part into the page that there is.
func writeWaf(dir string, w *Waf) error {
	file := filepath.Join(dir, "benchmarks.md")
	page, err := os.ReadFile(file)
	if err != nil {
		return err
	}

	return os.WriteFile(file, []byte(withoutWaf(string(page))+wafBegin+w.section()+wafEnd), 0o644)
}

// wafOf is the firewall's part of a page, with its marks, or nothing.
func wafOf(page string) string {
	_, rest, found := strings.Cut(page, wafBegin)
	part, _, ended := strings.Cut(rest, wafEnd)
	if !found || !ended {
		return ""
	}

	return "\n" + wafBegin + part + wafEnd
}

func withoutWaf(page string) string {
	return strings.TrimRight(strings.Replace(page, wafOf(page), "", 1), "\n") + "\n\n"
}
