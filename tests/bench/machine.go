package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
)

// pickCPUs gives the worker one core and the load another.
func pickCPUs(s *Settings) error {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	list := ""
	for line := range strings.Lines(string(status)) {
		if rest, found := strings.CutPrefix(line, "Cpus_allowed_list:"); found {
			list = strings.TrimSpace(rest)
		}
	}
	var cpus []int
	for part := range strings.SplitSeq(list, ",") {
		first, last, ranged := strings.Cut(part, "-")
		if !ranged {
			last = first
		}
		from, err1 := strconv.Atoi(first)
		to, err2 := strconv.Atoi(last)
		if err1 != nil || err2 != nil {
			return fmt.Errorf("cannot read Cpus_allowed_list %q", list)
		}
		for cpu := from; cpu <= to; cpu++ {
			cpus = append(cpus, cpu)
		}
	}
	if len(cpus) < 2 {
		return fmt.Errorf("two CPUs are needed, one for the worker and one for the load, but only %q may be used", list)
	}
	s.WorkerCPU, s.LoadCPU = cpus[0], cpus[1]

	return nil
}

// everyCPU leaves a command on all of them.
const everyCPU = -1

// pinned is a command on one core.
func pinned(cpu int, name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	if cpu != everyCPU {
		cmd = exec.Command("taskset", append([]string{"-c", strconv.Itoa(cpu), name}, args...)...)
	}
	// Nothing is left behind when the benchmark is killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}

	return cmd
}

// machine describes where this runs, for the page.
func machine(s *Settings) []string {
	return append(append(hardware(s), packages("libnginx-mod-http-lua", "libnginx-mod-http-js", "wrk")...),
		"http-wasm-host-go "+moduleVersion("github.com/http-wasm/http-wasm-host-go")+" on wazero "+moduleVersion("github.com/tetratelabs/wazero")+", "+runtime.Version())
}

// wafMachine does so for the firewalls.
func wafMachine(s *Settings) []string {
	return append(append(hardware(s),
		"Coraza "+moduleVersion("github.com/corazawaf/coraza/v3")+" with the Core Rule Set "+
			moduleVersion("github.com/corazawaf/coraza-coreruleset/v4")+", "+runtime.Version(),
		"http-wasm-host-go "+moduleVersion("github.com/http-wasm/http-wasm-host-go")+" on wazero "+
			moduleVersion("github.com/tetratelabs/wazero")),
		packages("libnginx-mod-http-modsecurity", "libmodsecurity3", "modsecurity-crs")...)
}

func hardware(s *Settings) []string {
	lines := []string{fmt.Sprintf("%s, %d CPUs, %s", firstOf("/proc/cpuinfo", "model name"), runtime.NumCPU(),
		firstOf("/proc/meminfo", "MemTotal"))}
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		lines = append(lines, "Linux "+strings.TrimSpace(string(release)))
	}
	out, _ := exec.Command(s.Nginx, "-v").CombinedOutput()
	lines = append(lines, strings.TrimSpace(strings.TrimPrefix(string(out), "nginx version: ")))

	return lines
}

// packages are those of Debian that are installed, with their versions.
func packages(names ...string) []string {
	var lines []string
	for _, name := range names {
		out, err := exec.Command("dpkg-query", "-W", "-f", "${Package} ${Version}", name).Output()
		if err == nil {
			lines = append(lines, string(out))
		}
	}

	return lines
}

// moduleVersion is the version of a module that this program is built with.
func moduleVersion(path string) string {
	if build, ok := debug.ReadBuildInfo(); ok {
		for _, module := range build.Deps {
			if module.Path == path {
				return module.Version
			}
		}
	}

	return "of an unknown version"
}

func firstOf(file, key string) string {
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if name, value, found := strings.Cut(lines.Text(), ":"); found && strings.TrimSpace(name) == key {
			return strings.TrimSpace(value)
		}
	}

	return ""
}
