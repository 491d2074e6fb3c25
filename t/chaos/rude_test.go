package chaos

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"golang.org/x/net/http2"

	"ngx-http-wasm-handler/matrix/cell"
	"ngx-http-wasm-handler/matrix/wire"
)

// rudeness is a way to behave badly. What it returns is wrong all the same.
var rudeness = []struct {
	name string
	act  func(s *storm, random *rand.Rand) error
}{
	{"leaves while it is answered", leave},
	{"leaves while it asks", stutter},
	{"sends no more than half", halfClosed},
	{"asks several at once and leaves", several},
	{"asks several at once", inOrder},
	{"sends nonsense", nonsense},
	{"sends a broken body", broken},
	{"reads slowly and leaves", dawdle},
	{"leaves a tunnel", tunnel},
	{"resets streams", resets},
	{"sends broken frames", frames},
}

func (s *storm) dial() (net.Conn, error) { return s.dialTo(0) }

func (s *storm) dialTo(port int) (net.Conn, error) {
	conn, err := net.DialTimeout("tcp", s.server.Addrs[port], *patience)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(*patience))

	return conn, nil
}

// away closes a connection, politely or not.
func away(conn net.Conn, random *rand.Rand) {
	if tcp, ok := conn.(*net.TCPConn); ok && random.IntN(2) == 0 {
		_ = tcp.SetLinger(0)
	}
	conn.Close()
}

// some reads up to so many bytes, and does not wait for long when none come.
func some(conn net.Conn, n int) {
	buffer := make([]byte, 16384)
	for n > 0 {
		_ = conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		got, err := conn.Read(buffer[:min(n, len(buffer))])
		if err != nil {
			return
		}
		n -= got
	}
}

// amount is small more often than large.
func amount(random *rand.Rand, limit int) int { return random.IntN(1 + random.IntN(limit+1)) }

// pause is short, and sometimes none.
func pause(random *rand.Rand) { time.Sleep(time.Duration(amount(random, 20_000)) * time.Microsecond) }

func leave(s *storm, random *rand.Rand) error {
	conn, err := s.dial()
	if err != nil {
		return nil
	}
	defer away(conn, random)
	_, _ = conn.Write(s.asker.Request(s.cell(random)).Bytes())
	if random.IntN(2) == 0 {
		pause(random)
		return nil
	}
	some(conn, 1+amount(random, 300_000))

	return nil
}

func stutter(s *storm, random *rand.Rand) error {
	conn, err := s.dial()
	if err != nil {
		return nil
	}
	defer away(conn, random)
	text := s.asker.Request(s.cell(random)).Bytes()
	text = text[:random.IntN(len(text))]
	for len(text) > 0 {
		n := 1 + random.IntN(len(text))
		if _, err := conn.Write(text[:n]); err != nil {
			return nil
		}
		text = text[n:]
		pause(random)
	}

	return nil
}

// halfClosed has nothing more to say, and waits for the server to close.
func halfClosed(s *storm, random *rand.Rand) error {
	text := s.asker.Request(s.cell(random)).Bytes()
	if random.IntN(2) == 0 {
		text = text[:random.IntN(len(text))]
	}

	return s.last(text)
}

// last sends something and no more. The server has to close in the end.
func (s *storm) last(text []byte) error {
	conn, err := s.dial()
	if err != nil {
		return nil
	}
	defer conn.Close()
	go func() {
		_, _ = conn.Write(text)
		_ = conn.(*net.TCPConn).CloseWrite()
	}()
	got, err := io.Copy(io.Discard, conn)
	var network net.Error
	if errors.As(err, &network) && network.Timeout() {
		return fmt.Errorf("%d bytes came, and the connection is still open after %v: %s", got, *patience, wire.Excerpt(text))
	}

	return nil
}

func several(s *storm, random *rand.Rand) error {
	conn, err := s.dial()
	if err != nil {
		return nil
	}
	defer away(conn, random)
	var text []byte
	for range 2 + random.IntN(9) {
		text = append(text, s.asker.Request(s.cell(random)).Bytes()...)
	}
	go conn.Write(text)
	some(conn, amount(random, 1_000_000))

	return nil
}

