package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// runCurves measures how costs grow.
func runCurves(s *Settings, report *Report) error {
	curves := []struct {
		key     string
		measure func(*Settings) ([]Curve, error)
	}{
		{"curve-headers", headersCurve},
		{"curve-redact", redactCurve},
		{"curve-forward", forwardCurve},
		{"curve-chain", chainCurve},
		{"curve-locations", locationsCurves},
		{"in-flight", inFlightCurve},
	}
	for _, c := range curves {
		if !s.wanted(c.key) {
			continue
		}
		measured, err := c.measure(s)
		if err != nil {
			return fmt.Errorf("%s: %w", c.key, err)
		}
		for i := range measured {
			report.Curves = append(report.Curves, measured[i])
			printCurve(os.Stdout, &measured[i])
		}
	}

	return nil
}

// rounds of a point on a curve.
func (s *Settings) curveRounds() int { return (s.Rounds + 1) / 2 }

// peersOf picks peers of a job and makes cells of them.
func peersOf(key string, names ...string) []*Cell {
	var cells []*Cell
	for _, job := range jobs() {
		for i := range job.Peers {
			for _, name := range names {
				if job.Key == key && job.Peers[i].Name == name {
					cells = append(cells, &Cell{Job: job, Peer: &job.Peers[i]})
				}
			}
		}
	}

	return cells
}

// grow measures CPU per request of cells at every point of x.
func grow(s *Settings, cells []*Cell, xs []float64, load func(c *Cell, x float64) Load) (lines []Line, err error) {
	b := &bed{s: s}
	defer func() { err = errors.Join(err, b.stop()) }()
	if err := b.backends(); err != nil {
		return nil, err
	}
	if err := b.start(cells); err != nil {
		return nil, err
	}
	if err := agree(cells); err != nil {
		return nil, err
	}
	lines = make([]Line, len(cells))
	for i, c := range cells {
		lines[i].Peer = c.Peer.Name
	}
	for _, x := range xs {
		samples := make([][]Sample, len(cells))
		for round := range s.curveRounds() {
			for i := range cells {
				at := (i + round) % len(cells)
				sample, err := measure(s, cells[at].server, cells[at].Timed, load(cells[at], x))
				if err != nil {
					return nil, fmt.Errorf("%s at %s: %w", cells[at], number(x), err)
				}
				samples[at] = append(samples[at], sample)
			}
		}
		for i := range cells {
			lines[i].X = append(lines[i].X, x)
			cpu := each(samples[i], samples[i], func(a, _ Sample) float64 { return a.CPU })
			lines[i].Y = append(lines[i].Y, cpu.Median)
		}
	}

	return lines, nil
}

func headersCurve(s *Settings) ([]Curve, error) {
	lines, err := grow(s, peersOf("headers", bare, native, oursWAT, lua), []float64{1, 10, 50, 100, 200},
		func(c *Cell, x float64) Load {
			l := c.Job.load(s.Seconds)
			for i := range int(x) {
				l.Headers = append(l.Headers, fmt.Sprintf("X-More-%d: value of %[1]d", i))
			}
			return l
		})

	return []Curve{{Key: "headers", Title: "Headers in a request, job (a)", X: "headers beside those that the job reads",
		Y: "CPU, µs per request", Lines: lines}}, err
}

func redactCurve(s *Settings) ([]Curve, error) {
	lines, err := grow(s, peersOf("redact-4k", bare, "sub_filter", oursWAT, lua), s.sizes(),
		func(c *Cell, x float64) Load {
			l := c.Job.load(s.Seconds)
			l.Path, l.Conns = fmt.Sprintf("/%d.txt", int(x)), conns(x)
			return l
		})

	return []Curve{{Key: "redact", Title: "Size of a response that is redacted", X: "bytes", Y: "CPU, µs per request", Log: true,
		Lines: lines}}, err
}

func forwardCurve(s *Settings) ([]Curve, error) {
	lines, err := grow(s, peersOf("body-4k", bare, native, oursWAT), s.sizes(),
		func(c *Cell, x float64) Load {
			l := c.Job.load(s.Seconds)
			l.Body, l.Conns = int(x), conns(x)
			return l
		})

	return []Curve{{Key: "forward", Title: "Size of a request body that is read and forwarded", X: "bytes",
		Y: "CPU, µs per request", Log: true, Lines: lines}}, err
}

