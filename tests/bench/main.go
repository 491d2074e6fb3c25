// Command bench compares the module with what users would pick instead, side by side in one run: rounds of all peers in
// turn, one worker on one core, the load on another. It prints ratios, growth of cost and which targets are met, and
// fails only when peers answer differently or something breaks.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Settings are what one run is told.
type Settings struct {
	Nginx, Module, Native, Guests, Dir string
	Quick                              bool
	Only                               string
	// WafGuest is the firewall, WafConfig its configuration.
	WafGuest, WafConfig string
	// self is this program.
	self string

	Rounds, Seconds     int
	WorkerCPU, LoadCPU  int
	InFlight, Locations []int
	BodyBytes           []int
}

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "reference":
			exit(serveReference(os.Stdin))
		case "slow":
			exit(serveSlow(os.Stdin))
		case "coraza":
			exit(serveCoraza(os.Stdin))
		case "load":
			exit(serveLoad(os.Stdin, os.Stdout))
		}
	}

	var s Settings
	flag.StringVar(&s.Nginx, "nginx", "/usr/sbin/nginx", "nginx of all peers")
	flag.StringVar(&s.Module, "module", "", "our module")
	flag.StringVar(&s.Native, "native", "", "the native module of tests/bench/native")
	flag.StringVar(&s.Guests, "guests", "", "directory of the guests")
	flag.StringVar(&s.Dir, "dir", "", "directory for everything that is written")
	flag.BoolVar(&s.Quick, "quick", false, "a smoke run: one round, short curves")
	flag.StringVar(&s.Only, "only", "", "comma-separated keys of jobs and curves, or reload; waf, which is measured only if it is asked for")
	flag.StringVar(&s.WafGuest, "waf", "", "the firewall of examples/waf")
	flag.StringVar(&s.WafConfig, "waf-config", "", "its configuration")
	page := flag.String("page", "", "write the page into this directory from the last run, and measure nothing")
	base := flag.String("base", "", "another build of our module: compare the instructions of both, and measure nothing else")
	flag.Parse()

	var err error
	if s.self, err = os.Executable(); err != nil {
		exit(err)
	}
	results, waf := filepath.Join(s.Dir, "results.json"), filepath.Join(s.Dir, "waf.json")
	if *page != "" {
		exit(writePages(&s, *page, results, waf))
	}
	if *base != "" {
		exit(compare(&s, *base))
	}
	exit(run(&s, results, waf))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func run(s *Settings, results, waf string) error {
	s.Rounds, s.Seconds = 5, 1
	s.InFlight = []int{1, 10, 100, 1000, 2500, 5000, 10000}
	s.Locations = []int{1, 10, 50, 100, 200}
	s.BodyBytes = []int{1 << 10, 10 << 10, 100 << 10, 1 << 20, 10 << 20}
	if s.Quick {
		s.Rounds = 1
		s.InFlight = []int{1, 100, 1000}
		s.Locations = []int{1, 20}
		s.BodyBytes = []int{1 << 10, 1 << 20}
	}
	if err := pickCPUs(s); err != nil {
		return err
	}
	if err := writeFiles(s); err != nil {
		return err
	}
	if s.wantsWaf() {
		found, err := runWaf(s)
		if err != nil {
			return fmt.Errorf("waf: %w", err)
		}
		printWaf(os.Stdout, found)
		if err := keep(waf, found); err != nil {
			return err
		}
		if s.Only == wafKey {
			return nil
		}
	}

	report := &Report{Machine: machine(s), When: time.Now().UTC().Format("2006-01-02"), Quick: s.Quick}
	fmt.Printf("%s\nworker on CPU %d, load on CPU %d, %d rounds of %d s per peer and job\n\n",
		strings.Join(report.Machine, "\n"), s.WorkerCPU, s.LoadCPU, s.Rounds, s.Seconds)

	if err := runTable(s, report); err != nil {
		return err
	}
	if err := runCurves(s, report); err != nil {
		return err
	}
	if err := runReload(s, report); err != nil {
		return fmt.Errorf("reload: %w", err)
	}
	report.Targets = targets(report)
	printTargets(os.Stdout, report.Targets)

	return keep(results, report)
}

// keep writes what was found, for the page.
func keep(file string, found any) error {
	text, err := json.MarshalIndent(found, "", " ")
	if err != nil {
		return err
	}

	return os.WriteFile(file, text, 0o644)
}

// read is what was found by a run that was kept.
func read(file string, found any) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("no run to write about: %w", err)
	}
	if err := json.Unmarshal(text, found); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}

	return nil
}

// wafKey asks for the firewalls.
const wafKey = "waf"

// wantsWaf says whether they are asked for: they are no part of a run of everything, which takes long enough.
func (s *Settings) wantsWaf() bool { return s.Only != "" && s.wanted(wafKey) }

// wanted says whether -only asks for a part.
func (s *Settings) wanted(key string) bool {
	if s.Only == "" {
		return true
	}
	for only := range strings.SplitSeq(s.Only, ",") {
		if only == key {
			return true
		}
	}

	return false
}
