// Package matrix asks for responses from everywhere, in all ways there are to ask, through guests of all sorts, and compares
// what comes with what the same nginx answers where there is no guest.
package matrix

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"ngx-http-wasm-handler/hostile/process"
	"ngx-http-wasm-handler/matrix/cell"
	"ngx-http-wasm-handler/matrix/site"
	"ngx-http-wasm-handler/matrix/wire"
	"ngx-http-wasm-handler/tck/harness/nginxtest"
)

var (
	sample   = flag.Int("sample", 0, "so many cells only, chosen by the seed")
	seed     = flag.Uint64("seed", 1, "of the sample and the order")
	pattern  = flag.String("cells", "", "cells only whose name this regular expression finds")
	parallel = flag.Int("parallel", 16, "cells at a time")
	details  = flag.Int("details", 20, "failures shown whole")
	list     = flag.Bool("list", false, "all failed cells, one a line")
	restless = flag.Bool("restless", false, "the module is one whose guests all wait")
	patience = flag.Duration("patience", 15*time.Second, "for one request")
)

// run is what is known while cells are asked.
type run struct {
	asker  *cell.Asker
	server *nginxtest.Server

	mu                         sync.Mutex
	passed, nothing, differing int
	reasons                    map[cell.Reason]int
	failures                   []failure
}

type failure struct {
	cell.Cell
	cell.Outcome
}

func TestMatrix(t *testing.T) {
	only, err := regexp.Compile(*pattern)
	if err != nil {
		t.Fatal(err)
	}
	// Longer than any guest runs: only those wait that are meant to.
	st := site.New(t, "1s", nil)
	st.Config.Workers = 1
	all := cell.All(only, st.H3)
	random := rand.New(rand.NewPCG(*seed, 0))
	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	if *sample > 0 && *sample < len(all) {
		all = all[:*sample]
	}

	s := nginxtest.Start(t, st.Config)
	r := &run{
		server:  s,
		asker:   cell.NewAsker(cell.Environment{Addrs: s.Addrs, Patience: *patience, Site: st}),
		reasons: make(map[cell.Reason]int),
	}
	fmt.Printf("matrix: %d cells of %d servers with guests, %d sources, %d clients; seed %d\n",
		len(all), len(site.Servers), len(site.Sources), len(cell.Clients), *seed)
	if !st.H3 {
		fmt.Println("matrix: this nginx has no HTTP/3")
	}
	for len(process.Workers(s.Master())) == 0 {
		time.Sleep(10 * time.Millisecond)
	}
	begin := time.Now()
	if err := r.asker.Prepare(all); err != nil {
		t.Fatal(err)
	}
	stop := r.watch(t)
	defer stop()
	again := r.all(all, *parallel)
	// A worker that dies takes other cells along: all of them are asked once more, one at a time.
	if len(again) > 0 {
		fmt.Printf("matrix: a worker died; %d cells are asked again, one by one\n", len(again))
	}
	for _, c := range again {
		r.one(c, nil)
	}
	r.report(t, time.Since(begin))
}

// all asks several cells at a time. Returned are those that failed when a worker died.
func (r *run) all(all []cell.Cell, parallel int) (again []cell.Cell) {
	var mu sync.Mutex
	queue := make(chan cell.Cell)
	var wait sync.WaitGroup
	for range parallel {
		wait.Go(func() {
			for c := range queue {
				r.one(c, func() {
					mu.Lock()
					defer mu.Unlock()
					again = append(again, c)
				})
			}
		})
	}
	for _, c := range all {
		queue <- c
	}
	close(queue)
	wait.Wait()

	return again
}

// one asks a cell. If it fails, and the worker is another one than before, then either it is for others to say why, or the
// worker died of it.
func (r *run) one(c cell.Cell, died func()) {
	before := process.Workers(r.server.Master())
	o := r.asker.Ask(c, *restless)
	if len(o.Diffs) > 0 && r.dead(before, o) {
		if died != nil {
			died()
			return
		}
		o.Diffs = append([]string{"the worker died"}, o.Diffs...)
	}

	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case len(o.Diffs) > 0:
		r.failures = append(r.failures, failure{c, o})
	case o.Nothing:
		r.nothing++
	default:
		r.passed++
		if len(o.Used) > 0 {
			r.differing++
		}
		for _, reason := range o.Used {
			r.reasons[reason]++
		}
	}
}