// inOrder waits for every answer: each one is an answer, until the connection ends.
func inOrder(s *storm, random *rand.Rand) error {
	conn, err := wire.Dial(s.server.Addrs[0], time.Now().Add(*patience))
	if err != nil {
		return nil
	}
	defer conn.Close()
	var text []byte
	var requests []wire.Request
	for len(requests) < 2+random.IntN(6) {
		c := s.cell(random)
		if c.Source.Upgrade || c.Source.Cut {
			continue
		}
		r := s.asker.Request(c)
		requests = append(requests, r)
		text = append(text, r.Bytes()...)
	}
	turn := s.turn.Load()
	go conn.Write(text)
	for i, r := range requests {
		a := conn.Answer(r)
		switch {
		case errors.Is(a.Err, wire.ErrClosed), errors.Is(a.Err, wire.ErrTruncated) && !s.undisturbed(turn):
			return nil
		case a.Err != nil:
			return fmt.Errorf("answer %d of those to %v: %v", i+1, requests, a)
		case a.Close:
			return conn.Ended()
		}
	}

	return nil
}

func nonsense(s *storm, random *rand.Rand) error {
	r := s.asker.Request(s.cell(random))
	host := "\r\nHost: " + r.Host + "\r\n"
	texts := []string{
		"GET " + r.Target + "\r\n",
		"GET " + r.Target + "\n",
		"GET /%zz HTTP/1.1" + host + "\r\n",
		"GET /../../etc HTTP/1.1" + host + "\r\n",
		"CONNECT " + r.Host + ":443 HTTP/1.1" + host + "\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("\x00\xff", 100),
		"GET /" + strings.Repeat("long/", 3000) + " HTTP/1.1" + host + "\r\n",
		"GET " + r.Target + " HTTP/1.1" + host + "X: " + strings.Repeat("x", 40_000) + "\r\n\r\n",
		"GET " + r.Target + " HTTP/1.1" + host + strings.Repeat("X-Many: a line\r\n", 2000) + "\r\n",
		"GET " + r.Target + " HTTP/1.1\r\n\r\n",
		"GET " + r.Target + " HTTP/1.1" + host + "Host: another\r\n\r\n",
		"GET " + r.Target + " HTTP/9.9" + host + "\r\n",
		"TRACE " + r.Target + " HTTP/1.1" + host + "\r\n",
		"OPTIONS * HTTP/1.1" + host + "\r\n",
		"POST " + r.Target + " HTTP/1.1" + host + "Content-Length: 99999999999\r\n\r\nx",
		"POST " + r.Target + " HTTP/1.1" + host + "Content-Length: -1\r\n\r\n",
		"POST " + r.Target + " HTTP/1.1" + host + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"PUT " + r.Target + " HTTP/1.1" + host + "Content-Range: bytes 0-1/2\r\nContent-Length: 2\r\n\r\nxx",
		"GET " + r.Target + " HTTP/1.1" + host + "Range: bytes=" + strings.Repeat("0-1,", 500) + "5-\r\n\r\n",
		"GET " + r.Target + " HTTP/1.1" + host + "Expect: 100-continue\r\nContent-Length: 100\r\n\r\n",
	}
	text := []byte(texts[random.IntN(len(texts))])
	if random.IntN(5) == 0 {
		// And some that is nothing at all.
		for range 1 + random.IntN(200) {
			text[random.IntN(len(text))] = byte(random.IntN(256))
		}
	}

	return s.last(text)
}

// broken is a body in chunks that are not what they say, or too many, or too few.
func broken(s *storm, random *rand.Rand) error {
	r := s.asker.Request(s.cell(random))
	text := fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: chunked\r\n\r\n", r.Target, r.Host)
	if random.IntN(2) == 0 {
		text = fmt.Appendf(nil, "POST /post-refused/ HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: chunked\r\n\r\n", r.Host)
	}
	for range 1 + random.IntN(10) {
		piece := bytes.Repeat([]byte("x"), random.IntN(3000)+1)
		text = fmt.Appendf(text, "%x\r\n%s\r\n", len(piece), piece)
	}
	switch random.IntN(4) {
	case 0:
		text = append(text, "zz\r\nnonsense\r\n"...)
	case 1:
		text = append(text, "ffffffffffffffffff\r\n"...)
	case 2:
		text = append(text, "100\r\nshort"...)
	default:
		text = append(text, "0\r\n\r\n"...)
	}
	if random.IntN(2) == 0 {
		return s.last(text)
	}
	conn, err := s.dial()
	if err != nil {
		return nil
	}
	defer away(conn, random)
	_, _ = conn.Write(text)
	pause(random)

	return nil
}

