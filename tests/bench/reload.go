package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

// Reload is what a reload costs with a large guest, in milliseconds and megabytes.
type Reload struct {
	// Guest is its size in bytes, Count how often each master was told to reload.
	Guest, Count int
	Rows         []ReloadRow
	Masters      []ReloadMaster
	// Peak is what "nginx -t" took at most, with the compiler.
	Peak Stat
}

// ReloadRow is one way to reload. Ratios are to nginx without the module, in the same round.
type ReloadRow struct {
	What string
	// Answer is from SIGHUP to the first answer of a new worker, Test is what "nginx -t" took before.
	Answer, AnswerRatio, Test, TestRatio Stat
	// Compiled is how many guests a reload compiled, TestCompiled how many "nginx -t".
	Compiled, TestCompiled int
}

// ReloadMaster is what a master takes, before the first reload and after the last.
type ReloadMaster struct {
	Name          string
	Before, After Memory
}

// site is an nginx that is told to reload.
type site struct {
	s            *Settings
	server       *Server
	prefix       string
	port, status int
	// guest is empty for nginx without the module.
	guest   []byte
	file    string
	version int
}

// step is one way to reload, in every round.
type step struct {
	what string
	on   *site
	// change puts another guest of the same size into the place of the one that runs.
	change, test bool
	// compiles is how many guests are compiled by "nginx -t" and by the reload.
	testCompiles, compiles int
	answers, tests         []float64
}

// runReload measures reloads; all ways follow each other in every round.
func runReload(s *Settings, report *Report) (err error) {
	if !s.wanted("reload") {
		return nil
	}
	file := "large.wasm"
	if s.Quick {
		file = "go.wasm" // compiled in a moment
	}
	guest, err := os.ReadFile(s.guest(file))
	if err != nil {
		return err
	}
	bareSite, err := startSite(s, "reload-nginx", plain, nil)
	if err != nil {
		return err
	}
	defer bareSite.server.stop()
	large, err := startSite(s, "reload", ours, guest)
	if err != nil {
		return err
	}
	defer large.server.stop()

	steps := []*step{
		{what: "nginx without the module", on: bareSite, test: true},
		{what: "guest unchanged", on: large},
		{what: "guest changed, warm cache", on: large, change: true, test: true, testCompiles: 1},
		{what: "guest changed, cold cache", on: large, change: true, compiles: 1},
	}
	result := &Reload{Guest: len(guest)}
	for _, on := range []*site{bareSite, large} {
		before, err := memoryOf(on.server.cmd.Process.Pid)
		if err != nil {
			return err
		}
		result.Masters = append(result.Masters, ReloadMaster{Name: on.server.name, Before: before})
	}
	var warm, peaks []float64
	for round := range s.Rounds {
		for i := range steps {
			st := steps[(i+round)%len(steps)]
			if st.change {
				if err := large.change(); err != nil {
					return err
				}
			}
			if st.test {
				took, peak, err := st.on.test(st.testCompiles)
				if err != nil {
					return fmt.Errorf("%s: %w", st.what, err)
				}
				st.tests = append(st.tests, took)
				if st.testCompiles > 0 {
					peaks = append(peaks, peak)
					// Again, with the cache that it has left.
					if took, _, err = st.on.test(0); err != nil {
						return fmt.Errorf("%s: %w", st.what, err)
					}
					warm = append(warm, took)
				}
			}
			took, err := st.on.reload(st.compiles)
			if err != nil {
				return fmt.Errorf("%s: %w\n%s", st.what, err, st.on.server.complaints())
			}
			st.answers = append(st.answers, took)
		}
	}
	for i, on := range []*site{bareSite, large} {
		if said := on.server.complaints(); said != "" {
			return errors.New("error log is not empty: " + said)
		}
		if result.Masters[i].After, err = memoryOf(on.server.cmd.Process.Pid); err != nil {
			return err
		}
	}

	// "nginx -t" compiles, or does not, whatever the reload after it does.
	base := steps[0]
	tests := [][]float64{base.tests, nil, warm, steps[2].tests}
	for i, st := range steps {
		row := ReloadRow{What: st.what, Compiled: st.compiles, Answer: stat(st.answers), AnswerRatio: stat(ratios(st.answers, base.answers))}
		row.Test, row.TestRatio = stat(tests[i]), stat(ratios(tests[i], base.tests))
		if i == 3 {
			row.TestCompiled = 1
		}
		result.Rows = append(result.Rows, row)
	}
	result.Count, result.Peak = s.Rounds*(len(steps)-1), stat(peaks)
	report.Reload = result
	printReload(os.Stdout, result)

	return nil
}

