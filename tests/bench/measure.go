package main

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

//go:embed load.lua
var loadScript []byte

// Load is what wrk sends to a port.
type Load struct {
	Path    string
	Method  string
	Body    int
	Conns   int
	Seconds int
	// Paths is a number of paths to send to in turn.
	Paths int
	// Headers come on top of those that jobs read.
	Headers []string
}

// Sample is one measurement.
type Sample struct {
	RPS float64
	// CPU is what the server used per request, in microseconds.
	CPU float64
	// Instructions per request in user space, where the machine counts them.
	Instructions float64
}

// Stat is a median with its spread: the quartiles, and the greatest.
type Stat struct{ Median, Low, High, Max float64 }

func stat(values []float64) Stat {
	if len(values) == 0 {
		return Stat{}
	}
	v := slices.Sorted(slices.Values(values))
	mid := (v[(len(v)-1)/2] + v[len(v)/2]) / 2

	quarter := (len(v) - 1) / 4

	return Stat{mid, v[quarter], v[len(v)-1-quarter], v[len(v)-1]}
}

// each is a statistic over the samples of two cells, which were taken in the same rounds.
func each(a, b []Sample, f func(a, b Sample) float64) Stat {
	values := make([]float64, 0, len(a))
	for i := range min(len(a), len(b)) {
		values = append(values, f(a[i], b[i]))
	}

	return stat(values)
}

// countsInstructions is whether perf can count them here; virtual machines often cannot.
var countsInstructions = func() bool {
	out, err := exec.Command("perf", "stat", "-x,", "-e", "instructions:u", "true").CombinedOutput()
	return err == nil && strings.Contains(string(out), "instructions") && !strings.Contains(string(out), "<not")
}()

// measure loads a port of a server for a while. A machine that is busy with something else may not get to a single
// request in that time: then it is tried again.
func measure(s *Settings, server *Server, port int, l Load) (Sample, error) {
	for {
		sample, err := measureOnce(s, server, port, l)
		if err != errNothingDone || l.Seconds > 10 {
			return sample, err
		}
		l.Seconds *= 3
	}
}

var errNothingDone = errors.New("not one request was answered in time")

func measureOnce(s *Settings, server *Server, port int, l Load) (Sample, error) {
	script := filepath.Join(s.Dir, "load.lua")
	if err := os.WriteFile(script, loadScript, 0o644); err != nil {
		return Sample{}, err
	}
	args := []string{"-t1", "-c", strconv.Itoa(l.Conns), "-d", strconv.Itoa(l.Seconds) + "s", "--timeout", "60s", "-s", script}
	for name, value := range requestHeaders {
		args = append(args, "-H", name+": "+value)
	}
	for _, header := range l.Headers {
		args = append(args, "-H", header)
	}
	args = append(args, "http://127.0.0.1:"+strconv.Itoa(port)+l.Path, "--", l.Method, strconv.Itoa(l.Body), strconv.Itoa(l.Paths))
	name := "wrk"
	if countsInstructions {
		name, args = "perf", append([]string{"stat", "-x,", "-e", "instructions:u", "-p", strconv.Itoa(server.pid), "--", "wrk"}, args...)
	}

	before, err := server.cpuNanos()
	if err != nil {
		return Sample{}, err
	}
	out, err := pinned(s.LoadCPU, name, args...).CombinedOutput()
	if err != nil {
		return Sample{}, fmt.Errorf("wrk: %w\n%s", err, out)
	}
	after, err := server.cpuNanos()
	if err != nil {
		return Sample{}, err
	}

	return readSample(string(out), after-before)
}

func readSample(out string, cpuNanos int64) (Sample, error) {
	var requests, micros, failed int64
	var instructions float64
	for line := range strings.Lines(out) {
		if rest, found := strings.CutPrefix(line, "bench: "); found {
			if _, err := fmt.Sscan(rest, &requests, &micros, &failed); err != nil {
				return Sample{}, fmt.Errorf("wrk said %q: %w", line, err)
			}
		}
		if count, rest, found := strings.Cut(line, ","); found && strings.Contains(rest, "instructions") {
			instructions, _ = strconv.ParseFloat(count, 64)
		}
	}
	if failed != 0 {
		return Sample{}, fmt.Errorf("%d requests done, %d failed\n%s", requests, failed, out)
	}
	if requests == 0 {
		return Sample{}, errNothingDone
	}
	n := float64(requests)

	return Sample{
		RPS:          n / (float64(micros) / 1e6),
		CPU:          float64(cpuNanos) / 1e3 / n,
		Instructions: instructions / n,
	}, nil
}
