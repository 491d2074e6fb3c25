package soak

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
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

var (
	requests = flag.Int("requests", 1_000_000, "how many are sent before the reloads")
	reloads  = flag.Int("reloads", 100, "how often the configuration is reloaded under load")
	clients  = flag.Int("clients", 16, "how many send at once")
	seed     = flag.Uint64("seed", uint64(time.Now().UnixNano()), "of the mix")
)

// What may come on top of the figures before: of the worker after the first tenth of the requests, when not all eight
// instances of the Go guests need to have grown to their 6 MB, and in the second half; of the master after the first reload.
const (
	workerKB, workerHalfKB, workerMappings, workerDescriptors = 48 << 10, 16 << 10, 64, 40

	// Two descriptors are those of a worker that has ended and was not waited for yet.
	masterKB, masterMappings, masterDescriptors = 24 << 10, 8, 2
)

const patience = 30 * time.Second

// account is what became of the requests.
type account struct {
	mu                  sync.Mutex
	sent, right, left   map[string]int
	connections, losses int
	retried, examples   []string
}

func (a *account) lost(what string, why error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.losses++
	if len(a.examples) < 10 {
		a.examples = append(a.examples, fmt.Sprintf("%s: %v", what, why))
	}
}

// dropped finds the requests among those sent again that nginx did get the first time: it has logged them twice. A
// connection that nginx closes while a request is on its way is no loss, one that it closes on a request is.
func (a *account) dropped(t *testing.T, s *nginxtest.Server) {
	text, err := os.ReadFile(filepath.Join(s.Dir, "requests.log"))
	if err != nil {
		t.Error(err)
		return
	}
	times := make(map[string]int)
	for _, target := range a.retried {
		times[target] = 0
	}
	for line := range strings.Lines(string(text)) {
		target := strings.TrimSuffix(line, "\n")
		if n, ok := times[target]; ok {
			times[target] = n + 1
		}
	}
	for target, n := range times {
		if n != 1 {
			a.lost(target, fmt.Errorf("nginx closed its connection and got it %d times, expected once", n))
		}
	}
}

// serveBackend starts what locations proxy to, on a socket that is there before nginx starts.
func serveBackend(t *testing.T) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "backend.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(backend)}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })

	return socket
}

func TestSoak(t *testing.T) {
	files, conf, err := configuration(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}

	socket := serveBackend(t)
	conf = strings.Replace(conf, "${dir}/backend.sock", socket, 1)

	s := nginxtest.Start(t, nginxtest.Config{Ports: 1, Workers: 1, HTTP: conf, Files: files})
	a := &account{sent: make(map[string]int), right: make(map[string]int), left: make(map[string]int)}
	fmt.Printf("soak: seed %d, %d requests of %d clients to one worker, then %d reloads under load\n", *seed, *requests, *clients, *reloads)

	defer a.report(t, s)
	sent := a.mixed(t, s)
	a.reloaded(t, s, sent)
}

// report prints the account and judges it.
func (a *account) report(t *testing.T, s *nginxtest.Server) {
	a.dropped(t, s)
	for _, k := range kinds {
		fmt.Printf("soak: %8d %s: %d right, %d left\n", a.sent[k.name], k.name, a.right[k.name], a.left[k.name])
	}
	fmt.Printf("soak: %d requests lost; %d connections, %d requests sent again on another one because the server had closed an idle one\n",
		a.losses, a.connections, len(a.retried))
	if a.losses > 0 {
		t.Errorf("%d requests are lost:\n    %s", a.losses, strings.Join(a.examples, "\n    "))
	}
}

// mixed sends the requests and measures the worker on the way.
func (a *account) mixed(t *testing.T, s *nginxtest.Server) (sent int) {
	workers := a.workers(t, s)
	fmt.Println("soak: requests      worker: RSS    private  descriptors  mappings  threads")
	var first, half process.Size
	for _, percent := range []int{10, 50, 100} {
		until := *requests * percent / 100
		a.load(s, *clients, sent, func(n int) bool { return n < until })
		sent = until

		size := settled(t, workers[0])
		fmt.Printf("soak: %8d      %8d kB %8d kB %12d %9d %8d\n", sent, size.RSS, size.Private, size.Descriptors, size.Mappings, size.Threads)
		switch percent {
		case 10:
			first = size
		case 50:
			half = size
		case 100:
			grown(t, "worker after half of the requests", half, size, workerHalfKB, workerMappings, workerDescriptors)
		}
		grown(t, "worker", first, size, workerKB, workerMappings, workerDescriptors)
	}
	if now := process.Workers(s.Master()); !slices.Equal(now, workers) {
		t.Errorf("workers %v, expected %v", now, workers)
	}

	return sent
}

