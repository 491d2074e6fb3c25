package differential

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"ngx-http-wasm-handler/conformance/client"
	"ngx-http-wasm-handler/conformance/guest"
	"ngx-http-wasm-handler/conformance/host"
)

var (
	seed  = flag.Uint64("seed", uint64(time.Now().UnixNano()), "of the random requests")
	count = flag.Int("count", 300, "how many random requests")
	limit = flag.Duration("time", 5*time.Minute, "after which no request is sent any more")
)

// pair are both hosts with all guests.
type pair struct {
	names        map[string]string
	backends     map[string]*backend
	ours, theirs client.Client
}

func TestDifferential(t *testing.T) {
	nginx := host.NewNginx(t)

	p := pair{names: make(map[string]string), backends: make(map[string]*backend)}
	compiler, err := guest.NewCompiler("../..", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var deployments []*host.Deployment
	names := slices.Sorted(maps.Keys(guests))
	for i, name := range names {
		wasm, err := compiler.Compile(guests[name])
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		b := new(backend)
		d := &host.Deployment{Name: fmt.Sprintf("g%d", i), Wasm: wasm, Backend: b}
		p.names[name], p.backends[name] = d.Authority(), b
		deployments = append(deployments, d)
	}
	p.ours = nginx.Start(t, deployments).Clients()[client.HTTP1]
	p.theirs = host.Reference{}.Start(t, deployments).Clients()[client.HTTP1]

	g := generator{rand.New(rand.NewPCG(*seed, 0))}
	trials := slices.Clone(corners)
	for i := range *count {
		trials = append(trials, g.trial(names[i%len(names)]))
	}

	matched := make(map[string]int)
	sent, different := 0, 0
	deadline := time.Now().Add(*limit)
	for i, trial := range trials {
		if i >= len(corners) && time.Now().After(deadline) {
			break
		}
		sent++
		unexplained := p.try(trial, matched)
		if len(unexplained) == 0 {
			continue
		}
		different++
		if different > 10 {
			continue
		}
		smaller := p.shrink(trial, unexplained[0].about)
		if again := p.try(smaller, nil); len(again) > 0 {
			t.Errorf("seed %d, request %d: the hosts differ, at least for\n    %v\n    %s", *seed, i, smaller,
				strings.Join(lines(again), "\n    "))
		} else {
			t.Errorf("seed %d, request %d: the hosts differed, but not again, for\n    %v\n    %s", *seed, i, trial,
				strings.Join(lines(unexplained), "\n    "))
		}
	}
	if different > 10 {
		t.Errorf("%d more requests with differences", different-10)
	}

	for _, d := range deviations {
		if matched[d.name] == 0 && !d.chance {
			t.Errorf("deviation %q is stale: no request shows it any more", d.name)
		}
	}

	fmt.Printf("differential: seed %d, %d requests, %d with unexplained differences\n", *seed, sent, different)
	for _, d := range deviations {
		fmt.Printf("differential: %5d times %s (%s)\n", matched[d.name], d.name, d.ref)
	}
}

func lines(list []difference) []string {
	var out []string
	for _, d := range list {
		out = append(out, d.String())
	}

	return out
}

// try sends a trial to both hosts and returns the differences that no deviation explains.
func (p pair) try(t trial, matched map[string]int) []difference {
	b := p.backends[t.guest]
	ours := observe(p.ours, p.names[t.guest], b, t)
	theirs := observe(p.theirs, p.names[t.guest], b, t)

	var left []difference
next:
	for _, d := range differences(ours, theirs) {
		for _, known := range deviations {
			if known.matches(t, d) {
				if matched != nil {
					matched[known.name]++
				}
				continue next
			}
		}
		left = append(left, d)
	}

	return left
}

// shrink drops what the difference does not need.
func (p pair) shrink(t trial, about string) trial {
	needs := func(smaller trial) bool {
		return slices.ContainsFunc(p.try(smaller, nil), func(d difference) bool { return d.about == about })
	}
	attempt := func(change func(*trial)) {
		smaller := t
		smaller.send.Header, smaller.answer.header = slices.Clone(t.send.Header), slices.Clone(t.answer.header)
		change(&smaller)
		if needs(smaller) {
			t = smaller
		}
	}

	for i := len(t.send.Header) - 1; i >= 0; i-- {
		attempt(func(s *trial) { s.send.Header = slices.Delete(s.send.Header, i, i+1) })
	}
	for i := len(t.answer.header) - 1; i >= 0; i-- {
		attempt(func(s *trial) { s.answer.header = slices.Delete(s.answer.header, i, i+1) })
	}
	attempt(func(s *trial) { s.send.Chunks = nil })
	attempt(func(s *trial) { s.send.Body, s.send.HasBody, s.send.Chunks = nil, false, nil })
	attempt(func(s *trial) { s.send.Target = "/" })
	attempt(func(s *trial) { s.send.Method = "GET" })
	attempt(func(s *trial) { s.answer.status = 200 })
	attempt(func(s *trial) { s.answer.length = false })
	attempt(func(s *trial) { s.answer.pieces = 0 })
	for range 24 {
		attempt(func(s *trial) { s.answer.size /= 2 })
		attempt(func(s *trial) { s.send.Body = s.send.Body[:len(s.send.Body)/2] })
	}

	return t
}
