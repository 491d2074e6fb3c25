package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// bed is everything that serves during a run.
type bed struct {
	s       *Settings
	up      upstreams
	servers map[Kind]*Server
	quick   *Server
}

// backends starts what locations proxy to: nginx on the load's core, which answers at once, and this process, which
// says what it was sent.
func (b *bed) backends() error {
	port, err := freePort()
	if err != nil {
		return err
	}
	b.up.quick = fmt.Sprintf("127.0.0.1:%d", port)
	block := location(port, "", `return 200 "ok\n";`, "")
	if b.quick, err = startNginx(b.s, "backend", b.s.LoadCPU, nginxConf(b.s, plain, upstreams{}, block), port); err != nil {
		return err
	}
	b.up.echo, err = startEcho()

	return err
}

func (b *bed) stop() error {
	var complaints []string
	for _, server := range b.servers {
		if server == nil {
			continue // did not start
		}
		server.stop()
		if said := server.complaints(); said != "" {
			complaints = append(complaints, fmt.Sprintf("%s:\n%s", server.name, said))
		}
	}
	b.quick.stop()
	if len(complaints) > 0 {
		return errors.New("error logs are not empty: " + strings.Join(complaints, "\n"))
	}

	return nil
}

// block is the server block of one port of a cell.
func (b *bed) block(c *Cell, port int, content string) string {
	if c.Peer.Content != "" {
		content = c.Peer.Content
	}
	extra := c.Peer.Extra
	if extra != "" {
		inner := c.Job.Content
		if port == c.Checked {
			inner = c.Job.CheckContent
		}
		extra = fmt.Sprintf(extra, inner)
	}

	return location(port, strings.ReplaceAll(c.Peer.Conf, "%s", b.s.Guests), content, extra)
}

// start runs a server for every kind of peer that there is.
func (b *bed) start(cells []*Cell) error {
	blocks, first := make(map[Kind]string), make(map[Kind]int)
	var references []referenceCell
	for _, c := range cells {
		var err error
		if c.Timed, err = freePort(); err != nil {
			return err
		}
		if c.Checked, err = freePort(); err != nil {
			return err
		}
		c.dir = b.s.Dir
		first[c.Peer.Kind] = c.Timed
		if c.Peer.Kind == referenceHost {
			references = append(references, referenceFor(b.s, c, c.Timed, c.Job.Content, b.up),
				referenceFor(b.s, c, c.Checked, c.Job.CheckContent, b.up))
			continue
		}
		blocks[c.Peer.Kind] += b.block(c, c.Timed, c.Job.Content) + b.block(c, c.Checked, c.Job.CheckContent)
	}
	b.servers = make(map[Kind]*Server)
	for kind, port := range first {
		var err error
		if kind == referenceHost {
			b.servers[kind], err = startSelf(b.s, b.s.WorkerCPU, "reference", references, port)
		} else {
			b.servers[kind], err = startNginx(b.s, kind.name(), b.s.WorkerCPU, nginxConf(b.s, kind, b.up, blocks[kind]), port)
		}
		if err != nil {
			return err
		}
	}
	for _, c := range cells {
		c.server = b.servers[c.Peer.Kind]
	}

	return nil
}

// agree asks every peer once and compares the answer with the one expected.
func agree(cells []*Cell) error {
	var wrong []string
	for _, c := range cells {
		if err := c.ask(); err != nil {
			wrong = append(wrong, fmt.Sprintf("%s: %v", c, err))
		}
	}
	if len(wrong) > 0 {
		return errors.New("answers differ:\n" + strings.Join(wrong, "\n"))
	}

	return nil
}

func (c *Cell) ask() error {
	timed, err := ask(c.Timed, c.Job)
	if err != nil {
		return err
	}
	checked, err := ask(c.Checked, c.Job)
	if err != nil {
		return err
	}

	return c.Job.check(c, timed, checked)
}

func (j *Job) load(seconds int) Load {
	l := Load{Path: j.Path, Method: "GET", Body: j.Post, Conns: j.Conns, Seconds: seconds}
	if l.Conns == 0 {
		l.Conns = 32
	}
	if l.Body > 0 {
		l.Method = "POST"
	}

	return l
}

// runTable measures all jobs, and prints each when it is done.
func runTable(s *Settings, report *Report) (err error) {
	var all []*Job
	var cells []*Cell
	byJob := make(map[*Job][]*Cell)
	for _, job := range jobs() {
		if !s.wanted(job.Key) {
			continue
		}
		all = append(all, job)
		for i := range job.Peers {
			c := &Cell{Job: job, Peer: &job.Peers[i]}
			byJob[job] = append(byJob[job], c)
			cells = append(cells, c)
		}
	}
	if len(cells) == 0 {
		return nil
	}
	b := &bed{s: s}
	defer func() { err = errors.Join(err, b.stop()) }()
	if err := b.backends(); err != nil {
		return err
	}
	if err := b.start(cells); err != nil {
		return err
	}
	if err := agree(cells); err != nil {
		return err
	}
	fmt.Printf("%d peers in %d jobs give the answers expected of them\n\n", len(cells), len(all))

	for _, job := range all {
		for round := range s.Rounds {
			for i := range byJob[job] {
				// Each round begins with another peer.
				c := byJob[job][(i+round)%len(byJob[job])]
				sample, err := measure(s, c.server, c.Timed, job.load(s.Seconds))
				if err != nil {
					return fmt.Errorf("%s: %w", c, err)
				}
				c.samples = append(c.samples, sample)
			}
		}
		var counted []*Cell
		for _, c := range byJob[job] {
			if c.counted() && (!s.Quick || c.Peer.Kind == plain || c.Peer.Name == oursWAT) {
				counted = append(counted, c)
			}
		}
		if err := b.countAll(counted); err != nil {
			return err
		}
		result := jobResult(job, byJob[job])
		report.Jobs = append(report.Jobs, result)
		printJob(os.Stdout, &result)
	}

	return nil
}

func jobResult(job *Job, cells []*Cell) JobResult {
	result := JobResult{Key: job.Key, Title: job.Title}
	base := cells[0].samples
	for _, c := range cells {
		instructions := each(c.samples, base, func(a, b Sample) float64 { return a.Instructions - b.Instructions }).Median
		if c.instructions != 0 {
			instructions = c.instructions - cells[0].instructions
		}
		result.Rows = append(result.Rows, Row{
			Peer:         c.Peer.Name,
			RPS:          each(c.samples, base, func(a, _ Sample) float64 { return a.RPS }),
			Rate:         each(c.samples, base, func(a, b Sample) float64 { return a.RPS / b.RPS }),
			CPU:          each(c.samples, base, func(a, _ Sample) float64 { return a.CPU }),
			Added:        each(c.samples, base, func(a, b Sample) float64 { return a.CPU - b.CPU }),
			Instructions: instructions,
			Does:         c.Peer.Does,
		})
	}

	return result
}

// guest is the path of a guest.
func (s *Settings) guest(name string) string { return filepath.Join(s.Guests, name) }
