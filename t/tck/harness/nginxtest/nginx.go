// Package nginxtest runs an nginx with the http-wasm module for the length of
// one Go test.
package nginxtest

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	// A guest is compiled before nginx listens; a debug build of the module
	// takes several seconds for a Go guest.
	startTimeout = 2 * time.Minute
	stopTimeout  = 10 * time.Second
)

// Config is what a test asks of nginx. In both texts ${dir} stands for the
// directory nginx runs in and ${addr0}, ${addr1}, … for Ports free addresses
// of 127.0.0.1.
type Config struct {
	Ports int
	// Workers is their number, 2 if it is 0.
	Workers int
	// Main goes to the main level of nginx.conf.
	Main string
	// HTTP goes into the http block.
	HTTP string
	// Alert is part of the alerts that the test itself causes.
	Alert string
	// Files are written to ${dir} before nginx starts.
	Files map[string][]byte
	// Detached starts nginx without a parent: it takes USR2 for a start of its own otherwise. Restart and Upgrade need it.
	Detached bool
}

// Server is a running nginx.
type Server struct {
	Dir   string
	Addrs []string

	alert string
	cmd   *exec.Cmd
	done  chan struct{}
	once  sync.Once
	// launch starts another detached nginx for each line, and ends all of them when it is closed.
	launch io.WriteCloser
}

// For each line of its input it starts the command that it is given, by a shell that leaves when nginx has noticed its
// parent. All belong to its process group.
const launcher = `while read -r line; do
	sh -c '"$0" "$@" & while [ ! -s nginx.pid ] && kill -0 $!; do sleep 0.01; done' "$0" "$@" </dev/null
done
trap '' TERM
kill -TERM -- -$$`

// Paths are the nginx binary and the module under test, from the environment.
// The test is skipped when they are not given.
func Paths(t testing.TB) (binary, module string) {
	t.Helper()

	binary, module = os.Getenv("TEST_NGINX_BINARY"), os.Getenv("TEST_NGINX_MODULE")
	if binary == "" || module == "" {
		t.Skip("set TEST_NGINX_BINARY and TEST_NGINX_MODULE to test an nginx")
	}

	module, err := filepath.Abs(module)
	if err != nil {
		t.Fatal(err)
	}

	return binary, module
}

var versionText = regexp.MustCompile(`nginx/(\d+)\.(\d+)\.(\d+)`)

// Version asks the binary, as one number: 1.22.1 is 1022001.
func Version(binary string) (int, error) {
	out, err := exec.Command(binary, "-v").CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("%s -v: %w", binary, err)
	}

	m := versionText.FindSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("%s -v: no version in %q", binary, out)
	}

	n := 0
	for _, part := range m[1:] {
		v, err := strconv.Atoi(string(part))
		if err != nil {
			return 0, err
		}
		n = n*1000 + v
	}

	return n, nil
}

// Start runs nginx until the end of the test and returns when it accepts
// connections. An alert in its error log fails the test.
func Start(t testing.TB, c Config) *Server {
	t.Helper()

	binary, module := Paths(t)

	// Another process may take a port between its choice here and nginx's bind.
	for attempt := 0; ; attempt++ {
		s, err := start(t, binary, module, c)
		if err == nil {
			t.Cleanup(func() { s.Stop(t) })
			return s
		}

		if attempt == 3 || !strings.Contains(err.Error(), "Address already in use") {
			t.Fatal(err)
		}
	}
}

