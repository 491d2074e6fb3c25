// Package chaos lets clients of all sorts loose on guests of all sorts: many go away, send nonsense or read nothing, while
// the configuration is reloaded and nginx restarted and upgraded. Who stays gets what is right.
package chaos

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
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
	seed     = flag.Uint64("seed", uint64(time.Now().UnixNano()), "of everything that is chosen")
	duration = flag.Duration("time", time.Minute, "how long it goes on")
	clients  = flag.Int("clients", 24, "how many there are at a time")
	patience = flag.Duration("patience", 20*time.Second, "for one request")
	pattern  = flag.String("cells", "", "what is asked for, as in the matrix")
	calm     = flag.Bool("calm", false, "nginx is left alone")
)

const workers = 2

// What servers say instead of nginx's own pages; each has one of these. None passes the request's body on: where nginx has
// refused it, or has streamed it to another upstream before, it would announce a body that does not come.
var pages = []string{
	"",
	"error_page 400 404 405 413 414 416 500 502 503 /internal/large.txt;",
	"error_page 400 404 413 500 502 503 = @bodiless;",
	"error_page 400 413 500 502 503 504 /internal/proxy;",
	"error_page 400 404 500 502 503 =200 /static-small/small.txt;",
}

type storm struct {
	asker  *cell.Asker
	server *nginxtest.Server
	cells  []cell.Cell
	// redirecting are the servers that have error pages.
	redirecting map[string]bool
	began       time.Time
	over        atomic.Bool
	// turn is odd while something is done to nginx, and never the same again.
	turn atomic.Int64

	mu       sync.Mutex
	counts   map[string]int
	failures []string
}

func TestChaos(t *testing.T) {
	only, err := regexp.Compile(*pattern)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("chaos: seed %d, %v, %d clients\n", *seed, *duration, *clients)
	s := &storm{redirecting: make(map[string]bool), counts: make(map[string]int)}
	st := site.New(t, "1ms", func(i int) string {
		if i == 0 {
			return "        location = /status { http_wasm_status; }\n        location = /connections { stub_status; }\n"
		}
		if page := pages[i%len(pages)]; page != "" {
			s.redirecting[site.Servers[i-1].Name] = true
			return "        " + page + "\n"
		}
		return ""
	})
	// Any guest may use up a slice of that length, and gives way to others then.
	st.Config.Workers, st.Config.Detached = workers, true
	// What nginx hands to its successor.
	st.Config.Main = "env ASAN_OPTIONS; env LSAN_OPTIONS; env PATH;"
	s.server = nginxtest.Start(t, st.Config)
	s.asker = cell.NewAsker(cell.Environment{Addrs: s.server.Addrs, Patience: *patience, Site: st})
	// Entries that have expired are used up too soon, and QUIC does not come through a reload. nginx itself sends the body
	// after the page about a condition when that page can not leave at once.
	for _, c := range cell.All(only, false) {
		if !c.Source.Stale && !strings.HasPrefix(c.Client.Name, "if-match") {
			s.cells = append(s.cells, c)
		}
	}
	if err := errors.Join(s.asker.Prepare(s.cells), s.asker.Learn(s.cells)); err != nil {
		t.Fatal(err)
	}

	s.began = time.Now()
	time.AfterFunc(*duration, func() { s.over.Store(true) })
	var wait sync.WaitGroup
	for i := range *clients {
		wait.Go(func() { s.client(rand.New(rand.NewPCG(*seed, uint64(i)))) })
	}
	if !*calm {
		wait.Go(func() { s.operator(rand.New(rand.NewPCG(*seed, 1<<32))) })
	}
	wait.Wait()
	fmt.Printf("chaos: over after %v\n", time.Since(s.began).Round(time.Second))

	if err := s.rest(); err != nil {
		s.failed("at the end: %v", err)
	}
	// An end without haste: a worker says then what it has left open.
	if err := s.server.Restart(); err != nil {
		s.failed("at the end: %v", err)
	}
	s.report(t)
}

func (s *storm) client(random *rand.Rand) {
	for !s.over.Load() {
		if random.IntN(100) < 50 {
			s.stay(s.cell(random))
			continue
		}
		r := rudeness[random.IntN(len(rudeness))]
		s.count(r.name)
		if err := r.act(s, random); err != nil {
			s.failed("%s: %v", r.name, err)
		}
	}
}

func (s *storm) cell(random *rand.Rand) cell.Cell { return s.cells[random.IntN(len(s.cells))] }

// stay asks and waits for what comes.
func (s *storm) stay(c cell.Cell) {
	for end := time.Now().Add(6 * *patience); ; {
		turn := s.turn.Load()
		o := s.asker.Ask(c, true)
		undisturbed := s.undisturbed(turn)
		// Not even a start of it: nginx was not there, or closed a connection that it had not looked at yet.
		nothing := errors.Is(o.Reply.Err, wire.ErrClosed) || unconnected(o.Reply.Err)
		// Requests that nginx has not read when it closes reset the connection, with what is on its way.
		nothing = nothing || errors.Is(o.Reply.Err, wire.ErrTruncated) && strings.HasPrefix(c.Client.Name, "pipelined")
		switch {
		case len(o.Diffs) == 0:
			s.count("stayed: right")
		case nothing && !undisturbed && time.Now().Before(end):
			s.count("stayed: asked again")
			time.Sleep(10 * time.Millisecond)
			continue
		case o.Ends && !undisturbed, s.redirected(c) && whole(c, o):
			s.count("stayed: right")
		default:
			s.failed("%s: %s\n    got %v\n    without a guest %v", c.Name(), strings.Join(o.Diffs, "; "), o.Reply.Answer, s.asker.Plain(c))
		}
		return
	}
}

