package hostile

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ngx-http-wasm-handler/conformance/guest"
	"ngx-http-wasm-handler/hostile/keepalive"
	"ngx-http-wasm-handler/hostile/process"
	"ngx-http-wasm-handler/tck/harness/nginxtest"
)

var (
	rounds = flag.Int("rounds", 5, "how often the worker is measured idle and under attack, in turn")
	window = flag.Duration("window", 400*time.Millisecond, "how long it is measured each time, at least")
	limit  = flag.Duration("limit", time.Second, "http_wasm_timeout of guests that run until they are stopped")
	only   = flag.String("only", "", "guests whose name contains this")
	write  = flag.String("write", "", "a file to write the table to")
)

// patience bounds every request.
const patience = 70 * time.Second

// deployed is one row.
type deployed struct {
	hostile
	phase, name string
}

// outcome is what the row says.
type outcome struct {
	statuses            map[int]int
	ratios, idle        []float64
	before, peak, after int
	logged              string
	attacks             int
}

func TestHostile(t *testing.T) {
	var rows []deployed
	for _, h := range all {
		for _, phase := range h.phases {
			if strings.Contains(h.name, *only) {
				rows = append(rows, deployed{h, phase, fmt.Sprintf("g%d", len(rows))})
			}
		}
	}

	s := serve(t, rows)
	others := &keepalive.Client{Addr: s.Addrs[0], Timeout: patience}
	defer others.Close()
	for range 100 {
		if _, err := latency(others); err != nil {
			t.Fatal(err)
		}
	}
	// It has answered: there is one.
	workers := process.Workers(s.Master())
	if len(workers) != 1 {
		t.Fatalf("workers %v, expected one", workers)
	}
	worker := workers[0]
	first := size(t, worker)

	var outcomes []outcome
	for _, row := range rows {
		outcomes = append(outcomes, row.run(t, s, worker, others))
	}
	last := size(t, worker)

	if now := process.Workers(s.Master()); !slices.Equal(now, workers) {
		t.Errorf("workers %v, expected %v", now, workers)
	}
	text := table(t, rows, outcomes, first, last)
	fmt.Print(text)
	if *write != "" && !t.Failed() {
		if err := os.WriteFile(*write, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// serve starts an nginx with one worker, an ordinary guest for the others, and all hostile ones.
func serve(t *testing.T, rows []deployed) *nginxtest.Server {
	compiler, err := guest.NewCompiler("../..", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	fine, err := compiler.Compile(guest.Guest{
		Request:  `(call $tell_backend &"x-uri" (call $get_uri BUF #1000))`,
		Response: `(call $set_header_value RESPONSE &"x-guest" &"fine")`,
	})
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{"fine.wasm": fine}

	// Those that end by themselves may take their time: not they, the machine may be slow.
	conf := "    http_wasm_timeout 60s;\n    http_wasm_breaker off;\n    http_wasm_snapshot off;\n    server {\n        listen ${addr0};\n        keepalive_requests 100000000;\n" +
		"        location = /fine { http_wasm ${dir}/fine.wasm; empty_gif; }\n"
	for _, row := range rows {
		wasm, err := compiler.Compile(row.guest(row.phase))
		if err != nil {
			t.Fatalf("%s: %v", row.name, err)
		}
		files[row.name+".wasm"] = wasm
		directives := row.location
		if strings.Contains(directives, "%s") {
			directives = fmt.Sprintf(directives, t.TempDir())
		}
		if row.endless() {
			directives += fmt.Sprintf(" http_wasm_timeout %[1]dms; http_wasm_start_timeout %[1]dms;", limit.Milliseconds())
		}
		conf += fmt.Sprintf("        location = /%s { http_wasm ${dir}/%[1]s.wasm config=something; %s empty_gif; }\n", row.name, directives)
	}

	return nginxtest.Start(t, nginxtest.Config{Ports: 1, Workers: 1, HTTP: conf + "    }\n", Files: files})
}

// run measures the others with and without the attack in turn, and then what is left of it.
func (d deployed) run(t *testing.T, s *nginxtest.Server, worker int, others *keepalive.Client) outcome {
	t.Helper()
	where := d.name + " (" + d.hostile.name + ", " + d.phase + ")"

	o := outcome{statuses: make(map[int]int)}
	if err := os.Truncate(filepath.Join(s.Dir, "error.log"), 0); err != nil {
		t.Fatal(err)
	}
	before := size(t, worker)
	if err := process.ResetPeak(worker); err != nil {
		t.Fatal(err)
	}

	// Every way is tried at least once, and the log is looked at before it gets long.
	attack := &attack{deployed: d, addr: s.Addrs[0]}
	for range *rounds {
		idle, err := measure(others, *window, nil)
		if err != nil {
			t.Fatalf("%s: without an attack: %v", where, err)
		}
		under, err := measure(others, *window, attack)
		if err != nil {
			t.Errorf("%s: others were not served: %v", where, err)
			return o
		}
		usual := idle[len(idle)/2]
		o.idle = append(o.idle, p99(idle, usual).Seconds())
		o.ratios = append(o.ratios, p99(under, usual).Seconds()/p99(idle, usual).Seconds())
	}
	o.statuses, o.attacks = attack.statuses, attack.sent

	if d.phase != start {
		res, err := (&keepalive.Client{Addr: s.Addrs[0], Timeout: patience}).Do(keepalive.Request{Method: "GET", Target: "/" + d.name})
		if err != nil || res.Status != 200 {
			t.Errorf("%s: serves on: got %d, %v", where, res.Status, err)
		}
	}

	peak, err := process.Peak(worker)
	if err != nil {
		t.Errorf("%s: the worker is gone: %v", where, err)
		return o
	}
	after := size(t, worker)
	o.before, o.peak, o.after = before.Private, before.Private+peak-before.RSS, after.Private
	if attack.wrong != "" {
		t.Errorf("%s: %s", where, attack.wrong)
	}
	if grown, most := (o.after-o.before)>>10, d.keeps+slackMB; grown > most {
		t.Errorf("%s: the worker keeps %d MB, expected up to %d", where, grown, most)
	}
	if grown, most := (o.peak-o.before)>>10, d.takes+callMB; grown > most {
		t.Errorf("%s: the worker took %d MB, expected up to %d", where, grown, most)
	}
	if grown := after.Descriptors - before.Descriptors; grown > slackDescriptors {
		t.Errorf("%s: the worker has %d descriptors more, expected up to %d", where, grown, slackDescriptors)
	}
	if attack.leaked {
		t.Errorf("%s: the client got something of what the guest did before it failed", where)
	}
	o.logged = d.look(t, where, s.ErrorLog(), o.attacks)

	return o
}

// loggedMax is what error_log may grow by for one request: 1 MB of the guest's with all that nginx puts to its lines, and
// what is said of the guest itself.
const loggedMax = 2 << 20

// look checks what was logged, and returns one line of it.
func (d deployed) look(t *testing.T, where, log string, attacks int) string {
	t.Helper()

	if severe := regexp.MustCompile(`(?m)^.{20}\[(?:alert|crit|emerg)\].*`).FindString(log); severe != "" {
		t.Errorf("%s: logged: %s", where, severe)
	}
	if strange := regexp.MustCompile(`(?m)^(?:\d{4}/\d\d/\d\d \d\d:\d\d:\d\d \[\w+\] .*|)$`).ReplaceAllString(log, ""); strings.TrimSpace(strange) != "" {
		t.Errorf("%s: lines of the log that are none of nginx: %.200q", where, strings.TrimSpace(strange))
	}
	if len(log) > attacks*loggedMax {
		t.Errorf("%s: %d bytes were logged for %d requests", where, len(log), attacks)
	}
	if d.log == "" {
		return "–"
	}
	line := regexp.MustCompile(`guest "` + d.name + `": (?:handle_\w+: )?(` + d.log + `[^\n]*)`).FindStringSubmatch(log)
	if line == nil {
		t.Errorf("%s: nothing was logged that matches %s, but\n%.2000s", where, d.log, log)
		return ""
	}
	text, _, _ := strings.Cut(line[1], ", client: ")

	return text
}

// attack sends hostile requests, one after the other for each client.
type attack struct {
	deployed
	addr string

	mu       sync.Mutex
	sent     int
	statuses map[int]int
	leaked   bool
	// What went otherwise than it should, once.
	wrong string
}

// until attacks until stop is closed, and until every way was tried.
func (a *attack) until(stop <-chan struct{}) {
	var wait sync.WaitGroup
	for range max(a.clients, 1) {
		wait.Go(func() {
			for {
				n := a.next()
				if n >= len(a.harm) || a.status == 0 && n > 0 {
					select {
					case <-stop:
						return
					default:
					}
				}
				a.once(n, stop)
			}
		})
	}
	wait.Wait()
}

func (a *attack) next() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sent++

	return a.sent - 1
}

func (a *attack) once(n int, stop <-chan struct{}) {
	c := &keepalive.Client{Addr: a.addr, Timeout: patience}
	defer c.Close()
	r := keepalive.Request{Method: "GET", Target: "/" + a.name, Header: []string{
		fmt.Sprintf("X-Harm: %03d", n%max(len(a.harm), 1)), "Connection: close",
	}}

	var res keepalive.Response
	var err error
	if a.status == 0 {
		// The client goes away when the time is over.
		if err = c.Send(r, len(r.Bytes())); err == nil {
			<-stop
			if c.Answered() {
				err = errors.New("there was an answer")
				res.Status = 1
			}
		}
	} else {
		res, err = c.Do(r)
	}

	a.mu.Lock()
	defer a.mu.Unlock()
	if a.statuses == nil {
		a.statuses = make(map[int]int)
	}
	a.statuses[res.Status]++
	if a.wrong == "" && res.Status != a.status {
		a.wrong = fmt.Sprintf("got status %d, error %v, expected %d", res.Status, err, a.status)
		if len(a.harm) > 0 {
			a.wrong += " for " + a.harm[n%len(a.harm)]
		}
	}
	if res.Status >= 500 {
		a.leaked = a.leaked || len(res.Header.Values("X-Leaked")) > 0 || bytes.Contains(res.Body, []byte("leaked")) ||
			bytes.Contains(res.Body, []byte("wasm"))
	}
}

// measure sends ordinary requests one after the other, and returns how long each took, in ascending order.
func measure(c *keepalive.Client, atLeast time.Duration, a *attack) ([]time.Duration, error) {
	stop, over := make(chan struct{}), atomic.Bool{}
	var wait sync.WaitGroup
	if a != nil {
		wait.Go(func() {
			a.until(stop)
			over.Store(true)
		})
	}

	var took []time.Duration
	var failed error
	closed := false
	for begin := time.Now(); ; {
		if !closed && time.Since(begin) >= atLeast {
			close(stop)
			closed = true
		}
		// As long as the attack goes on there is something to measure.
		if closed && (a == nil || over.Load()) {
			break
		}
		d, err := latency(c)
		if err != nil && failed == nil {
			failed = err
		}
		took = append(took, d)
	}
	wait.Wait()
	slices.Sort(took)

	return took, failed
}

func latency(c *keepalive.Client) (time.Duration, error) {
	begin := time.Now()
	res, err := c.Do(keepalive.Request{Method: "GET", Target: "/fine"})
	if err == nil && (res.Status != 200 || res.Header.Get("X-Guest") != "fine" || len(res.Body) != 43) {
		err = fmt.Errorf("status %d, %d bytes", res.Status, len(res.Body))
	}

	return time.Since(begin), err
}

// p99 counts for a request that had to wait also those that would have been sent meanwhile: one client that waits for
// its answers would hide how many had met the same delay.
func p99(sorted []time.Duration, usual time.Duration) time.Duration {
	var full []time.Duration
	for _, d := range sorted {
		full = append(full, d)
		for rest := d - usual; rest > usual; rest -= usual {
			full = append(full, rest)
		}
	}
	slices.Sort(full)

	return full[len(full)*99/100]
}

func size(t *testing.T, worker int) process.Size {
	t.Helper()
	size, err := process.SizeOf(worker)
	if err != nil {
		t.Fatalf("the worker is gone: %v", err)
	}

	return size
}

// load is the load average of the last minute, this tool and nginx included.
func load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return err.Error()
	}
	first, _, _ := strings.Cut(string(text), " ")

	return first
}

func mb(kb int) string { return fmt.Sprintf("%.1f", float64(kb)/1024) }

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	if len(sorted) == 0 {
		return 0
	}

	return sorted[len(sorted)/2]
}