func start(t testing.TB, binary, module string, c Config) (*Server, error) {
	addrs, err := freeAddrs(c.Ports)
	if err != nil {
		return nil, err
	}

	s := &Server{Dir: t.TempDir(), Addrs: addrs, alert: c.Alert, done: make(chan struct{})}

	// The workers of an nginx started by root run as root too: the directory
	// of the test is closed to everybody else.
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;"
	}

	conf := s.expand(fmt.Sprintf(`load_module %s;
%s
daemon off;
worker_processes %d;
pid ${dir}/nginx.pid;
error_log ${dir}/error.log info;
%s
events {
    worker_connections 512;
}
http {
    access_log off;
    client_body_temp_path ${dir}/client_body;
    proxy_temp_path ${dir}/proxy;
    fastcgi_temp_path ${dir}/fastcgi;
    uwsgi_temp_path ${dir}/uwsgi;
    scgi_temp_path ${dir}/scgi;
%s}
`, module, user, cmp.Or(c.Workers, 2), c.Main, c.HTTP))

	files := map[string][]byte{"nginx.conf": []byte(conf)}
	for name, content := range c.Files {
		files[name] = content
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(s.Dir, name), content, 0o600); err != nil {
			return nil, err
		}
	}

	var output bytes.Buffer
	args := []string{binary, "-p", s.Dir, "-c", "nginx.conf", "-e", "error.log"}
	if c.Detached {
		args = append([]string{"sh", "-c", launcher}, args...)
	}
	s.cmd = exec.Command(args[0], args[1:]...)
	if c.Detached {
		s.cmd.Dir = s.Dir
		if s.launch, err = s.cmd.StdinPipe(); err != nil {
			return nil, err
		}
	}
	s.cmd.Stdout, s.cmd.Stderr = &output, &output
	s.cmd.SysProcAttr = &syscall.SysProcAttr{
		// A group of its own, so that the workers can be killed with the master.
		Setpgid: true,
	}
	if !c.Detached {
		// SIGTERM and not SIGKILL: only a living master takes its workers along.
		s.cmd.SysProcAttr.Pdeathsig = syscall.SIGTERM
	}

	// Pdeathsig looks at the thread that forked, which must not end before nginx.
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := s.cmd.Start()
		started <- err
		if err == nil {
			_ = s.cmd.Wait()
		}
		close(s.done)
		runtime.UnlockOSThread()
	}()
	if err := <-started; err != nil {
		return nil, err
	}

	if err := s.begin(); err != nil {
		s.kill()
		return nil, fmt.Errorf("%w\n%s%s", err, output.Bytes(), s.ErrorLog())
	}

	return s, nil
}

// begin starts a detached nginx, and returns when nginx is there.
func (s *Server) begin() error {
	if s.launch != nil {
		if _, err := io.WriteString(s.launch, "\n"); err != nil {
			return err
		}
	}
	if err := s.wait(); err != nil || s.launch == nil {
		return err
	}

	return until("the parent of nginx does not end", func() bool {
		stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.Master()))
		var parent int
		_, rest, _ := bytes.Cut(stat, []byte(") "))
		_, _ = fmt.Sscanf(string(rest), "%1s %d", new(string), &parent)
		group, err := syscall.Getpgid(parent)
		return parent > 0 && (err != nil || group != s.cmd.Process.Pid)
	})
}

// Restart ends a detached nginx when all requests are answered, and starts it again.
func (s *Server) Restart() error {
	master := s.Master()
	if err := signal(master, syscall.SIGQUIT); err != nil {
		return err
	}
	if err := until("nginx does not end after SIGQUIT", func() bool { return gone(master) }); err != nil {
		return err
	}

	return s.begin()
}

// Upgrade has a detached nginx start its successor, and ends one of the two when all its requests are answered: the old one,
// or the new one if it is to be taken back.
func (s *Server) Upgrade(back bool) error {
	old := s.Master()
	if err := signal(old, syscall.SIGUSR2); err != nil {
		return err
	}
	// The successor writes its file before it has workers, which it has before it waits for signals.
	var successor int
	err := until("no other master after SIGUSR2", func() bool {
		successor = s.Master()
		children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", successor, successor))
		return successor != 0 && successor != old && len(children) > 0
	})
	if err != nil {
		return err
	}
	leaves, stays := old, successor
	if back {
		leaves, stays = successor, old
	}
	if err := signal(leaves, syscall.SIGQUIT); err != nil {
		return err
	}

	return until("the other master does not end after SIGQUIT", func() bool { return gone(leaves) && s.Master() == stays })
}

// signal knows that 0 is everybody.
func signal(pid int, sig syscall.Signal) error {
	if pid <= 0 {
		return errors.New("nginx is not there")
	}

	return syscall.Kill(pid, sig)
}

