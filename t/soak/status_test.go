package soak

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"ngx-http-wasm-handler/conformance/guest"
	"ngx-http-wasm-handler/hostile/keepalive"
	"ngx-http-wasm-handler/hostile/process"
	"ngx-http-wasm-handler/tck/harness/nginxtest"
)

var shots = flag.String("shots", "", "directory for pictures of the status page, its JSON and its Prometheus text")

const statusWorkers = 4

// counted is a guest, and what the status has to count for each answer of its location.
type counted struct {
	name string
	// share of all requests, in thousandths.
	share int
	guest guest.Guest
	// built is a guest of target/guests instead.
	built string
	// conf is the rest of the location.
	conf string
	// counts are the figures that grow by one, by the status of the answer.
	counts map[int][]string
	// leaves is a client that does not wait for the answer; its status is 0.
	leaves bool
}

// sleep gives other requests a turn for that many nanoseconds.
func sleep(ns int) string {
	return fmt.Sprintf(`(i32.store (i32.add BUF #16) #1) (i64.store (i32.add BUF #24) (i64.const %d))
		(drop (call $poll_oneoff BUF (i32.add BUF #1024) #1 #0))`, ns)
}

// Every outcome of handle_request, and every cause of failures that is a guest's doing.
var countedGuests = []counted{
	{name: "pass-wat", share: 330, guest: guest.Guest{Response: tellURI}, conf: pass, counts: map[int][]string{200: {"passed"}}},
	{name: "pass-go", share: 120, built: "go-state.wasm", conf: few, counts: map[int][]string{200: {"passed"}}},
	{name: "pass-rust", share: 120, built: "rust-bodies.wasm", conf: pass, counts: map[int][]string{200: {"passed"}}},
	{name: "answer-go", share: 120, built: "go-answer.wasm", counts: map[int][]string{201: {"answered"}}},
	{name: "answer-wat", share: 120, guest: guest.Guest{Request: `(call $set_status_code #418)`, Result: guest.Stop},
		counts: map[int][]string{418: {"answered"}}},
	{name: "trap", share: 40, guest: guest.Guest{Request: "(unreachable)"}, conf: pass, counts: map[int][]string{500: {"trap"}}},
	{name: "trap-late", share: 10, guest: guest.Guest{Features: guest.BufferResponse, Response: "(unreachable)"}, conf: pass,
		counts: map[int][]string{500: {"passed", "trap"}}},
	{name: "memory", share: 10, guest: guest.Guest{Request: "(drop (memory.grow #60000)) (unreachable)"}, conf: pass,
		counts: map[int][]string{500: {"memory"}}},
	{name: "exit", share: 10, guest: guest.Guest{Request: "(call $proc_exit #3)"}, conf: pass, counts: map[int][]string{500: {"exit"}}},
	{name: "rule", share: 10, guest: guest.Guest{Request: `(call $write_body #7 BUF #1)`}, conf: pass,
		counts: map[int][]string{500: {"rule"}}},
	{name: "timeout", share: 10, guest: guest.Guest{Request: "(loop $again (br $again))"}, conf: "http_wasm_timeout 5ms; " + pass,
		counts: map[int][]string{500: {"timeout"}}},
	{name: "waits-in-line", share: 50, guest: guest.Guest{Request: sleep(1e6)}, conf: "http_wasm_pool max=1 wait=30s; " + pass,
		counts: map[int][]string{200: {"passed"}}},
	{name: "busy", share: 30, guest: guest.Guest{Request: sleep(5e6)}, conf: "http_wasm_pool max=1 queue=1 wait=2ms; " + pass,
		counts: map[int][]string{200: {"passed"}, 503: {"busy"}}},
	{name: "resting", share: 15, guest: guest.Guest{Request: "(unreachable)"},
		conf:   "http_wasm_breaker max_fails=3 backoff=20ms max_backoff=100ms; " + pass,
		counts: map[int][]string{500: {"trap"}, 503: {"resting"}}},
	{name: "left-alone", share: 5, guest: guest.Guest{Request: sleep(3600e9)}, conf: pass, leaves: true,
		counts: map[int][]string{0: {"aborted"}}},
}