func ratios(a, b []float64) []float64 {
	var values []float64
	for i := range a {
		values = append(values, a[i]/b[i])
	}

	return values
}

// startSite runs an nginx with one location that a guest guards, on all CPUs: compiling takes them all.
func startSite(s *Settings, name string, kind Kind, guest []byte) (*site, error) {
	on := &site{s: s, prefix: filepath.Join(s.Dir, name), guest: guest, file: filepath.Join(s.Dir, name+".wasm")}
	var err error
	if on.port, err = freePort(); err != nil {
		return nil, err
	}
	if on.status, err = freePort(); err != nil {
		return nil, err
	}
	block := location(on.port, "add_header X-Worker $pid;", gif, "")
	if guest != nil {
		if err := on.change(); err != nil {
			return nil, err
		}
		block = "    http_wasm_cache_path cache;\n" +
			location(on.port, "add_header X-Worker $pid; http_wasm "+on.file+" name=large config=headers;", gif, "") +
			location(on.status, "", "http_wasm_status;", "")
	}
	conf := strings.Replace(nginxConf(s, kind, upstreams{}, block), "error_log error.log warn", "error_log error.log notice", 1)
	if on.server, err = startNginx(s, name, everyCPU, conf, on.port); err != nil {
		return nil, err
	}
	if err := on.runs(); err != nil {
		on.server.stop()
		return nil, err
	}

	return on, nil
}

// change writes another guest, which does the same: a custom section makes the difference.
func (on *site) change() error {
	on.version++
	const name, size = "\x07version", 8
	section := append([]byte{0, byte(len(name) + size)}, name...)
	section = fmt.Appendf(section, "%0*d", size, on.version)

	return os.WriteFile(on.file, append(bytes.Clone(on.guest), section...), 0o644)
}

// compiled is how many guests a log says were compiled.
func (on *site) compiled(log string) (int, error) {
	text, err := os.ReadFile(filepath.Join(on.prefix, log))
	return bytes.Count(text, []byte(": compiled in ")), err
}

// test is how long "nginx -t" takes, and how many megabytes it and the compiler took at most.
func (on *site) test(compiles int) (ms, peak float64, err error) {
	_ = os.Remove(filepath.Join(on.prefix, "test.log"))
	if ms, peak, err = testOnce(on.s, on.prefix); err != nil {
		return 0, 0, err
	}
	found, err := on.compiled("test.log")
	if err == nil && found != compiles {
		err = fmt.Errorf("nginx -t compiled %d guests, expected %d", found, compiles)
	}

	return ms, peak, err
}

// reload tells the master to reload, and is over when old workers are gone; it says when the first new one answered.
func (on *site) reload(compiles int) (float64, error) {
	before, err := on.compiled("error.log")
	if err != nil {
		return 0, err
	}
	old := strconv.Itoa(on.server.pid)
	began := time.Now()
	if err := on.server.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		return 0, err
	}
	worker := old
	for deadline := began.Add(5 * time.Minute); worker == old; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return 0, errors.New("no new worker has answered in five minutes")
		}
		if worker, err = on.worker(); err != nil {
			return 0, err
		}
	}
	took := time.Since(began).Seconds() * 1000

	if on.server.pid, err = strconv.Atoi(worker); err != nil {
		return 0, err
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		now, err := on.server.children()
		if err != nil {
			return 0, err
		}
		if now == worker {
			break
		}
		if time.Now().After(deadline) {
			return 0, fmt.Errorf("worker %s does not end", old)
		}
	}
	after, err := on.compiled("error.log")
	if err != nil {
		return 0, err
	}
	if after-before != compiles {
		return 0, fmt.Errorf("the reload compiled %d guests, expected %d", after-before, compiles)
	}

	return took, on.runs()
}

