package waf

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"ngx-http-wasm-handler/hostile/keepalive"
	"ngx-http-wasm-handler/hostile/process"
	"ngx-http-wasm-handler/tck/harness/nginxtest"
)

var browser = []string{"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Accept: */*"}

// kinds are what people ask for, and what would be refused. %d is the number of
// the request.
var kinds = []struct {
	request keepalive.Request
	status  int
}{
	{keepalive.Request{Method: "GET", Target: "/search?q=green+tea&page=%d", Header: browser}, 200},
	{keepalive.Request{Method: "POST", Target: "/order?n=%d", Header: append([]string{"Content-Type: application/x-www-form-urlencoded"}, browser...),
		Body: []byte("name=somebody&text=two+cups,+please")}, 200},
	{keepalive.Request{Method: "GET", Target: "/item/%d", Header: append([]string{"Cookie: session=0123456789abcdef"}, browser...)}, 200},
	{keepalive.Request{Method: "GET", Target: "/coupon/%d", Header: browser}, 200},
	{keepalive.Request{Method: "GET", Target: "/search?n=%d&q=<script>alert(1)</script>", Header: browser}, 403},
}

// coupon is the number of the kind that a new rule forbids.
const coupon = 3

// crowd are clients that send one request after another, each on a connection
// that is kept.
type crowd struct {
	f    *firewall
	over atomic.Bool
	next atomic.Int64
	wait sync.WaitGroup
	// allowed judges what came from a worker for a kind of request.
	allowed func(worker, kind, status int) bool
	// victim is the worker whose clients may lose a request, 0 if none.
	victim atomic.Int64

	mu sync.Mutex
	// replies are how many there were by worker.
	replies map[int]int
	// retried are targets of requests that were sent again; lost are the requests
	// that died with the victim.
	retried []string
	lost    int
	wrong   []string
}

// load starts clients.
func (f *firewall) load(clients int, allowed func(worker, kind, status int) bool) *crowd {
	c := &crowd{f: f, replies: make(map[int]int), allowed: allowed}
	for range clients {
		c.wait.Go(c.client)
	}

	return c
}

func (c *crowd) client() {
	conn := &keepalive.Client{Addr: c.f.Addrs[0], Timeout: patience}
	defer conn.Close()
	worker := 0
	for !c.over.Load() {
		n := int(c.next.Add(1))
		kind := n % len(kinds)
		r := kinds[kind].request
		r.Target = fmt.Sprintf(r.Target, n)
		// Once more if the worker died that had it.
		var res keepalive.Response
		var err error
		for attempt := range 2 {
			again := len(conn.Retried)
			res, err = conn.Do(r)
			died := err != nil || len(conn.Retried) > again
			if died && worker != 0 && worker == int(c.victim.Load()) {
				c.note(func() { c.lost++ })
				worker = 0
			} else {
				c.note(func() { c.retried = append(c.retried, conn.Retried[again:]...) })
				attempt = 1
			}
			if err == nil || attempt == 1 {
				break
			}
		}
		if err == nil {
			worker, err = strconv.Atoi(res.Header.Get("X-Worker"))
		}
		c.note(func() {
			if err != nil {
				c.wrong = append(c.wrong, fmt.Sprintf("%s: %v", r.Target, err))
				return
			}
			c.replies[worker]++
			if !c.allowed(worker, kind, res.Status) || res.Status == 200 && string(res.Body) != "ok\n" {
				c.wrong = append(c.wrong, fmt.Sprintf("%s: %d, %q from worker %d", r.Target, res.Status, res.Body, worker))
			}
		})
	}
}

func (c *crowd) note(what func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	what()
}

// from is how many replies came from that worker.
func (c *crowd) from(worker int) (n int) {
	c.note(func() { n = c.replies[worker] })

	return n
}

// more waits for so many more replies of a worker.
func (c *crowd) more(t *testing.T, worker, n int) {
	t.Helper()
	n += c.from(worker)
	c.f.await(t, fmt.Sprintf("worker %d does not answer", worker), func() bool { return c.from(worker) >= n })
}

// end stops the clients and says what went wrong. A connection that nginx closes
// while a request is on its way is no loss; one that it closes on a request that
// it has got is, and the access log has that request twice.
func (c *crowd) end(t *testing.T) {
	t.Helper()
	c.over.Store(true)
	c.wait.Wait()
	for _, text := range c.wrong[:min(len(c.wrong), 10)] {
		t.Error(text)
	}
	// nginx logs a request when its answer is sent, and a worker that dies in between does not.
	times := make(map[string]int)
	c.f.await(t, "the access log has fewer requests than were answered", func() bool {
		log, err := os.ReadFile(filepath.Join(c.f.Dir, "requests.log"))
		if err != nil {
			t.Fatal(err)
		}
		clear(times)
		lines := 0
		for target := range strings.Lines(string(log)) {
			times[strings.TrimSuffix(target, "\n")]++
			lines++
		}

		return lines >= c.total()-c.lost
	})
	for _, target := range c.retried {
		if times[target] != 1 {
			t.Errorf("%s: nginx closed its connection and got it %d times, expected once", target, times[target])
		}
	}
}