// tally is what clients have counted of a guest.
type tally struct {
	// figures are those that the status has, too.
	figures map[string]int
	// unsure are requests without a whole answer: the server may have counted them or not.
	unsure int
}

// customers are all clients.
type customers struct {
	began   time.Time
	mu      sync.Mutex
	tallies map[string]*tally
	workers map[string]bool
	wrong   []string
}

// statusReport is what the status page has as JSON.
type statusReport struct {
	Workers int
	Guests  []struct {
		Name                                                            string
		Requests, Passed, Answered, Aborted, Failed, In_flight, Waiting int
		Failures                                                        map[string]int
		Handle_request                                                  struct{ Count int }
		Recent                                                          []struct {
			Requests int
			Failures map[string]int
		}
	}
}

// TestStatus loads four workers with requests of all outcomes and compares what clients have counted with what the status
// shows: exactly, and after a worker was killed but for the requests that it had in hand.
func TestStatus(t *testing.T) {
	s := startCounted(t)
	c := &customers{began: time.Now(), tallies: make(map[string]*tally), workers: make(map[string]bool)}
	for _, g := range countedGuests {
		c.tallies[g.name] = &tally{figures: map[string]int{"requests": 0}}
	}
	fmt.Printf("status: seed %d, %d requests of %d clients to %d workers\n", *seed, *requests, *clients, statusWorkers)

	// Pictures show the page while all of this goes on.
	looked := make(chan error, 1)
	half := *requests / 2
	c.load(s, 0, half, true, func(n int) {
		if n == half/3 {
			go func() { looked <- takePictures(t, s, "load") }()
		}
	})
	if err := <-looked; err != nil {
		t.Error(err)
	}
	c.judge(t, s, 0)
	if len(c.workers) != statusWorkers {
		t.Errorf("%d workers have answered, expected %d", len(c.workers), statusWorkers)
	}

	// Nobody leaves now: of a request that nobody waits for, nobody can say whether a worker had it when it died.
	victim := process.Workers(s.Master())[0]
	c.load(s, half, *requests, false, func(n int) {
		if n == half+half/2 {
			if err := syscall.Kill(victim, syscall.SIGKILL); err != nil {
				t.Error(err)
			}
		}
	})
	await(t, "no worker came for the one that was killed", func() bool {
		now := process.Workers(s.Master())
		return len(now) == statusWorkers && !slices.Contains(now, victim)
	})
	fmt.Printf("status: worker %d was killed by SIGKILL under load\n", victim)
	c.judge(t, s, *clients)
	if err := takePictures(t, s, "end"); err != nil {
		t.Error(err)
	}
	for _, wrong := range c.wrong {
		t.Error(wrong)
	}
}