// watch kills a worker that does not answer any more: it would take all that is to come along.
func (r *run) watch(t *testing.T) (stop func()) {
	over := make(chan struct{})
	var wait sync.WaitGroup
	wait.Go(func() {
		for {
			select {
			case <-over:
				return
			case <-time.After(time.Second):
			}
			workers := process.Workers(r.server.Master())
			if err := r.asker.Alive(); errors.Is(err, wire.ErrTimeout) && slices.Equal(workers, process.Workers(r.server.Master())) {
				t.Errorf("a worker answers nobody any more, and is killed")
				for _, pid := range workers {
					_ = syscall.Kill(pid, syscall.SIGKILL)
				}
			}
		}
	})

	return func() { close(over); wait.Wait() }
}

// dead says whether the workers are other ones. That of a connection that broke may be gone without its master having
// noticed yet.
func (r *run) dead(before []int, o cell.Outcome) bool {
	broken := errors.Is(o.Reply.Err, wire.ErrClosed) || errors.Is(o.Reply.Err, wire.ErrTruncated) || o.Reply.Next != nil
	for end := time.Now().Add(100 * time.Millisecond); ; time.Sleep(5 * time.Millisecond) {
		if !slices.Equal(before, process.Workers(r.server.Master())) {
			return true
		}
		if !broken || time.Now().After(end) {
			return false
		}
	}
}

// sort is what failures have in common that say the same.
func (f failure) sort() string {
	text := f.Diffs[0]
	if at := strings.Index(text, ": "); at > 0 {
		text = text[:at]
	}

	return digits.ReplaceAllString(text[:min(len(text), 70)], "N")
}

var digits = regexp.MustCompile(`[0-9]+`)

func (r *run) report(t *testing.T, took time.Duration) {
	fmt.Printf("matrix: %d passed, %d failed, %d with nothing to ask, in %v\n", r.passed, len(r.failures), r.nothing, took.Round(time.Second))
	fmt.Printf("matrix: %d of those that passed differ from nginx without a guest, because\n", r.differing)
	for _, reason := range byCount(r.reasons) {
		fmt.Printf("matrix: %8d  %s\n", r.reasons[reason], reason)
	}
	if len(r.failures) == 0 {
		return
	}

	slices.SortFunc(r.failures, func(a, b failure) int { return strings.Compare(a.Name(), b.Name()) })
	for _, by := range []struct {
		what string
		key  func(failure) string
	}{
		{"guests", func(f failure) string { return f.Server.Name }},
		{"source", func(f failure) string { return f.Source.Name }},
		{"client", func(f failure) string { return f.Client.Name }},
		{"what is wrong", failure.sort},
	} {
		counts := make(map[string]int)
		for _, f := range r.failures {
			counts[by.key(f)]++
		}
		fmt.Printf("matrix: failed by %s:\n", by.what)
		for _, key := range byCount(counts) {
			fmt.Printf("matrix: %8d  %s\n", counts[key], key)
		}
	}
	// Of each sort a few.
	shown, left := make(map[string]int), *details
	for _, f := range r.failures {
		if shown[f.sort()]++; shown[f.sort()] > 3 || left == 0 {
			continue
		}
		left--
		fmt.Printf("matrix: FAILED %s\n", f.Name())
		for _, d := range f.Diffs {
			fmt.Printf("matrix:     %s\n", d)
		}
		fmt.Printf("matrix:     got %v\n", f.Reply.Answer)
		fmt.Printf("matrix:     without a guest %v\n", r.asker.Plain(f.Cell))
	}
	if *list {
		for _, f := range r.failures {
			fmt.Printf("matrix: failed %s: %s\n", f.Name(), strings.Join(f.Diffs, "; "))
		}
	}
	t.Errorf("%d cells failed; the first alone: t/matrix/run.sh -run '^%s$' NGINX MODULE", len(r.failures), regexp.QuoteMeta(r.failures[0].Name()))
}

func byCount[K cmp.Ordered](counts map[K]int) (keys []K) {
	for key := range counts {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b K) int { return cmp.Or(counts[b]-counts[a], cmp.Compare(a, b)) })

	return keys
}