func (c *crowd) total() (n int) {
	for _, replies := range c.replies {
		n += replies
	}

	return n
}

// usually is what the rules say that are there from the beginning.
func usually(_, kind, status int) bool { return status == kinds[kind].status }

// TestBurst sends many requests at once to a worker that has no instance yet.
func TestBurst(t *testing.T) {
	const requests, clients = 1000, 50
	f := protect(t, newOrigin(), setup{rules: `{}`})
	if cold := f.status(t); cold.Instances != 0 {
		t.Fatalf("%d instances before the first request", cold.Instances)
	}
	worker := f.worker(t)
	if err := process.ResetPeak(worker); err != nil {
		t.Fatal(err)
	}

	var mu sync.Mutex
	statuses := make(map[int]int)
	var took []time.Duration
	var next atomic.Int64
	var wait sync.WaitGroup
	begin := time.Now()
	for range clients {
		wait.Go(func() {
			conn := &keepalive.Client{Addr: f.Addrs[0], Timeout: patience}
			defer conn.Close()
			for n := int(next.Add(1)); n <= requests; n = int(next.Add(1)) {
				r := kinds[n%coupon].request
				r.Target = fmt.Sprintf(r.Target, n)
				sent := time.Now()
				res, err := conn.Do(r)
				mu.Lock()
				statuses[res.Status]++
				took = append(took, time.Since(sent))
				mu.Unlock()
				if err != nil {
					t.Errorf("%s: %v", r.Target, err)
				}
			}
		})
	}
	wait.Wait()
	whole := time.Since(begin)
	slices.Sort(took)
	now := f.status(t)
	peak, err := process.Peak(worker)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("burst: statuses %v in %v; half within %v, 99 %% within %v; %d instances of %d MB in all, worker of at most %d MB\n",
		statuses, whole.Round(time.Millisecond), took[len(took)/2].Round(time.Millisecond), took[len(took)*99/100].Round(time.Millisecond),
		now.Instances_started, now.Memory_bytes/mB, peak/kB)
	if statuses[200] != requests {
		t.Errorf("statuses %v, expected 200 for all of %d", statuses, requests)
	}
	if now.Instances_started < 1 || now.Instances_started > clients {
		t.Errorf("%d instances, expected 1 to %d", now.Instances_started, clients)
	}
	// docs/waf.md: up to 100 MB each. The code of the guest and nginx are the rest.
	if bound := 100*now.Instances_started + 80; peak > bound*kB {
		t.Errorf("the worker had %d MB with %d instances, expected up to %d MB", peak/kB, now.Instances_started, bound)
	}
	if now := f.worker(t); now != worker {
		t.Errorf("worker %d, expected %d", now, worker)
	}
}

// TestKilledWorker kills one of two workers under load: its requests are lost, and
// nothing else.
func TestKilledWorker(t *testing.T) {
	const clients = 12
	f := protect(t, newOrigin(), setup{rules: `{}`, workers: 2, http: "keepalive_requests 1000000;", alert: "exited on signal 9"})
	var before []int
	f.await(t, "not two workers", func() bool {
		before = process.Workers(f.Master())
		return len(before) == 2
	})
	c := f.load(clients, usually)
	var victim int
	f.await(t, "no replies", func() bool {
		for _, victim = range before {
			if c.from(victim) >= 50 {
				return true
			}
		}
		return false
	})
	c.victim.Store(int64(victim))
	if err := syscall.Kill(victim, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	var added int
	f.await(t, "no worker came for the one that was killed", func() bool {
		now := process.Workers(f.Master())
		for _, pid := range now {
			if !slices.Contains(before, pid) {
				added = pid
			}
		}
		return len(now) == 2 && added != 0
	})
	// New connections come to the new worker, sooner or later.
	f.await(t, "the new worker does not answer", func() bool {
		resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}).
			Do(f.request(t, 0, "GET", "/search?q=tea", nil))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Fatalf("status %d", resp.StatusCode)
		}
		return resp.Header.Get("X-Worker") == strconv.Itoa(added)
	})
	c.end(t)
	fmt.Printf("killed: %d requests answered, %d on connections of the killed worker, which had to be sent again; error_log says:\n",
		c.total(), c.lost)
	for _, line := range append(f.logged("exited on signal"), f.logged(fmt.Sprintf("start worker process %d", added))...) {
		fmt.Println("  " + line)
	}
	if c.lost < 1 || c.lost > clients {
		t.Errorf("%d requests were lost, expected 1 to %d", c.lost, clients)
	}
	if len(c.retried) > 0 {
		t.Errorf("other workers closed %d connections, first on %s", len(c.retried), c.retried[0])
	}
	if lines := f.logged(fmt.Sprintf("worker process %d exited on signal 9", victim)); len(lines) != 1 {
		t.Errorf("error_log has the end of the worker %d times, expected once", len(lines))
	}
}