func dawdle(s *storm, random *rand.Rand) error {
	conn, err := wire.DialSlow(s.server.Addrs[0], time.Now().Add(*patience))
	if err != nil {
		return nil
	}
	defer away(conn.Conn, random)
	_, _ = conn.Write(s.asker.Request(s.cell(random)).Bytes())
	for range random.IntN(20) {
		some(conn.Conn, random.IntN(5000))
		pause(random)
	}

	return nil
}

func tunnel(s *storm, random *rand.Rand) error {
	conn, err := s.dial()
	if err != nil {
		return nil
	}
	defer away(conn, random)
	c := s.cell(random)
	_, _ = fmt.Fprintf(conn, "GET /upgrade/ HTTP/1.1\r\nHost: %s\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n", c.Server.Host())
	for range random.IntN(5) {
		_, _ = conn.Write(bytes.Repeat([]byte("tunnel "), 1+random.IntN(5000)))
		pause(random)
		some(conn, random.IntN(5000))
	}

	return nil
}

// resets opens streams, some of which it lets nothing through, resets some of them and goes away.
func resets(s *storm, random *rand.Rand) error {
	window := []uint32{0, 1, 5000, 1 << 20}[random.IntN(4)]
	conn, err := wire.DialH2(s.server.Addrs[1], time.Now().Add(*patience), window)
	if err != nil {
		return nil
	}
	defer func() { away(conn.Conn, random) }()
	read := make(chan struct{})
	go func() {
		defer close(read)
		for {
			if _, err := conn.Framer.ReadFrame(); err != nil {
				return
			}
		}
	}()
	var open []uint32
	for range 1 + random.IntN(12) {
		switch random.IntN(6) {
		case 0, 1, 2:
			r := s.asker.Request(s.untunnelled(random))
			id, err := conn.Send(r)
			if err != nil {
				return nil
			}
			open = append(open, id)
		case 3:
			if len(open) > 0 {
				_ = conn.Framer.WriteRSTStream(open[random.IntN(len(open))], http2.ErrCodeCancel)
			}
		case 4:
			if len(open) > 0 {
				_ = conn.Framer.WriteWindowUpdate(open[random.IntN(len(open))], uint32(1+random.IntN(100_000)))
			}
		case 5:
			_ = conn.Framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: uint32(random.IntN(100_000))})
		}
		pause(random)
	}
	if random.IntN(2) == 0 {
		_ = conn.Framer.WriteGoAway(0, http2.ErrCodeNo, nil)
	}

	return nil
}

// untunnelled is a cell that can be asked over HTTP/2.
func (s *storm) untunnelled(random *rand.Rand) cell.Cell {
	for {
		if c := s.cell(random); !c.Source.Upgrade {
			return c
		}
	}
}

// frames is HTTP/2 that is none.
func frames(s *storm, random *rand.Rand) error {
	conn, err := wire.DialH2(s.server.Addrs[1], time.Now().Add(*patience), 1<<16)
	if err != nil {
		return nil
	}
	defer func() { away(conn.Conn, random) }()
	_, _ = conn.Send(s.asker.Request(s.untunnelled(random)))
	pause(random)
	payload := make([]byte, random.IntN(300))
	for i := range payload {
		payload[i] = byte(random.IntN(256))
	}
	_ = conn.Framer.WriteRawFrame(http2.FrameType(random.IntN(12)), http2.Flags(random.IntN(256)), uint32(random.IntN(5)), payload)
	pause(random)
	some(conn.Conn, amount(random, 10_000))

	return nil
}
