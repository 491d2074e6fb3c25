package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// maxInFlight is how many requests can be under way at once: each takes two descriptors of the worker.
func (s *Settings) maxInFlight() int {
	n := s.InFlight[len(s.InFlight)-1]
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err == nil {
		n = min(n, (int(limit.Max)-200)/2)
	}

	return n
}

// inFlightCurve is the memory that requests take while a backend keeps them waiting.
func inFlightCurve(s *Settings) ([]Curve, error) {
	curve := Curve{Key: "in-flight", Title: "Requests in flight behind a slow backend", X: "requests in flight",
		Y: "memory of the worker, kB per request", Log: true,
		Note: "Memory: pages of the worker's own and its page tables, beyond those of the idle worker."}
	last := s.InFlight[len(s.InFlight)-1]
	if limit := s.maxInFlight(); limit < last {
		curve.Note += fmt.Sprintf(" Open files are limited here (ulimit -Hn): %d in flight instead of %d.", limit, last)
	}
	for _, c := range peersOf("proxied", bare, native, oursWAT, lua) {
		line, err := inFlight(s, c.Peer)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.Peer.Name, err)
		}
		curve.Lines = append(curve.Lines, *line)
	}
	// An instance of a Go guest has the heap and the stacks of Go.
	few := *s
	few.InFlight = nil
	for _, n := range s.InFlight {
		if n <= 1000 {
			few.InFlight = append(few.InFlight, n)
		}
	}
	line, err := inFlight(&few, &guestPeers("headers")[2])
	if err != nil {
		return nil, fmt.Errorf("ours, Go: %w", err)
	}
	curve.Lines = append(curve.Lines, *line)

	return []Curve{curve}, nil
}

func inFlight(s *Settings, peer *Peer) (*Line, error) {
	var ports [3]int
	for i := range ports {
		var err error
		if ports[i], err = freePort(); err != nil {
			return nil, err
		}
	}
	slow, err := startSelf(s, s.LoadCPU, "slow", slowOrders{ports[0], ports[1]}, ports[1])
	if err != nil {
		return nil, err
	}
	defer slow.stop()
	up := upstreams{slow: fmt.Sprintf("127.0.0.1:%d", ports[0])}
	block := location(ports[2], strings.ReplaceAll(peer.Conf, "%s", s.Guests), "proxy_pass http://slow;", "")
	server, err := startNginx(s, "in-flight", s.WorkerCPU, nginxConf(s, peer.Kind, up, block), ports[2])
	if err != nil {
		return nil, err
	}
	defer server.stop()

	idle, err := server.memory()
	if err != nil {
		return nil, err
	}
	line := &Line{Peer: peer.Name}
	var clients []net.Conn
	defer func() {
		for _, c := range clients {
			c.Close()
		}
	}()
	for _, n := range s.InFlight {
		n = min(n, s.maxInFlight())
		for len(clients) < n {
			c, err := net.Dial("tcp4", "127.0.0.1:"+strconv.Itoa(ports[2]))
			if err != nil {
				return nil, err
			}
			clients = append(clients, c)
			_, err = fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: bench\r\nUser-Agent: %s\r\nAccept: %s\r\nX-Forwarded-For: %s\r\n\r\n",
				agent, accept, forwarded)
			if err != nil {
				return nil, err
			}
		}
		if err := waitHeld(ports[1], n); err != nil {
			return nil, fmt.Errorf("%w\n%s", err, server.complaints())
		}
		now, err := server.memory()
		if err != nil {
			return nil, err
		}
		line.X = append(line.X, float64(n))
		line.Y = append(line.Y, float64(now.total()-idle.total())/float64(n))
	}

	// All of them get their answer.
	if _, err := control(ports[1], "/release"); err != nil {
		return nil, err
	}
	for i, c := range clients {
		_ = c.SetReadDeadline(time.Now().Add(time.Minute))
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return nil, fmt.Errorf("request %d of %d in flight got no answer: %w\n%s", i, len(clients), err, server.complaints())
		}
		if resp.StatusCode != 200 {
			return nil, fmt.Errorf("request %d of %d in flight got %s\n%s", i, len(clients), resp.Status, server.complaints())
		}
	}

	return line, nil
}

// waitHeld waits until the slow backend holds that many requests, for as long as they become more.
func waitHeld(port, n int) error {
	last := ""
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		have, err := control(port, "/")
		if err != nil {
			return err
		}
		if have == strconv.Itoa(n) {
			return nil
		}
		if have != last {
			last, deadline = have, time.Now().Add(time.Minute)
		}
	}

	return fmt.Errorf("%s of %d requests reached the backend", last, n)
}

func control(port int, path string) (string, error) {
	resp, err := http.Get("http://127.0.0.1:" + strconv.Itoa(port) + path)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)

	return string(text), err
}