// unconnected says whether nginx did not listen, or ended before it took the connection.
func unconnected(err error) bool {
	var op *net.OpError

	return errors.As(err, &op) && op.Op == "dial" && (errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET))
}

// undisturbed says whether nothing was done to nginx since that turn.
func (s *storm) undisturbed(turn int64) bool { return turn%2 == 0 && turn == s.turn.Load() }

// redirected says whether an error page of the server may be the answer.
func (s *storm) redirected(c cell.Cell) bool {
	return s.redirecting[c.Server.Name] && (c.Fails() || c.Source.Cut || c.Source.Tags == "too large" || s.asker.Plain(c).Status >= 400)
}

// whole says whether an answer is one, whatever it says.
func whole(c cell.Cell, o cell.Outcome) bool {
	if o.Reply.Next != nil && !errors.Is(o.Reply.Next, wire.ErrClosed) {
		return false
	}

	return o.Reply.Err == nil || errors.Is(o.Reply.Err, wire.ErrClosed) && c.Fails()
}

// operator reloads, restarts and upgrades, one after the other.
func (s *storm) operator(random *rand.Rand) {
	for !s.over.Load() {
		time.Sleep(time.Duration(100+random.IntN(900)) * time.Millisecond)
		what := []string{"reload", "reload", "reload", "restart", "upgrade", "upgrade taken back"}[random.IntN(6)]
		s.turn.Add(1)
		began := time.Now()
		var err error
		switch what {
		case "reload":
			old := process.Workers(s.server.Master())
			err = syscall.Kill(s.server.Master(), syscall.SIGHUP)
			if err == nil {
				err = until("no new worker", func() bool {
					now := process.Workers(s.server.Master())
					return len(now) == workers && !slices.ContainsFunc(now, func(pid int) bool { return slices.Contains(old, pid) })
				})
			}
		case "restart":
			err = s.server.Restart()
		default:
			err = s.server.Upgrade(what != "upgrade")
		}
		if err == nil {
			err = until("old workers do not end", func() bool { return len(process.All(s.server.Master())) == workers })
		}
		s.turn.Add(1)
		s.count(what)
		fmt.Printf("chaos: at %v: %s, took %v\n", began.Sub(s.began).Round(time.Millisecond), what, time.Since(began).Round(time.Millisecond))
		if err != nil {
			s.failed("%s: %v", what, err)
			return
		}
	}
}

// rest waits until nobody is served any more.
func (s *storm) rest() error {
	var why string
	err := until("nginx does not come to rest", func() bool {
		why = s.busy()
		return why == ""
	})
	if err != nil {
		return fmt.Errorf("%w: %s", err, why)
	}

	return nil
}

var active = regexp.MustCompile(`Active connections: (\d+)`)

// busy says what nginx has to do beside telling that.
func (s *storm) busy() string {
	if err := s.asker.Alive(); err != nil {
		return err.Error()
	}
	connections := s.asker.Get("/connections")
	if m := active.FindSubmatch(connections.Body); m == nil || string(m[1]) != "1" {
		return fmt.Sprintf("connections: %v", connections)
	}
	status := s.asker.Get("/status?format=prometheus")
	if status.Status != 200 {
		return fmt.Sprintf("status: %v", status)
	}
	for line := range strings.Lines(string(status.Body)) {
		if strings.HasPrefix(line, "http_wasm_requests_in_flight{") || strings.HasPrefix(line, "http_wasm_requests_waiting{") {
			fields := strings.Fields(line)
			if n, err := strconv.ParseFloat(fields[len(fields)-1], 64); err != nil || n != 0 {
				return strings.TrimSpace(line)
			}
		}
	}
	if now := process.All(s.server.Master()); len(now) != workers {
		return fmt.Sprintf("%d workers", len(now))
	}

	return ""
}

func until(otherwise string, so func() bool) error {
	limit := 6 * *patience
	for deadline := time.Now().Add(limit); !so(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("%s, after %v", otherwise, limit)
		}
	}

	return nil
}

func (s *storm) count(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[what]++
}

func (s *storm) failed(format string, values ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts["FAILED"]++
	s.failures = append(s.failures, fmt.Sprintf(format, values...))
}

var digits = regexp.MustCompile(`[0-9]+`)

func (s *storm) report(t *testing.T) {
	var names []string
	for name := range s.counts {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Printf("chaos: %8d  %s\n", s.counts[name], name)
	}
	for i, f := range s.failures {
		if i == 20 {
			fmt.Printf("chaos: … and %d more\n", len(s.failures)-i)
			break
		}
		fmt.Printf("chaos: FAILED %s\n", f)
	}
	died := 0
	for line := range strings.Lines(s.server.ErrorLog()) {
		if strings.Contains(line, "exited on signal") {
			died++
		}
	}
	if died > 0 {
		t.Errorf("%d processes died of a signal", died)
	}
	if len(s.failures) > 0 {
		t.Errorf("%d failures; again: t/chaos/run.sh -seed %d -time %v NGINX MODULE", len(s.failures), *seed, *duration)
	}
}