func (s *Settings) sizes() []float64 {
	var xs []float64
	for _, size := range s.BodyBytes {
		xs = append(xs, float64(size))
	}

	return xs
}

// conns are fewer for large bodies: a few are enough to keep the worker busy, and all of them are in memory.
func conns(bytes float64) int {
	switch {
	case bytes > 4<<20:
		return 2
	case bytes > 64<<10:
		return 8
	default:
		return 32
	}
}

func chainCurve(s *Settings) ([]Curve, error) {
	lengths := []float64{0, 1, 2, 4, 8}
	job := *peersOf("headers", oursWAT)[0].Job
	one := guestPeers("headers")[0]
	line := Line{Peer: oursWAT}
	var cells []*Cell
	for _, n := range lengths {
		peer := one
		peer.Conf = strings.Repeat(one.Conf+" ", int(n))
		peer.Name = fmt.Sprintf("%d guests", int(n))
		peer.Unchanged = n == 0
		cells = append(cells, &Cell{Job: &job, Peer: &peer})
	}
	lines, err := grow(s, cells, []float64{0}, func(c *Cell, _ float64) Load { return c.Job.load(s.Seconds) })
	for i, n := range lengths {
		if err == nil {
			line.X, line.Y = append(line.X, n), append(line.Y, lines[i].Y[0])
		}
	}

	return []Curve{{Key: "chain", Title: "Guests in a chain, each doing job (a)", X: "guests", Y: "CPU, µs per request",
		Lines: []Line{line}}}, err
}

// locationsCurves are servers with more and more locations, each with a guest of its own, all of them in use.
func locationsCurves(s *Settings) ([]Curve, error) {
	start, cpu, memory := Line{Peer: oursWAT}, Line{Peer: oursWAT}, Line{Peer: oursWAT}
	text, err := os.ReadFile(s.guest("headers.wat"))
	if err != nil {
		return nil, err
	}
	guests := filepath.Join(s.Dir, "distinct")
	if err := os.MkdirAll(guests, 0o755); err != nil {
		return nil, err
	}
	for _, n := range s.Locations {
		port, err := freePort()
		if err != nil {
			return nil, err
		}
		block := fmt.Sprintf("server { listen 127.0.0.1:%d; location = /ready { %s }\n", port, gif)
		for i := range n {
			// Another constant makes it another guest.
			other := strings.TrimRight(string(text), " \n")
			other = strings.TrimSuffix(other, ")") + fmt.Sprintf("\n  (data (i32.const 60000) \"%d\"))\n", i)
			file := filepath.Join(guests, fmt.Sprintf("%d.wat", i))
			if err := os.WriteFile(file, []byte(other), 0o644); err != nil {
				return nil, err
			}
			block += fmt.Sprintf("location /%d { http_wasm %s; %s }\n", i, file, gif)
		}
		conf := nginxConf(s, ours, upstreams{}, block+"}\n")
		server, err := startNginx(s, "locations", s.WorkerCPU, conf, port)
		if err != nil {
			return nil, err
		}
		took, err := testConfiguration(s, "locations")
		if err != nil {
			server.stop()
			return nil, err
		}
		sample, err := measure(s, server, port, Load{Path: "/", Method: "GET", Conns: 32, Seconds: s.Seconds, Paths: n})
		if err == nil {
			var m Memory
			m, err = server.memory()
			x := float64(n)
			start.X, start.Y = append(start.X, x), append(start.Y, took)
			cpu.X, cpu.Y = append(cpu.X, x), append(cpu.Y, sample.CPU)
			memory.X, memory.Y = append(memory.X, x), append(memory.Y, float64(m.total()))
		}
		server.stop()
		if err != nil {
			return nil, err
		}
	}
	const title = "Locations with a guest of their own"

	return []Curve{
		{Key: "locations-start", Title: title, X: "locations", Y: "nginx -t, ms", Lines: []Line{start}},
		{Key: "locations-cpu", Title: title, X: "locations", Y: "CPU, µs per request", Lines: []Line{cpu}},
		{Key: "locations-memory", Title: title, X: "locations", Y: "memory of the worker, kB", Lines: []Line{memory}},
	}, nil
}

// testConfiguration is how long "nginx -t" takes, in milliseconds.
func testConfiguration(s *Settings, server string) (float64, error) {
	var times []float64
	for range 3 {
		took, _, err := testOnce(s, filepath.Join(s.Dir, server))
		if err != nil {
			return 0, err
		}
		times = append(times, took)
	}

	return stat(times).Median, nil
}