func startCounted(t *testing.T) *nginxtest.Server {
	t.Helper()
	compiler, err := guest.NewCompiler("../..", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	socket := serveBackend(t)

	files := make(map[string][]byte)
	conf := fmt.Sprintf("    http_wasm_breaker off;\n    upstream backend { server unix:%s; keepalive 32; }\n", socket) +
		"    server { listen ${addr1}; location / { http_wasm_status; } }\n" +
		"    server {\n        listen ${addr0} reuseport;\n        add_header X-Worker $pid always;\n" +
		"        proxy_http_version 1.1;\n        proxy_set_header Connection \"\";\n"
	for _, g := range countedGuests {
		if g.built != "" {
			files[g.name+".wasm"], err = os.ReadFile(filepath.Join("../../target/guests", g.built))
		} else {
			files[g.name+".wasm"], err = compiler.Compile(g.guest)
		}
		if err != nil {
			t.Fatal(err)
		}
		conf += fmt.Sprintf("        location = /%s { http_wasm ${dir}/%[1]s.wasm config=secret; %s }\n", g.name, g.conf)
	}

	return nginxtest.Start(t, nginxtest.Config{Ports: 2, Workers: statusWorkers, HTTP: conf + "    }\n", Files: files,
		Alert: "exited on signal 9"})
}

// load sends the requests with these numbers.
func (c *customers) load(s *nginxtest.Server, from, until int, leave bool, at func(n int)) {
	var next atomic.Int64
	next.Store(int64(from))
	var wait sync.WaitGroup
	for range *clients {
		wait.Go(func() {
			client := &keepalive.Client{Addr: s.Addrs[0], Timeout: patience}
			defer client.Close()
			for n := int(next.Add(1) - 1); n < until; n = int(next.Add(1) - 1) {
				at(n)
				c.once(client, n, leave)
			}
		})
	}
	wait.Wait()
}

func (c *customers) once(client *keepalive.Client, n int, leave bool) {
	random := rand.New(rand.NewPCG(*seed, uint64(n)))
	g := chooseCounted(random)
	for g.leaves && !leave {
		g = chooseCounted(random)
	}
	request := keepalive.Request{Method: "GET", Target: fmt.Sprintf("/%s?%d", g.name, n), Header: []string{"X-Value: v"}}
	status, unsure, wrong := 0, 0, ""
	var worker string
	if g.leaves {
		gone := &keepalive.Client{Addr: client.Addr, Timeout: patience}
		if err := gone.Send(request, len(request.Bytes())); err != nil {
			wrong = err.Error()
		}
		gone.Close()
	} else {
		retried := len(client.Retried)
		res, err := client.Do(request)
		unsure = len(client.Retried) - retried
		status, worker = res.Status, res.Header.Get("X-Worker")
		if err != nil {
			unsure, status = unsure+1, -1
		}
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	tally := c.tallies[g.name]
	tally.unsure += unsure
	if worker != "" {
		c.workers[worker] = true
	}
	if wrong != "" {
		c.wrong = append(c.wrong, g.name+": "+wrong)
	}
	if status < 0 {
		return
	}
	counts, known := g.counts[status]
	if !known && len(c.wrong) < 10 {
		c.wrong = append(c.wrong, fmt.Sprintf("%s answers %d", g.name, status))
	}
	tally.figures["requests"]++
	for _, figure := range counts {
		tally.figures[figure]++
	}
}

func chooseCounted(random *rand.Rand) *counted {
	at := random.IntN(1000)
	for i := range countedGuests {
		if at -= countedGuests[i].share; at < 0 {
			return &countedGuests[i]
		}
	}
	panic("the shares are fewer than 1000")
}

// judge compares what was counted here and there, once the server has come to rest. In all, so many requests may have
// been lost from sight.
func (c *customers) judge(t *testing.T, s *nginxtest.Server, unsure int) {
	t.Helper()
	var lines, wrong []string
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		lines, wrong = c.compare(t, s)
		if len(wrong) == 0 || time.Now().After(deadline) {
			break
		}
	}
	fmt.Println("status: guest          figure: status page = clients")
	for _, line := range lines {
		fmt.Println("status: " + line)
	}
	for _, text := range wrong {
		t.Error(text)
	}
	sum := 0
	for _, tally := range c.tallies {
		sum += tally.unsure
	}
	fmt.Printf("status: %d requests got no answer at first, and may have been counted or not\n", sum)
	if sum > unsure {
		t.Errorf("%d requests got no answer at first, expected up to %d", sum, unsure)
	}
}

func (c *customers) compare(t *testing.T, s *nginxtest.Server) (lines, wrong []string) {
	t.Helper()
	var report statusReport
	if err := json.Unmarshal(fetch(t, s, "json"), &report); err != nil {
		t.Fatal(err)
	}
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if report.Workers != statusWorkers {
		say("%d workers, expected %d", report.Workers, statusWorkers)
	}
	if len(report.Guests) != len(countedGuests) {
		say("%d guests, expected %d", len(report.Guests), len(countedGuests))
	}
	prometheus := string(fetch(t, s, "prometheus"))
	for _, g := range report.Guests {
		figures := map[string]int{"requests": g.Requests, "passed": g.Passed, "answered": g.Answered, "aborted": g.Aborted}
		maps.Copy(figures, g.Failures)
		tally := c.tallies[g.Name]
		var cells []string
		for _, figure := range slices.Sorted(maps.Keys(figures)) {
			have, want := figures[figure], tally.figures[figure]
			if have < want || have > want+tally.unsure {
				say("%s: %s %d, clients counted %d, and %d may have been counted or not", g.Name, figure, have, want, tally.unsure)
			}
			if have > 0 || want > 0 {
				cells = append(cells, fmt.Sprintf("%s %d = %d", figure, have, want))
			}
			if text := series(prometheus, g.Name, figure); text != have {
				say("%s: %s %d for Prometheus, %d as JSON", g.Name, figure, text, have)
			}
		}
		lines = append(lines, fmt.Sprintf("%-14s %s", g.Name, strings.Join(cells, ", ")))

		// What a picture is made of: all of it is recent, in a run that is not too long.
		if time.Since(c.began) < 14*time.Minute {
			recent := map[string]int{}
			for _, part := range g.Recent {
				recent["requests"] += part.Requests
				for cause, n := range part.Failures {
					recent[cause] += n
				}
			}
			for _, figure := range append(slices.Collect(maps.Keys(g.Failures)), "requests") {
				if recent[figure] != figures[figure] {
					say("%s: %s %d in the last quarter of an hour, expected %d", g.Name, figure, recent[figure], figures[figure])
				}
			}
		}

		// Each request ended in one way, but for those that died with their worker. A late trap is a second end.
		ends := g.Passed + g.Answered + g.Aborted + g.Failed
		if g.Name == "trap-late" {
			ends -= g.Failed
		}
		if ends > g.Requests || ends+tally.unsure < g.Requests {
			say("%s: %d requests, %d ends", g.Name, g.Requests, ends)
		}
		if g.In_flight != 0 || g.Waiting != 0 {
			say("%s: %d in flight, %d waiting, expected none", g.Name, g.In_flight, g.Waiting)
		}
	}

	return lines, wrong
}

// series is a counter of Prometheus' format, -1 if it is not there.
func series(text, name, figure string) int {
	metric := "http_wasm_requests_total{guest=\"" + name + "\"}"
	switch figure {
	case "requests":
	case "passed", "answered", "aborted":
		metric = fmt.Sprintf("http_wasm_outcomes_total{guest=%q,outcome=%q}", name, figure)
	default:
		metric = fmt.Sprintf("http_wasm_failures_total{guest=%q,cause=%q}", name, figure)
	}
	found := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(metric) + ` (\d+)$`).FindStringSubmatch(text)
	if found == nil {
		return -1
	}
	n, _ := strconv.Atoi(found[1])

	return n
}