// TestNewRules reloads a file with one more rule under load, and then a file that
// is wrong.
func TestNewRules(t *testing.T) {
	const (
		more  = `{"after": ["SecRule REQUEST_URI \"@beginsWith /coupon\" \"id:1000,phase:1,deny,status:403,msg:'No coupons'\""]}`
		wrong = `{"after": ["SecRule REQUEST_URI \"@rx (\" \"id:1000,phase:1,deny\""]}`
	)
	f := protect(t, newOrigin(), setup{rules: `{}`, alert: "waf.wasm"})
	old := f.worker(t)
	c := f.load(8, func(worker, kind, status int) bool {
		if kind == coupon && worker != old {
			return status == 403
		}
		return usually(worker, kind, status)
	})
	c.more(t, old, 50)

	f.write(t, "waf.json", more)
	begin := time.Now()
	f.signal(t, syscall.SIGHUP)
	f.await(t, "the old worker does not end", func() bool {
		all := process.All(f.Master())
		return len(all) == 1 && all[0] != old
	})
	took := time.Since(begin)
	added := f.worker(t)
	c.more(t, added, 50)

	f.write(t, "waf.json", wrong)
	f.signal(t, syscall.SIGHUP)
	reason := f.awaitLog(t, "[emerg]")
	c.more(t, added, 50)
	c.end(t)
	fmt.Printf("rules: %d requests answered by the old worker, %d by the new one; old one gone %v after the reload; a wrong file:\n  %s\n",
		c.replies[old], c.replies[added], took.Round(10*time.Millisecond), reason)
	if workers := process.All(f.Master()); !slices.Equal(workers, []int{added}) {
		t.Errorf("workers %v after a file that is wrong, expected %d as before", workers, added)
	}
	if len(f.logged(`msg="No coupons" rule="1000"`)) == 0 {
		t.Error("error_log has no line of the new rule")
	}
}

// TestFullDisk has no room for the compiled guest in the cache, and then some.
func TestFullDisk(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles the guest twice")
	}
	cache := t.TempDir()
	if err := os.Chmod(cache, 0o700); err != nil {
		t.Fatal(err)
	}
	free := fill(t, cache)
	f := protect(t, newOrigin(), setup{rules: `{}`, http: "http_wasm_cache_path " + cache + ";"})
	said := f.logged("cannot be written")
	fmt.Println("disk: error_log says:")
	for _, line := range said {
		fmt.Println("  " + line)
	}
	if len(said) != 1 || !strings.Contains(said[0], "[warn]") || !strings.Contains(said[0], cache) {
		t.Errorf("%d lines say what cannot be written, expected one warning", len(said))
	}
	if files := list(t, cache); len(files) > 0 {
		t.Errorf("the cache has %q, expected nothing", files)
	}

	c := f.load(8, usually)
	old := f.worker(t)
	c.more(t, old, 50)
	f.signal(t, syscall.SIGHUP)
	f.await(t, "the old worker does not end", func() bool {
		all := process.All(f.Master())
		return len(all) == 1 && all[0] != old
	})
	c.more(t, f.worker(t), 50)
	c.end(t)
	fmt.Printf("disk: %d requests answered before, while and after a reload with a full disk\n", c.total())

	free()
	for _, compiled := range []int{1, 0} {
		out := f.check(t)
		if strings.Contains(out, "is not used") || strings.Contains(out, "cannot be written") {
			t.Errorf("nginx -t says:\n%s", out)
		}
		if n := strings.Count(out, "compiled in"); n != compiled {
			t.Errorf("nginx -t has compiled %d guests, expected %d:\n%s", n, compiled, out)
		}
		if files := list(t, cache); len(files) != 1 || !strings.HasSuffix(files[0], ".cwasm") {
			t.Errorf("the cache has %q, expected one compiled guest", files)
		}
	}
}

// fill leaves no room in an empty directory, and returns what makes some.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m,mode=0700")
	if err == nil {
		t.Cleanup(func() {
			if err := syscall.Unmount(dir, 0); err != nil {
				t.Error(err)
			}
		})

		return func() {
			if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=512m,mode=0700"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !errors.Is(err, fs.ErrPermission) || os.Geteuid() == 0 {
		t.Skipf("no small disk: %v", err)
	}
	// Without the right to mount: a directory that cannot be written to.
	mode := func(mode fs.FileMode) {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
	}
	mode(0o500)

	return func() { mode(0o700) }
}

func list(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		names = append(names, entry.Name())
	}

	return names
}

// check is what nginx -t says, here and in error_log.
func (f *firewall) check(t *testing.T) string {
	t.Helper()
	binary, _ := nginxtest.Paths(t)
	before := len(f.ErrorLog())
	out, err := exec.Command(binary, "-t", "-p", f.Dir, "-c", "nginx.conf", "-e", "error.log").CombinedOutput()
	if err != nil {
		t.Errorf("nginx -t: %v\n%s", err, out)
	}

	return string(out) + f.ErrorLog()[before:]
}