func table(t *testing.T, rows []deployed, outcomes []outcome, first, last process.Size) string {
	binary, _ := nginxtest.Paths(t)
	version, _ := exec.Command(binary, "-v").CombinedOutput()

	var b strings.Builder
	fmt.Fprintf(&b, "# Hostile guests\n\nWritten by `make hostile-results` on %s.\n\n",
		strings.TrimPrefix(strings.TrimSpace(string(version)), "nginx version: "))
	b.WriteString(`Each guest attacks a worker that serves others at the same time: clients send it one request after the other, each of which
does the harm, while another client sends requests to an ordinary guest in the same, only worker.

- **Status** is what the attacking clients got, every one of them; "none" are those that gave up waiting.
- **Others' p99** is the 99th percentile of what the other client waited during the attack, as a multiple of what it waited
  without one right before, the median of several rounds. A guest that computes for ever has ` + "`http_wasm_slice`" + ` (5 ms) at a
  time. A request that had to wait counts for all that would have been sent meanwhile too.
- **Memory** is what the worker has written to and shares with nobody, before, at its largest, and after the attack. An
  instance that was not stopped is kept for the next request, with the memory that it has grown to.

| hostile guest | in | status | worker | others' p99 | memory, MB | error_log |
|---|---|---|---|---|---|---|
`)
	var idle []float64
	for i, o := range outcomes {
		row := rows[i]
		idle = append(idle, o.idle...)
		status := "none"
		if row.status != 0 {
			status = fmt.Sprint(row.status)
		}
		if len(o.statuses) > 1 || o.statuses[row.status] == 0 {
			status = fmt.Sprintf("**%v**", o.statuses)
		}
		logged := o.logged
		if runes := []rune(logged); len(runes) > 100 {
			logged = string(runes[:97]) + "..."
		}
		fmt.Fprintf(&b, "| %s | %s | %s | alive | × %.1f | %s, %s, %s | %s |\n", row.hostile.name, row.phase, status, median(o.ratios),
			mb(o.before), mb(o.peak), mb(o.after), strings.ReplaceAll(logged, "|", "\\|"))
	}
	fmt.Fprintf(&b, "\nThe same worker all the time: at its start it had %s MB of memory, %d descriptors, %d threads, and at its end %s MB, %d, %d.\n"+
		"Without an attack the 99th percentile was %.2f ms, on %d processors with a load of %s. Where others use them too, the ratios are\n"+
		"those of the machine's noise.\n",
		mb(first.Private), first.Descriptors, first.Threads, mb(last.Private), last.Descriptors, last.Threads, median(idle)*1000, runtime.NumCPU(), load())

	return b.String()
}
