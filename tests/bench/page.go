package main

import (
	"fmt"
	"image/color"
	"os"
	"path/filepath"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
)

// writePages writes what was asked for of benchmarks.md; the rest of it stays.
func writePages(s *Settings, dir, results, waf string) error {
	if s.Only != wafKey {
		if err := writePage(dir, results); err != nil {
			return err
		}
	}
	if !s.wantsWaf() {
		return nil
	}
	var found Waf
	if err := read(waf, &found); err != nil {
		return err
	}

	return writeWaf(dir, &found)
}

// writePage writes benchmarks.md and its charts from a run that was kept.
func writePage(dir, results string) error {
	var r Report
	if err := read(results, &r); err != nil {
		return err
	}
	before, err := os.ReadFile(filepath.Join(dir, "benchmarks.md"))
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	charts := filepath.Join(dir, "benchmarks")
	if err := os.MkdirAll(charts, 0o755); err != nil {
		return err
	}

	var page strings.Builder
	page.WriteString("# Benchmarks\n\n<!-- Written by `make bench-page`; changes get lost. -->\n\n")
	fmt.Fprintf(&page, "The module compared with nginx itself, a native module, Lua, njs and the reference host, all in one run of\n\n```sh\nmake bench\n```\n\non %s:\n\n", r.When)
	for _, line := range r.Machine {
		fmt.Fprintf(&page, "- %s\n", line)
	}
	page.WriteString(method)
	if r.Quick {
		page.WriteString("\n**This was a smoke run (`QUICK=1`): its figures mean nothing.**\n")
	}

	page.WriteString("\n## Targets\n\n| | measured | target | |\n|---|---|---|---|\n")
	for _, t := range r.Targets {
		tableRow(&page, t.cells())
	}

	page.WriteString("\n## Jobs\n")
	if job := r.job("headers"); job != nil {
		if err := addedChart(job, filepath.Join(charts, "added.svg")); err != nil {
			return err
		}
		page.WriteString("\n![CPU added to a request by job (a)](benchmarks/added.svg)\n")
	}
	for i := range r.Jobs {
		fmt.Fprintf(&page, "\n### %s\n\n", r.Jobs[i].Title)
		tableRow(&page, columns)
		page.WriteString(strings.Repeat("|---", len(columns)) + "|\n")
		for j := range r.Jobs[i].Rows {
			tableRow(&page, r.Jobs[i].cells(&r.Jobs[i].Rows[j]))
		}
	}

	page.WriteString("\n## Growth of cost\n")
	for i := range r.Curves {
		c := &r.Curves[i]
		if err := curveChart(c, filepath.Join(charts, c.Key+".svg")); err != nil {
			return err
		}
		fmt.Fprintf(&page, "\n### %s: %s\n\n![%[1]s](benchmarks/%[3]s.svg)\n\n", c.Title, c.Y, c.Key)
		tableRow(&page, append([]string{c.X}, numbers(longest(c))...))
		page.WriteString(strings.Repeat("|---", len(longest(c))+1) + "|\n")
		for _, line := range c.Lines {
			tableRow(&page, append([]string{line.Peer}, numbers(line.Y)...))
		}
		if c.Note != "" {
			fmt.Fprintf(&page, "\n%s\n", c.Note)
		}
	}

	if r.Reload != nil {
		fmt.Fprintf(&page, "\n## Reload\n\n%s. %s\n", r.Reload.title(), reloadMethod)
		tableRow(&page, reloadColumns)
		page.WriteString(strings.Repeat("|---", len(reloadColumns)) + "|\n")
		for i := range r.Reload.Rows {
			tableRow(&page, r.Reload.Rows[i].cells())
		}
		page.WriteString("\n")
		for _, note := range r.Reload.notes() {
			fmt.Fprintf(&page, "- %s\n", note)
		}
	}

	page.WriteString(wafOf(string(before)))

	return os.WriteFile(filepath.Join(dir, "benchmarks.md"), []byte(page.String()), 0o644)
}

