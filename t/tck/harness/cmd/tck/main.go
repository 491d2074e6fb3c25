// Command tck runs every version of the official TCK against one nginx and
// counts the results. It succeeds when every case of every version has passed
// over every protocol.
//
// Usage: tck DIRECTORY NGINX MODULE, where DIRECTORY holds the versions.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"ngx-http-wasm-handler/tck/harness/suite"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: tck DIRECTORY NGINX MODULE")
		os.Exit(2)
	}

	ok, err := run(os.Args[1], os.Args[2], os.Args[3])
	if err != nil {
		fmt.Fprintln(os.Stderr, "tck:", err)
	}
	if !ok || err != nil {
		os.Exit(1)
	}
}

func run(dir, nginx, module string) (bool, error) {
	nginx, err := exec.LookPath(nginx)
	if err != nil {
		return false, err
	}
	if nginx, err = filepath.Abs(nginx); err != nil {
		return false, err
	}
	if module, err = filepath.Abs(module); err != nil {
		return false, err
	}

	ok := true
	var summary []string
	for _, version := range suite.Versions {
		cmd := exec.Command("go", "test", "-count=1", "-timeout=5m", "-json", ".")
		cmd.Dir = filepath.Join(dir, version.Name)
		cmd.Env = append(os.Environ(), "TEST_NGINX_BINARY="+nginx, "TEST_NGINX_MODULE="+module)
		cmd.Stderr = os.Stderr
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			return false, err
		}
		if err := cmd.Start(); err != nil {
			return false, err
		}

		results, readErr := read(stdout)
		if err := cmd.Wait(); err != nil || readErr != nil {
			ok = false
			results.print(os.Stdout)
		}

		for _, proto := range suite.Protocols {
			passed, failed := results.count(suite.TestName + "/" + proto + "/")
			if passed != version.Cases || failed != 0 {
				ok = false
			}
			summary = append(summary,
				fmt.Sprintf("TCK %s %s: %d passed, %d failed", version.Name, proto, passed, failed))
		}
	}

	fmt.Println(strings.Join(summary, "\n"))

	return ok, nil
}

// event is one line of go test -json.
type event struct {
	Action, Test, Output string
}

// results of one test program.
type results struct {
	// actions is how each test ended.
	actions map[string]string
	output  strings.Builder
}

func read(r io.Reader) (*results, error) {
	res := &results{actions: make(map[string]string)}

	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		res.add(line)
		if err == io.EOF {
			return res, nil
		}
		if err != nil {
			return res, err
		}
	}
}

func (r *results) add(line []byte) {
	var e event
	if err := json.Unmarshal(line, &e); err != nil {
		// What go prints when the tests do not even build.
		r.output.Write(line)
		return
	}

	switch e.Action {
	case "pass", "fail", "skip":
		r.actions[e.Test] = e.Action
	case "output", "build-output":
		r.output.WriteString(e.Output)
	}
}

// count counts the test cases whose name begins with prefix. The cases of the
// TCK are leaves by construction: its runner never nests a case in another.
func (r *results) count(prefix string) (passed, failed int) {
	for name, action := range r.actions {
		if !strings.HasPrefix(name, prefix) {
			continue
		}
		switch action {
		case "pass":
			passed++
		case "fail":
			failed++
		}
	}

	return passed, failed
}

// print leaves out what go test says about tests that went well.
func (r *results) print(w io.Writer) {
	for line := range strings.Lines(r.output.String()) {
		switch trimmed := strings.TrimSpace(line); {
		case strings.HasPrefix(trimmed, "--- PASS"), strings.HasPrefix(trimmed, "=== "):
		default:
			fmt.Fprint(w, line)
		}
	}
}
