package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Kind is a server that peers run on: each loads what its peers need and nothing else.
type Kind int

// The servers.
const (
	plain Kind = iota
	plainAgain
	nativeModule
	ours
	luaModule
	njsModule
	referenceHost
	corazaServer
	modSecurity
)

func (k Kind) name() string {
	return [...]string{"nginx", "nginx-again", "native", "ours", "lua", "njs", "reference", "coraza", "modsecurity"}[k]
}

// modules are the lines at the top and inside the http block.
func (k Kind) modules(s *Settings) (top, http string) {
	const debian = "/usr/lib/nginx/modules/"
	switch k {
	case nativeModule:
		return "load_module " + s.Native + ";\n", ""
	case ours:
		return "load_module " + s.Module + ";\n", ""
	case luaModule:
		return "load_module " + debian + "ndk_http_module.so;\nload_module " + debian + "ngx_http_lua_module.so;\n", ""
	case njsModule:
		return "load_module " + debian + "ngx_http_js_module.so;\n",
			"js_import bench from " + s.Dir + "/bench.js;\njs_set $client bench.header;\njs_set $rest bench.rest;\njs_var $parts;\n"
	case modSecurity:
		return "load_module " + debian + "ndk_http_module.so;\nload_module " + debian + "ngx_http_modsecurity_module.so;\n", ""
	default:
		return "", ""
	}
}

// Cell is one peer doing one job: two ports of its server, one to be timed and one where answers are looked at.
type Cell struct {
	Job            *Job
	Peer           *Peer
	Timed, Checked int
	server         *Server
	dir            string
	samples        []Sample
	// instructions of one request, by callgrind; 0 where perf counts them or nobody does.
	instructions float64
}

func (c *Cell) String() string { return c.Job.Key + ", " + c.Peer.Name }

// Server is one process that serves, on a core of its own.
type Server struct {
	name string
	cmd  *exec.Cmd
	log  *bytes.Buffer
	// pid is the process that works: nginx's worker.
	pid    int
	errors string
}

var nextPort = 18000

// freePort gives a port below those that the system hands out to clients.
func freePort() (int, error) {
	for nextPort < 32000 {
		nextPort++
		l, err := net.Listen("tcp4", "127.0.0.1:"+strconv.Itoa(nextPort))
		if err == nil {
			l.Close()
			return nextPort, nil
		}
	}

	return 0, fmt.Errorf("no port below 32000 is free")
}

// upstreams are where locations proxy to.
type upstreams struct{ quick, echo, slow string }

// location is one server block with one location.
func location(port int, conf, content, extra string) string {
	return fmt.Sprintf("    server {\n        listen 127.0.0.1:%d backlog=16384;\n        location / {\n            %s\n            %s\n        }\n        %s\n    }\n",
		port, conf, content, extra)
}

// connections of a server. A third of them stays free: nginx closes idle ones when there are few left.
func connections(s *Settings) string {
	return "worker_connections " + strconv.Itoa(3*s.maxInFlight()+512) + ";"
}

// nginxConf is everything around the server blocks.
func nginxConf(s *Settings, kind Kind, up upstreams, blocks string) string {
	user := ""
	if os.Getuid() == 0 {
		user = "user root;\n"
	}
	top, inside := kind.modules(s)
	conf := top + user + `worker_processes 1;
daemon off;
pid nginx.pid;
error_log error.log warn;
events { ` + connections(s) + ` }
http {
    access_log off;
    default_type text/plain;
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_read_timeout 600s;
    client_max_body_size 0;
    client_body_buffer_size 2m;
    large_client_header_buffers 8 64k;
    open_file_cache max=100;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
`
	for name, address := range map[string]string{"quick": up.quick, "echo": up.echo, "slow": up.slow} {
		if address != "" {
			conf += fmt.Sprintf("    upstream %s { server %s; keepalive 64; }\n", name, address)
		}
	}

	return conf + inside + blocks + "}\n"
}