const method = `
Every peer has an nginx of its own that loads only what it needs, with one worker on one core. wrk runs on another core.
Peers are measured in rounds, one after the other, and each round begins with another peer. Ratios are taken within a
round. Tables show the median of all 5 rounds and, in parentheses, the quartiles.

CPU is the time that all threads of the worker were on the core (` + "`/proc/PID/schedstat`" + `), divided by the requests that were
answered. Added CPU is what a peer takes more than nginx without the job in the same round.

Instructions are those in user space that a peer takes more than nginx. callgrind counts them, of the whole process, in
1,000 requests on one connection, or in 20 of 1 MB. They do not depend on what else the machine does, so two runs agree to
one per cent. Where they are counted, the ratios to native, Lua and njs are ratios of instructions. What the kernel does is
not in them: CPU has it.

Before anything is timed, the answer of every peer is compared with the expected one, and so is what reaches a backend.
Guests in WAT, Rust and Go, the native module and the scripts are in [tests/bench](../tests/bench).
`

const reloadMethod = `Time is from SIGHUP to the first answer of a new
worker, which has been through the guest where there is one. The ways to reload follow each other in every round. nginx
itself has its new workers beside the old ones for 100 ms. A cache is warm when "nginx -t" has run before, as it should
before every reload. Logs say how many guests were compiled. The run fails when this is not the expected number, or when
another guest serves than the one in the file (its digest in ` + "`http_wasm_status`" + `).
`

func tableRow(page *strings.Builder, cells []string) {
	page.WriteString("| " + strings.Join(cells, " | ") + " |\n")
}

func numbers(values []float64) []string {
	var texts []string
	for _, v := range values {
		texts = append(texts, number(v))
	}

	return texts
}

func longest(c *Curve) []float64 {
	var xs []float64
	for _, line := range c.Lines {
		if len(line.X) > len(xs) {
			xs = line.X
		}
	}

	return xs
}

// addedChart is a bar for every peer of a job.
func addedChart(job *JobResult, file string) error {
	p := newPlot("CPU added to a request, "+job.Title, "", "µs")
	var names []string
	var values plotter.Values
	for _, row := range job.Rows {
		// The reference host is no nginx: its scale would hide the others.
		if row.Peer != bare && row.Peer != reference {
			names = append(names, row.Peer)
			values = append(values, max(row.Added.Median, 0))
		}
	}
	bars, err := plotter.NewBarChart(values, vg.Points(28))
	if err != nil {
		return err
	}
	bars.Color, bars.LineStyle.Width = plotutil.Color(2), 0
	p.Add(bars)
	p.NominalX(names...)

	return p.Save(9*vg.Inch, 4*vg.Inch, file)
}

func curveChart(c *Curve, file string) error {
	p := newPlot(c.Title, c.X, c.Y)
	if c.Log {
		p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
		p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	} else {
		p.Y.Min = 0
	}
	for i, line := range c.Lines {
		points := make(plotter.XYs, 0, len(line.X))
		for j := range line.X {
			// What is lost in noise has no place on a scale of logarithms.
			if !c.Log || line.Y[j] > 0 {
				points = append(points, plotter.XY{X: line.X[j], Y: line.Y[j]})
			}
		}
		drawn, dots, err := plotter.NewLinePoints(points)
		if err != nil {
			return err
		}
		drawn.Color, dots.Color, dots.Shape = plotutil.Color(i), plotutil.Color(i), plotutil.Shape(i)
		p.Add(drawn, dots)
		p.Legend.Add(line.Peer, drawn, dots)
	}
	p.Legend.Top, p.Legend.Left = true, true

	return p.Save(8*vg.Inch, 4*vg.Inch, file)
}

func newPlot(title, x, y string) *plot.Plot {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	// Readable on a page that is dark, too.
	p.BackgroundColor = color.White
	p.Add(plotter.NewGrid())

	return p
}
