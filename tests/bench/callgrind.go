package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// canCallgrind is whether instructions can be counted where perf cannot. It takes no notice of what else a machine
// does, so it tells peers apart that differ by less than the machine's noise.
var canCallgrind = func() bool {
	_, err := exec.LookPath("valgrind")
	return err == nil
}()

// counted is whether a peer's instructions can be: the reference host is a Go program, which valgrind is not made for.
func (c *Cell) counted() bool {
	return canCallgrind && !countsInstructions && c.Peer.Kind != referenceHost
}

// requests are those that warm a server up, and those that are counted: few where each takes millions of instructions.
func (c *Cell) requests() (warm, counted int) {
	if c.Job.Conns > 0 {
		return 5, 20
	}

	return 200, 1000
}

// countAll counts the instructions of cells, as many at a time as there are CPUs: counts do not depend on what else runs.
func (b *bed) countAll(cells []*Cell) error {
	var wait sync.WaitGroup
	places := make(chan int, runtime.NumCPU())
	for i := range cap(places) {
		places <- i
	}
	failed := make([]error, len(cells))
	for i, c := range cells {
		place := <-places
		port, err := freePort()
		if err != nil {
			return err
		}
		wait.Go(func() {
			defer func() { places <- place }()
			c.instructions, failed[i] = b.instructions(c, b.s.Module, fmt.Sprintf("callgrind-%d", place), port)
		})
	}
	wait.Wait()

	return errors.Join(failed...)
}

// instructions are those of one request in user space, by callgrind, with a build of our module.
func (b *bed) instructions(c *Cell, module, place string, port int) (float64, error) {
	warm, counted := c.requests()
	sum, err := b.callgrind(c, module, filepath.Join(b.s.Dir, place), port, warm, counted)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", c, err)
	}

	return float64(sum) / float64(counted), nil
}

// callgrind runs one nginx with one peer; the instructions of the requests that are counted.
func (b *bed) callgrind(c *Cell, module, prefix string, port, warm, counted int) (int64, error) {
	if err := os.RemoveAll(prefix); err != nil {
		return 0, err
	}
	if err := os.MkdirAll(prefix, 0o755); err != nil {
		return 0, err
	}
	if err := os.Symlink(filepath.Join(b.s.Dir, "www"), filepath.Join(prefix, "www")); err != nil {
		return 0, err
	}
	// As the timed one, but for what only many connections need. There is not much room for reserved addresses.
	s := *b.s
	s.Module = module
	conf := nginxConf(&s, c.Peer.Kind, b.up, b.block(c, port, c.Job.Content))
	conf = "master_process off;\n" + strings.Replace(conf, connections(b.s), "worker_connections 64;", 1)
	if c.Peer.Kind == ours {
		conf = strings.Replace(conf, "http {\n", "http {\n    http_wasm_instances 4;\n    http_wasm_cache_path cache;\n", 1)
	}
	file, out := filepath.Join(prefix, "nginx.conf"), filepath.Join(prefix, "callgrind.out.")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		return 0, err
	}
	server := &Server{name: "valgrind", log: new(bytes.Buffer)}
	server.cmd = pinned(everyCPU, "valgrind", "--tool=callgrind", "--instr-atstart=no", "--callgrind-out-file="+out+"%p",
		"--smc-check=all-non-file", b.s.Nginx, "-p", prefix, "-c", file, "-e", filepath.Join(prefix, "error.log"))
	server.cmd.Stdout, server.cmd.Stderr = server.log, server.log
	if err := server.start(port); err != nil {
		return 0, err
	}
	pid := strconv.Itoa(server.cmd.Process.Pid)
	client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1, DisableCompression: true}, Timeout: time.Minute}
	err := errors.Join(get(client, port, c.Job, warm), switchCounting("on", pid), get(client, port, c.Job, counted),
		switchCounting("off", pid))
	client.CloseIdleConnections()
	terminate(server, port)
	if err != nil {
		return 0, err
	}

	// Children that compile a guest leave files of their own.
	return total(out + pid)
}

// switchCounting tells a callgrind whether to count from now on.
func switchCounting(onOrOff, pid string) error {
	if out, err := exec.Command("timeout", "60", "callgrind_control", "-i", onOrOff, pid).CombinedOutput(); err != nil ||
		!bytes.Contains(out, []byte("OK")) {
		return fmt.Errorf("callgrind_control -i %s: %w\n%s", onOrOff, err, out)
	}

	return nil
}

// terminate ends an nginx under valgrind, which hands over signals on the way into a system call: nginx then waits for an
// event before it notices.
func terminate(server *Server, port int) {
	_ = server.cmd.Process.Signal(syscall.SIGTERM)
	for range 100 {
		time.Sleep(20 * time.Millisecond)
		c, err := net.Dial("tcp4", "127.0.0.1:"+strconv.Itoa(port))
		if err != nil {
			break
		}
		c.Close()
	}
	server.stop()
}

func get(client *http.Client, port int, job *Job, requests int) error {
	for range requests {
		method, body := http.MethodGet, io.Reader(nil)
		if job.Post > 0 {
			method, body = http.MethodPost, bytes.NewReader(requestBody(job.Post))
		}
		r, err := http.NewRequest(method, "http://127.0.0.1:"+strconv.Itoa(port)+job.Path, body)
		if err != nil {
			return err
		}
		for name, value := range requestHeaders {
			r.Header.Set(name, value)
		}
		reply, err := client.Do(r)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, reply.Body)
		reply.Body.Close()
		if err != nil || reply.StatusCode != http.StatusOK {
			return fmt.Errorf("status %d, %v", reply.StatusCode, err)
		}
	}

	return nil
}

// total is the sum of a finished run.
func total(file string) (int64, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if sum, found := strings.CutPrefix(line, "totals: "); found {
			return strconv.ParseInt(strings.TrimSpace(sum), 10, 64)
		}
	}

	return 0, fmt.Errorf("%s has no totals", file)
}