// reloaded reloads while the clients go on.
func (a *account) reloaded(t *testing.T, s *nginxtest.Server, sent int) {
	var over atomic.Bool
	var last atomic.Int64
	var wait sync.WaitGroup
	// Fewer clients: the compiler of the guests needs the machine too.
	wait.Go(func() {
		a.load(s, max(*clients/4, 1), sent, func(n int) bool {
			last.Store(int64(n))
			return !over.Load()
		})
	})
	defer func() {
		over.Store(true)
		wait.Wait()
	}()

	fmt.Println("soak:  reloads      master: RSS    private  descriptors  mappings  threads")
	var first process.Size
	begin := time.Now()
	for i := range *reloads {
		before := process.Workers(s.Master())
		if err := syscall.Kill(s.Master(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		await(t, fmt.Sprintf("reload %d: no new worker", i+1), func() bool {
			now := process.Workers(s.Master())
			return len(now) == 1 && !slices.Equal(now, before)
		})
		if n := i + 1; n == 1 || n == *reloads/10 || n == *reloads/2 || n == *reloads {
			// Old workers have descriptors in the master until they end.
			a.alone(t, s)
			size, err := process.SizeOf(s.Master())
			if err != nil {
				t.Fatal(err)
			}
			fmt.Printf("soak: %8d      %8d kB %8d kB %12d %9d %8d\n", n, size.RSS, size.Private, size.Descriptors, size.Mappings, size.Threads)
			if n == 1 {
				first = size
			}
			grown(t, "master", first, size, masterKB, masterMappings, masterDescriptors)
		}
	}
	took := time.Since(begin)
	over.Store(true)
	wait.Wait()
	a.alone(t, s)
	fmt.Printf("soak: %d requests during %d reloads, which took %v\n", int(last.Load())-sent, *reloads, took.Round(time.Second))
}

// alone waits until there is one worker and no old one.
func (a *account) alone(t *testing.T, s *nginxtest.Server) {
	t.Helper()
	await(t, "old workers do not end", func() bool { return len(process.All(s.Master())) == 1 })
}

// load sends requests from that number on, for as long as more says so.
func (a *account) load(s *nginxtest.Server, clients, from int, more func(n int) bool) {
	var next atomic.Int64
	next.Store(int64(from))
	var wait sync.WaitGroup
	for range clients {
		wait.Go(func() {
			c := &keepalive.Client{Addr: s.Addrs[0], Timeout: patience}
			sent, right, left := make(map[string]int), make(map[string]int), make(map[string]int)
			for {
				n := int(next.Add(1) - 1)
				if !more(n) {
					break
				}
				random := rand.New(rand.NewPCG(*seed, uint64(n)))
				k := choose(random)
				sent[k.name]++
				switch gone, err := k.once(c, random, n, s.Addrs[0]); {
				case err != nil:
					a.lost(fmt.Sprintf("%s, request %d", k.name, n), err)
				case gone:
					left[k.name]++
				default:
					right[k.name]++
				}
			}
			c.Close()

			a.mu.Lock()
			defer a.mu.Unlock()
			for _, k := range kinds {
				a.sent[k.name] += sent[k.name]
				a.right[k.name] += right[k.name]
				a.left[k.name] += left[k.name]
			}
			a.connections += c.Connections
			a.retried = append(a.retried, c.Retried...)
		})
	}
	wait.Wait()
}

func choose(random *rand.Rand) *kind {
	at := random.IntN(1000)
	for i := range kinds {
		if at -= kinds[i].share; at < 0 {
			return &kinds[i]
		}
	}
	panic("the shares are fewer than 1000")
}

// once also says whether the client went away, as it was to.
func (k *kind) once(c *keepalive.Client, random *rand.Rand, n int, addr string) (gone bool, err error) {
	r := k.request(random, n)
	if k.abort != nil {
		leaving := &keepalive.Client{Addr: addr, Timeout: patience}
		defer leaving.Close()

		return true, leaving.Send(r, k.abort(random, len(r.Bytes())-len(r.Body), len(r.Body)))
	}

	res, err := c.Do(r)
	if err != nil {
		return false, err
	}

	return false, k.check(r, res)
}

func (a *account) workers(t *testing.T, s *nginxtest.Server) []int {
	t.Helper()
	var workers []int
	await(t, "no worker", func() bool {
		workers = process.Workers(s.Master())
		return len(workers) == 1
	})

	return workers
}

// settled measures a worker when the last clients that went away are cleared away: twice the same.
func settled(t *testing.T, pid int) process.Size {
	t.Helper()
	var size process.Size
	await(t, "the worker does not come to rest", func() bool {
		now, err := process.SizeOf(pid)
		if err != nil {
			t.Fatalf("the worker is gone: %v", err)
		}
		same := now == size
		size = now

		return same
	})

	return size
}

func grown(t *testing.T, who string, first, now process.Size, kb, mappings, descriptors int) {
	t.Helper()
	for _, check := range []struct {
		what          string
		was, is, more int
	}{
		{"kB of private memory", first.Private, now.Private, kb},
		{"mappings", first.Mappings, now.Mappings, mappings},
		{"descriptors", first.Descriptors, now.Descriptors, descriptors},
		{"threads", first.Threads, now.Threads, 0},
	} {
		if check.is > check.was+check.more {
			t.Errorf("the %s has %d %s, expected up to %d: it had %d", who, check.is, check.what, check.was+check.more, check.was)
		}
	}
}

// await polls until it is so. Guests are compiled at each reload, which takes minutes on a machine that is busy enough.
func await(t *testing.T, otherwise string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Minute); !so(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(otherwise)
		}
	}
}
