// Package process reads from /proc what nginx's processes take.
package process

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Workers are the workers of a master that take requests, in ascending order.
func Workers(master int) []int { return children(master, "worker process", "is shutting down") }

// All are all worker processes of a master, those that are shutting down too.
func All(master int) []int { return children(master, "worker process", "\x00") }

func children(master int, with, without string) []int {
	var pids []int
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", master))
	for _, list := range lists {
		text, _ := os.ReadFile(list)
		for field := range bytes.FieldsSeq(text) {
			pid, err := strconv.Atoi(string(field))
			if err != nil {
				continue
			}
			title, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			title = bytes.TrimRight(title, "\x00")
			if bytes.Contains(title, []byte(with)) && !bytes.Contains(title, []byte(without)) {
				pids = append(pids, pid)
			}
		}
	}
	slices.Sort(pids)

	return pids
}

// Size is what a process takes at one time. Memory is in kB.
type Size struct {
	// RSS is all of it that is in memory, Private what it shares with nobody and has written to.
	RSS, Private                   int
	Descriptors, Mappings, Threads int
}

// SizeOf measures a process.
func SizeOf(pid int) (Size, error) {
	rollup, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return Size{}, err
	}
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return Size{}, err
	}
	descriptors, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return Size{}, err
	}
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return Size{}, err
	}

	return Size{
		RSS:         value(string(rollup), "Rss:"),
		Private:     value(string(rollup), "Private_Dirty:"),
		Descriptors: len(descriptors),
		Mappings:    bytes.Count(maps, []byte("\n")),
		Threads:     len(threads),
	}, nil
}

// ResetPeak makes Peak count from now on.
func ResetPeak(pid int) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
}

// Peak is the largest RSS, in kB.
func Peak(pid int) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}

	return value(string(text), "VmHWM:"), nil
}

// value is the number in the line that begins with that name.
func value(text, name string) int {
	for line := range strings.Lines(text) {
		if rest, found := strings.CutPrefix(line, name); found {
			n, _ := strconv.Atoi(strings.Fields(rest)[0])
			return n
		}
	}

	return 0
}