func fetch(t *testing.T, s *nginxtest.Server, format string) []byte {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	resp, err := client.Get("http://" + s.Addrs[1] + "/?format=" + format)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("?format=%s: %s, %v", format, resp.Status, err)
	}

	return text
}

// takePictures writes what people and machines get to see now.
func takePictures(t *testing.T, s *nginxtest.Server, when string) error {
	if *shots == "" {
		return nil
	}
	for name, options := range map[string][]string{
		"wide":  {"--window-size=1440,1700"},
		"dark":  {"--window-size=1440,1700", "--blink-settings=preferredColorScheme=0"},
		"phone": {"--window-size=390,2600"},
		"page":  {"--window-size=1040,1440"},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		home := t.TempDir()
		cmd := exec.CommandContext(ctx, "chromium-headless-shell", append(options, "--headless", "--no-sandbox", "--disable-gpu",
			"--no-first-run", "--hide-scrollbars", "--user-data-dir="+home,
			"--screenshot="+filepath.Join(*shots, when+"-"+name+".png"), "http://"+s.Addrs[1]+"/")...)
		cmd.Env = append(os.Environ(), "HOME="+home)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("chromium: %w\n%s", err, out)
		}
	}
	for format, name := range map[string]string{"json": "status.json", "prometheus": "metrics.txt"} {
		if err := os.WriteFile(filepath.Join(*shots, when+"-"+name), fetch(t, s, format), 0o644); err != nil {
			return err
		}
	}

	return nil
}
