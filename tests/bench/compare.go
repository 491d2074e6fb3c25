package main

import (
	"errors"
	"fmt"
	"strings"
	"sync"
)

// compare counts the instructions of one request with another build of our module and with this one, and prints both. It
// takes no notice of what else the machine does, so a difference of a few is one.
func compare(s *Settings, before string) (err error) {
	if !canCallgrind {
		return errors.New("valgrind is not installed: make deps-bench")
	}
	s.InFlight = []int{64}
	if err := pickCPUs(s); err != nil {
		return err
	}
	if err := writeFiles(s); err != nil {
		return err
	}
	b := &bed{s: s}
	defer func() { err = errors.Join(err, b.stop()) }()
	if err := b.backends(); err != nil {
		return err
	}
	fmt.Printf("instructions of one request, nginx included\n\n| job | peer | before | after | ratio |\n|---|---|---|---|---|\n")
	for _, job := range jobs() {
		for i := range job.Peers {
			c := &Cell{Job: job, Peer: &job.Peers[i]}
			if !s.wanted(job.Key) || c.Peer.Kind != ours || c.Job.Conns > 0 {
				continue
			}
			counts, err := b.both(c, before, s.Module)
			if err != nil {
				// An earlier build may not run under valgrind with each guest.
				reason, _, _ := strings.Cut(err.Error(), "\n")
				fmt.Printf("| %s | %s | not counted: %s | | |\n", job.Key, c.Peer.Name, reason)
				continue
			}
			fmt.Printf("| %s | %s | %.0f | %.0f | %.3f |\n", job.Key, c.Peer.Name, counts[0], counts[1], counts[1]/counts[0])
		}
	}

	return nil
}

// both counts with two builds side by side.
func (b *bed) both(c *Cell, modules ...string) ([2]float64, error) {
	var counts [2]float64
	var failed [2]error
	var wait sync.WaitGroup
	for i, module := range modules {
		port, err := freePort()
		if err != nil {
			return counts, err
		}
		wait.Go(func() {
			counts[i], failed[i] = b.instructions(c, module, fmt.Sprintf("callgrind-%d", i), port)
		})
	}
	wait.Wait()

	return counts, errors.Join(failed[:]...)
}
