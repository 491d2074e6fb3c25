package main

import (
	"errors"
	"fmt"
	"strings"
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
	after := s.Module
	fmt.Printf("instructions of one request, nginx included\n\n| job | peer | before | after | ratio |\n|---|---|---|---|---|\n")
	for _, job := range jobs() {
		for i := range job.Peers {
			c := &Cell{Job: job, Peer: &job.Peers[i]}
			if !s.wanted(job.Key) || !c.comparable() {
				continue
			}
			var counts [2]float64
			for i, module := range []string{before, after} {
				s.Module = module
				if counts[i], err = b.instructions(c); err != nil {
					return err
				}
			}
			fmt.Printf("| %s | %s | %.0f | %.0f | %.3f |\n", job.Key, c.Peer.Name, counts[0], counts[1], counts[1]/counts[0])
		}
	}

	return nil
}

// comparable is whether requests of a peer of ours can be counted one by one: without a body, and with a small guest. valgrind
// takes minutes to compile others, or does not survive their start.
func (c *Cell) comparable() bool {
	return c.Peer.Kind == ours && c.Job.Post == 0 && c.Job.Conns == 0 && strings.Contains(c.Peer.Conf, ".wat;")
}