// worker is the process that answers, through the guest where there is one.
func (on *site) worker() (string, error) {
	resp, err := fresh.Get(fmt.Sprintf("http://127.0.0.1:%d/", on.port))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return "", err
	}
	worker := resp.Header.Get("X-Worker")
	if resp.StatusCode != http.StatusOK || worker == "" {
		return "", fmt.Errorf("%s, X-Worker %q", resp.Status, worker)
	}

	return worker, nil
}

// fresh opens a connection for each request.
var fresh = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}

// runs says whether it is the guest in the file that serves.
func (on *site) runs() error {
	if on.guest == nil {
		return nil
	}
	file, err := os.ReadFile(on.file)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(file)
	resp, err := fresh.Get(fmt.Sprintf("http://127.0.0.1:%d/?format=json", on.status))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var status struct {
		Guests []struct{ Name, SHA256 string }
	}
	if err := json.NewDecoder(resp.Body).Decode(&status); err != nil {
		return err
	}
	want := hex.EncodeToString(sum[:])
	if len(status.Guests) != 1 || status.Guests[0].SHA256 != want {
		return fmt.Errorf("the status has %v, expected one guest with the digest %s", status.Guests, want)
	}

	return nil
}

// testOnce is how long "nginx -t" takes, and how many megabytes it and its children took at most.
func testOnce(s *Settings, prefix string) (ms, peak float64, err error) {
	cmd := exec.Command(s.Nginx, "-t", "-q", "-p", prefix, "-c", filepath.Join(prefix, "nginx.conf"), "-e", "test.log")
	began := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, 0, fmt.Errorf("nginx -t: %w\n%s", err, out)
	}
	ms = time.Since(began).Seconds() * 1000
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		peak = float64(usage.Maxrss) / 1024
	}

	return ms, peak, nil
}

var reloadColumns = []string{"", "until a new worker answers, ms", "÷ nginx", "it compiles", "nginx -t, ms", "÷ nginx", "it compiles"}

func (r *ReloadRow) cells() []string {
	cells := []string{r.What, spread(r.Answer, 0), spread(r.AnswerRatio, 2), strconv.Itoa(r.Compiled), "", "", ""}
	if r.Test.Median > 0 {
		copy(cells[4:], []string{spread(r.Test, 0), spread(r.TestRatio, 2), strconv.Itoa(r.TestCompiled)})
	}

	return cells
}

func (r *Reload) title() string {
	return fmt.Sprintf("A reload with a guest of %.1f MB, on all CPUs", float64(r.Guest)/1e6)
}

// notes are what there is to say of memory.
func (r *Reload) notes() []string {
	var lines []string
	for _, m := range r.Masters {
		name := map[string]string{"reload": "with the guest", "reload-nginx": "without the module"}[m.Name]
		lines = append(lines, fmt.Sprintf("Master %s, before: RSS %s, private %s MB; after: RSS %s, private %s MB.", name,
			megabytes(m.Before.RSS), megabytes(m.Before.Private), megabytes(m.After.RSS), megabytes(m.After.Private)))
	}

	return append(lines, fmt.Sprintf("%d reloads with the guest. `nginx -t` that compiles it takes %.0f MB at most.", r.Count, r.Peak.Max))
}

func megabytes(kb int) string { return fmt.Sprintf("%.1f", float64(kb)/1024) }

func printReload(w io.Writer, r *Reload) {
	fmt.Fprintln(w, r.title())
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	printRow(t, reloadColumns)
	for i := range r.Rows {
		printRow(t, r.Rows[i].cells())
	}
	t.Flush()
	fmt.Fprintf(w, "%s\n\n", strings.Join(r.notes(), "\n"))
}
