package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Requests of the two runs whose difference is counted: what starting costs is in both.
const fewRequests, manyRequests = 200, 1200

// canCallgrind is whether instructions can be counted where perf cannot. It takes no notice of what else a machine
// does, so it tells peers apart that differ by less than the machine's noise.
var canCallgrind = func() bool {
	_, err := exec.LookPath("valgrind")
	return err == nil
}()

// counted is whether a peer's instructions can be: an nginx, and with no guest that takes minutes to compile there.
func (c *Cell) counted() bool {
	return canCallgrind && !countsInstructions && c.Job.Fine && c.Peer.Kind != referenceHost && c.Peer.Name != oursGo
}

// instructions are those of one request in user space, by callgrind.
func (b *bed) instructions(c *Cell) (float64, error) {
	few, err := b.callgrind(c, fewRequests)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", c, err)
	}
	many, err := b.callgrind(c, manyRequests)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", c, err)
	}

	return float64(many-few) / (manyRequests - fewRequests), nil
}

// callgrind runs one nginx with one peer for a number of requests; the instructions of its whole life.
func (b *bed) callgrind(c *Cell, requests int) (int64, error) {
	port, err := freePort()
	if err != nil {
		return 0, err
	}
	prefix := filepath.Join(b.s.Dir, "callgrind")
	if err := os.RemoveAll(prefix); err != nil {
		return 0, err
	}
	if err := os.MkdirAll(prefix, 0o755); err != nil {
		return 0, err
	}
	// As the timed one, but for what only many connections need. There is not much room for reserved addresses.
	conf := nginxConf(b.s, c.Peer.Kind, b.up, b.block(c, port, c.Job.Content))
	conf = "master_process off;\n" + strings.Replace(conf, connections(b.s), "worker_connections 64;", 1)
	if c.Peer.Kind == ours {
		conf = strings.Replace(conf, "http {\n", "http {\n    http_wasm_instances 4;\n", 1)
	}
	file, out := filepath.Join(prefix, "nginx.conf"), filepath.Join(prefix, "callgrind.out.")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		return 0, err
	}
	server := &Server{name: "valgrind", log: new(bytes.Buffer)}
	server.cmd = pinned(everyCPU, "valgrind", "--tool=callgrind", "--callgrind-out-file="+out+"%p", "--smc-check=all-non-file",
		b.s.Nginx, "-p", prefix, "-c", file, "-e", filepath.Join(prefix, "error.log"))
	server.cmd.Stdout, server.cmd.Stderr = server.log, server.log
	if err := server.start(port); err != nil {
		return 0, err
	}
	client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1, DisableCompression: true}, Timeout: time.Minute}
	err = get(client, port, c.Job, requests)
	client.CloseIdleConnections()
	terminate(server, port)
	if err != nil {
		return 0, err
	}

	// Children that compile a guest leave files of their own.
	return total(out + strconv.Itoa(server.cmd.Process.Pid))
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
		r, err := http.NewRequest(http.MethodGet, "http://127.0.0.1:"+strconv.Itoa(port)+job.Path, nil)
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
