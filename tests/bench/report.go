package main

import (
	"fmt"
	"io"
	"math"
	"text/tabwriter"
)

// Report is a run, as it is printed and kept for the page.
type Report struct {
	Machine []string
	When    string
	Quick   bool
	Jobs    []JobResult
	Curves  []Curve
	Reload  *Reload
	Targets []Target
}

// JobResult is one table.
type JobResult struct {
	Key, Title string
	Rows       []Row
}

// Row is one peer; ratios are of samples of the same round.
type Row struct {
	Peer string
	// RPS is the rate, Rate its ratio to nginx without the job.
	RPS, Rate Stat
	// CPU and Added are microseconds per request, in all and beyond nginx without the job.
	CPU, Added Stat
	// Instructions in user space beyond nginx without the job, 0 if they are not counted.
	Instructions float64
	Does         string
}

func (r *JobResult) row(peer string) *Row {
	for i := range r.Rows {
		if r.Rows[i].Peer == peer {
			return &r.Rows[i]
		}
	}

	return nil
}

// over is the ratio of what two peers add: of instructions where they are counted, which noise does not touch; nothing
// when the other adds nothing that can be measured.
func (r *JobResult) over(row *Row, peer string) string {
	other := r.row(peer)
	if other == nil || row == other || row.Peer == bare {
		return ""
	}
	if row.Instructions > 0 && other.Instructions > 0 {
		return fmt.Sprintf("%.2f", row.Instructions/other.Instructions)
	}
	if row.Instructions != 0 || other.Instructions != 0 || other.Added.Low <= 0 {
		return "–"
	}

	return fmt.Sprintf("%.2f", row.Added.Median/other.Added.Median)
}

func (r *Report) job(key string) *JobResult {
	for i := range r.Jobs {
		if r.Jobs[i].Key == key {
			return &r.Jobs[i]
		}
	}

	return nil
}

var columns = []string{"", "req/s ÷ nginx", "CPU µs/req", "added µs/req", "÷ native", "÷ Lua", "÷ njs", "instructions added", ""}

func (r *JobResult) cells(row *Row) []string {
	instructions := "–"
	if row.Instructions != 0 {
		instructions = fmt.Sprintf("%.0f", row.Instructions)
	}
	added := spread(row.Added, 2)
	if row.Peer == bare {
		added, instructions = "", ""
	}

	return []string{row.Peer, spread(row.Rate, 3), fmt.Sprintf("%.2f", row.CPU.Median), added, r.over(row, native),
		r.over(row, lua), r.over(row, njs), instructions, row.Does}
}

func spread(s Stat, digits int) string {
	if s.Low == s.High {
		return fmt.Sprintf("%.*f", digits, s.Median)
	}

	return fmt.Sprintf("%.*f (%.*f–%.*f)", digits, s.Median, digits, s.Low, digits, s.High)
}

func printJob(w io.Writer, r *JobResult) {
	fmt.Fprintf(w, "%s\n", r.Title)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	printRow(t, columns)
	for i := range r.Rows {
		printRow(t, r.cells(&r.Rows[i]))
	}
	t.Flush()
	fmt.Fprintln(w)
}

func printRow(w io.Writer, cells []string) {
	for _, cell := range cells {
		fmt.Fprintf(w, "%s\t", cell)
	}
	fmt.Fprintln(w)
}

// Curve is how a cost grows.
type Curve struct {
	Key, Title, X, Y string
	Log              bool
	Lines            []Line
	Note             string
}

// Line is one peer on a curve.
type Line struct {
	Peer string
	X, Y []float64
}

// last is the value of a peer at the end of the curve.
func (c *Curve) last(peer string) (float64, bool) {
	for _, line := range c.Lines {
		if line.Peer == peer && len(line.Y) > 0 {
			return line.Y[len(line.Y)-1], true
		}
	}

	return 0, false
}

func printCurve(w io.Writer, c *Curve) {
	fmt.Fprintf(w, "%s: %s\n", c.Title, c.Y)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	var xs []float64
	for _, line := range c.Lines {
		if len(line.X) > len(xs) {
			xs = line.X
		}
	}
	head := []string{c.X}
	for _, x := range xs {
		head = append(head, number(x))
	}
	printRow(t, head)
	for _, line := range c.Lines {
		row := []string{line.Peer}
		for _, y := range line.Y {
			row = append(row, number(y))
		}
		printRow(t, row)
	}
	t.Flush()
	fmt.Fprintf(w, "%s\n\n", c.Note)
}