func until(otherwise string, so func() bool) error {
	for deadline := time.Now().Add(startTimeout); !so(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("%s, after %v", otherwise, startTimeout)
		}
	}

	return nil
}

// gone says whether a process has ended, though nobody may have waited for it.
func gone(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, state, found := bytes.Cut(stat, []byte(") "))

	return err != nil || !found || state[0] == 'Z'
}

// wait returns when every address accepts connections.
func (s *Server) wait() error {
	deadline := time.After(startTimeout)

	for _, addr := range s.Addrs {
		for {
			conn, err := net.DialTimeout("tcp", addr, time.Second)
			if err == nil {
				conn.Close()
				break
			}

			if s.launch != nil && strings.Contains(s.ErrorLog(), "[emerg]") {
				return errors.New("nginx did not start")
			}

			select {
			case <-s.done:
				return errors.New("nginx did not start")
			case <-deadline:
				return fmt.Errorf("nginx does not listen on %s after %v", addr, startTimeout)
			case <-time.After(10 * time.Millisecond):
			}
		}
	}

	// Somebody else may have answered.
	select {
	case <-s.done:
		return errors.New("nginx did not start")
	default:
		return nil
	}
}

// Stop ends nginx before the end of the test, which leaves its log complete.
func (s *Server) Stop(t testing.TB) {
	s.once.Do(func() { s.stop(t) })
}

func (s *Server) stop(t testing.TB) {
	select {
	case <-s.done:
		t.Error("nginx ended during the test")
	default:
		if s.launch == nil {
			_ = s.cmd.Process.Signal(syscall.SIGTERM)
		} else {
			master := s.Master()
			if err := signal(master, syscall.SIGTERM); err != nil {
				t.Error(err)
			} else if err := until("nginx does not end after SIGTERM", func() bool { return gone(master) }); err != nil {
				t.Error(err)
			}
			s.launch.Close()
		}
		select {
		case <-s.done:
		case <-time.After(stopTimeout):
			t.Errorf("nginx still runs %v after SIGTERM", stopTimeout)
		}
	}
	s.kill()

	log := s.ErrorLog()
	for line := range strings.Lines(log) {
		if s.alert != "" && strings.Contains(line, s.alert) {
			continue
		}
		if strings.Contains(line, "[alert]") || strings.Contains(line, "[emerg]") ||
			strings.Contains(line, "[crit]") {
			t.Errorf("error log: %s", line)
		}
	}

	if t.Failed() {
		t.Logf("error log of nginx:\n%s", tail(log, 200))
	}
}

// kill ends whatever is left of the process group.
func (s *Server) kill() {
	_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
	<-s.done
}

// Master is the process id of nginx's master process, 0 if a detached one is not there.
func (s *Server) Master() int {
	if s.launch == nil {
		return s.cmd.Process.Pid
	}
	text, _ := os.ReadFile(filepath.Join(s.Dir, "nginx.pid"))
	pid, _ := strconv.Atoi(strings.TrimSpace(string(text)))

	return pid
}

// ErrorLog is what nginx has logged so far.
func (s *Server) ErrorLog() string {
	log, err := os.ReadFile(filepath.Join(s.Dir, "error.log"))
	if err != nil {
		return err.Error() + "\n"
	}

	return string(log)
}

func (s *Server) expand(text string) string {
	pairs := []string{"${dir}", s.Dir}
	for i, addr := range s.Addrs {
		pairs = append(pairs, fmt.Sprintf("${addr%d}", i), addr)
	}

	return strings.NewReplacer(pairs...).Replace(text)
}

// freeAddrs holds all ports until the last one is chosen, so that they differ.
func freeAddrs(n int) ([]string, error) {
	var addrs []string
	for range n {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		addrs = append(addrs, l.Addr().String())
	}

	return addrs, nil
}

func tail(text string, n int) string {
	lines := strings.SplitAfter(text, "\n")

	return strings.Join(lines[max(0, len(lines)-n-1):], "")
}