// startNginx runs one nginx with a prefix of its own, on a core, and waits until its ports answer.
func startNginx(s *Settings, name string, cpu int, conf string, port int) (*Server, error) {
	prefix := filepath.Join(s.Dir, name)
	if err := os.RemoveAll(prefix); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(prefix, 0o755); err != nil {
		return nil, err
	}
	if err := os.Symlink(filepath.Join(s.Dir, "www"), filepath.Join(prefix, "www")); err != nil {
		return nil, err
	}
	file := filepath.Join(prefix, "nginx.conf")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		return nil, err
	}
	server := &Server{name: name, log: new(bytes.Buffer), errors: filepath.Join(prefix, "error.log")}
	server.cmd = pinned(cpu, s.Nginx, "-p", prefix, "-c", file, "-e", server.errors)
	server.cmd.Stdout, server.cmd.Stderr = server.log, server.log
	if err := server.start(port); err != nil {
		return nil, err
	}
	// The master listens before it forks.
	children := ""
	for range 5000 {
		var err error
		if children, err = server.children(); err != nil {
			return nil, err
		}
		if children != "" {
			break
		}
		time.Sleep(time.Millisecond)
	}
	var err error
	if server.pid, err = strconv.Atoi(children); err != nil {
		server.stop()
		return nil, fmt.Errorf("%s: one worker expected, found %q", name, children)
	}

	return server, nil
}

// children are the process ids of a master's workers.
func (s *Server) children() (string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", s.cmd.Process.Pid))
	return strings.TrimSpace(string(text)), err
}

// startSelf runs this program with a subcommand, which gets its orders on its standard input.
func startSelf(s *Settings, cpu int, subcommand string, orders any, port int) (*Server, error) {
	text, err := json.Marshal(orders)
	if err != nil {
		return nil, err
	}
	server := &Server{name: subcommand, log: new(bytes.Buffer)}
	server.cmd = pinned(cpu, s.self, subcommand)
	server.cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	server.cmd.Stdin = bytes.NewReader(text)
	server.cmd.Stdout, server.cmd.Stderr = server.log, server.log
	if err := server.start(port); err != nil {
		return nil, err
	}
	server.pid = server.cmd.Process.Pid

	return server, nil
}

func (s *Server) start(port int) error {
	if err := s.cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- s.cmd.Wait() }()
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); {
		select {
		case err := <-ended:
			return fmt.Errorf("%s did not start: %v\n%s", s.name, err, s.log)
		case <-time.After(time.Millisecond):
		}
		c, err := net.Dial("tcp4", "127.0.0.1:"+strconv.Itoa(port))
		if err == nil {
			c.Close()
			return nil
		}
	}
	s.stop()

	return fmt.Errorf("%s does not answer on port %d\n%s", s.name, port, s.log)
}

func (s *Server) stop() {
	if s != nil && s.cmd.Process != nil {
		_ = s.cmd.Process.Signal(syscall.SIGTERM)
		for range 1000 {
			if s.cmd.Process.Signal(syscall.Signal(0)) != nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		_ = s.cmd.Process.Kill()
	}
}

// complaints are lines of the error log that nothing here should cause.
func (s *Server) complaints() string {
	text, err := os.ReadFile(s.errors)
	if s.errors == "" || err != nil {
		return ""
	}
	var found []string
	for line := range strings.Lines(string(text)) {
		for _, level := range []string{"[error]", "[crit]", "[alert]", "[emerg]"} {
			if strings.Contains(line, level) && len(found) < 5 {
				found = append(found, strings.TrimSpace(line))
			}
		}
	}

	return strings.Join(found, "\n")
}

// cpuNanos is the time that all threads of the process have been on a core.
func (s *Server) cpuNanos() (int64, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", s.pid))
	if err != nil || len(files) == 0 {
		return 0, fmt.Errorf("%s is gone: %v\n%s\n%s", s.name, err, s.log, s.complaints())
	}
	var sum int64
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // a thread that has ended
		}
		first, _, _ := strings.Cut(string(text), " ")
		nanos, err := strconv.ParseInt(first, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", file, err)
		}
		sum += nanos
	}

	return sum, nil
}

// Memory is what a process costs the machine, in kilobytes: pages that are its own, and page tables. RSS counts pages
// that it shares, too.
type Memory struct{ Private, Tables, RSS int }

func (m Memory) total() int { return m.Private + m.Tables }

func (s *Server) memory() (Memory, error) { return memoryOf(s.pid) }

func memoryOf(pid int) (Memory, error) {
	var m Memory
	rollup, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return m, err
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return m, err
	}
	for line := range strings.Lines(string(rollup) + string(status)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		value, _ := strconv.Atoi(fields[1])
		switch fields[0] {
		case "Private_Clean:", "Private_Dirty:":
			m.Private += value
		case "VmPTE:":
			m.Tables += value
		case "VmRSS:":
			m.RSS += value
		}
	}

	return m, nil
}