func number(v float64) string {
	switch a := math.Abs(v); {
	case v == math.Trunc(v) || a >= 1000:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

// Target is what a run is held against. No test asserts it: a run says whether it was met.
type Target struct {
	What string
	// Have is compared with Limit: at most, or at least.
	Have, Limit float64
	AtLeast     bool
	Measured    bool
}

func (t Target) verdict() string {
	switch {
	case !t.Measured:
		return "not measured"
	case t.AtLeast && t.Have >= t.Limit, !t.AtLeast && t.Have <= t.Limit:
		return "met"
	default:
		return "missed"
	}
}

func (t Target) limit() string {
	if t.AtLeast {
		return "≥ " + number(t.Limit)
	}

	return "≤ " + number(t.Limit)
}

func (t Target) cells() []string {
	have := "–"
	if t.Measured {
		have = number(t.Have)
	}

	return []string{t.What, have, t.limit(), t.verdict()}
}

func printTargets(w io.Writer, targets []Target) {
	fmt.Fprintln(w, "targets")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, target := range targets {
		printRow(t, target.cells())
	}
	t.Flush()
}

// targets are those of the project, from the figures of one run.
func targets(r *Report) []Target {
	var list []Target
	atMost := func(what string, limit float64, have float64, ok bool) {
		list = append(list, Target{What: what, Have: have, Limit: limit, Measured: ok})
	}
	atLeast := func(what string, limit float64, have float64, ok bool) {
		list = append(list, Target{What: what, Have: have, Limit: limit, AtLeast: true, Measured: ok})
	}
	ratio := func(key, peer, other string, of func(*Row) float64) (float64, bool) {
		job := r.job(key)
		if job == nil {
			return 0, false
		}
		a, b := job.row(peer), job.row(other)
		if a == nil || b == nil || of(b) <= 0 {
			return 0, false
		}
		return of(a) / of(b), true
	}
	value := func(key, peer string, of func(*Row) float64) (float64, bool) {
		if job := r.job(key); job != nil {
			if row := job.row(peer); row != nil {
				return of(row), true
			}
		}
		return 0, false
	}
	added := func(row *Row) float64 { return row.Added.Median }
	instructions := func(row *Row) float64 { return row.Instructions }
	rate := func(row *Row) float64 { return row.Rate.Median }

	v, ok := value("empty", oursWAT, instructions)
	atMost("a guest without host functions, instructions added", 1500, v, ok)
	v, ok = value("headers", oursWAT, instructions)
	atMost("(a) instructions added", 3900, v, ok)
	v, ok = value("headers", oursFresh, instructions)
	atMost("(a) with an instance for each request, instructions added", 5000, v, ok)
	for _, t := range []struct {
		what, peer string
		limit      float64
	}{{"native module", native, 2.3}, {"Lua", lua, 0.6}, {"njs", njs, 0.25}} {
		v, ok = ratio("headers", oursWAT, t.peer, instructions)
		atMost("(a) instructions added, ÷ "+t.what, t.limit, v, ok)
	}
	v, ok = ratio("headers", oursRust, oursWAT, instructions)
	atMost("(a) in Rust, instructions added, ÷ WAT", 1.5, v, ok)
	v, ok = value("headers", oursGo, added)
	atMost("(a) in Go, µs added", 6, v, ok)
	v, ok = ratio("proxied", oursWAT, bare, func(row *Row) float64 { return row.CPU.Median })
	atMost("(a) in front of a backend, CPU ÷ nginx", 1.15, v, ok)
	v, ok = value("headers", oursWAT, rate)
	atLeast("(a) req/s ÷ nginx", 0.94, v, ok)
	v, ok = ratio("headers", oursWAT, reference, rate)
	atLeast("(a) req/s ÷ reference host", 4, v, ok)
	v, ok = ratio("redact-1m", oursWAT, "sub_filter", rate)
	atLeast("(d) 1 MB, req/s ÷ sub_filter", 0.8, v, ok)
	v, ok = value("body-4k", oursWAT, rate)
	atLeast("(e) 4 KB, req/s ÷ proxying", 0.9, v, ok)
	v, ok = value("body-1m", oursWAT, rate)
	atLeast("(e) 1 MB, req/s ÷ proxying", 0.9, v, ok)
	if job := r.job("off"); job != nil && job.row("ours, off") != nil {
		off, again := job.row("ours, off"), job.row("nginx, again")
		noise := math.Max(math.Abs(again.Added.Low), math.Abs(again.Added.High))
		atMost("(f) CPU added, µs, against nginx compared with itself", noise, math.Abs(off.Added.Median), true)
	}
	for _, curve := range r.Curves {
		if curve.Key != "in-flight" {
			continue
		}
		base, ok1 := curve.last(bare)
		have, ok2 := curve.last(oursWAT)
		atMost("kB per request that nginx does not need, most in flight", 8, have-base, ok1 && ok2)
	}

	return list
}
