package wire

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// H2 is a connection of HTTP/2 without TLS.
type H2 struct {
	Conn   net.Conn
	Framer *http2.Framer

	window  uint32
	stream  uint32
	encoder *hpack.Encoder
	block   bytes.Buffer
}

// DialH2 connects and offers so many bytes at first for each stream.
func DialH2(addr string, deadline time.Time, window uint32) (*H2, error) {
	conn, err := (&net.Dialer{Deadline: deadline}).Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(deadline)
	c := &H2{Conn: conn, Framer: http2.NewFramer(conn, conn), window: window, stream: 1}
	c.Framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.Framer.SetMaxReadFrameSize(1 << 20)
	c.encoder = hpack.NewEncoder(&c.block)
	_, err = conn.Write([]byte(http2.ClientPreface))
	err = errors.Join(err,
		c.Framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window}, http2.Setting{ID: http2.SettingEnablePush, Val: 0}),
		c.Framer.WriteWindowUpdate(0, 1<<30))
	if err != nil {
		conn.Close()
		return nil, failure(err, ErrClosed)
	}

	return c, nil
}

// Close closes the connection.
func (c *H2) Close() { c.Conn.Close() }

// Send opens a stream for a request and returns its number. A connection that does not take it has ended without an answer.
func (c *H2) Send(r Request) (uint32, error) {
	id := c.stream
	c.stream += 2
	c.block.Reset()
	for _, f := range append([]Field{{":method", r.Method}, {":scheme", "http"}, {":authority", r.Host}, {":path", r.Target}}, r.Header...) {
		if err := c.encoder.WriteField(hpack.HeaderField{Name: lower(f.Name), Value: f.Value}); err != nil {
			return id, err
		}
	}
	if r.Body != nil && !r.Chunked {
		if err := c.encoder.WriteField(hpack.HeaderField{Name: "content-length", Value: strconv.Itoa(len(r.Body))}); err != nil {
			return id, err
		}
	}
	err := c.Framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.block.Bytes(), EndStream: r.Body == nil, EndHeaders: true})
	for rest := r.Body; err == nil && r.Body != nil; {
		piece := rest[:min(len(rest), 16384)]
		rest = rest[len(piece):]
		err = c.Framer.WriteData(id, len(rest) == 0, piece)
		if len(rest) == 0 {
			break
		}
	}
	if err != nil {
		return id, failure(err, ErrClosed)
	}

	return id, nil
}

// Answer reads the answer on one stream. A stream whose window is small is let go on a bit at a time: one byte first, then
// a hundred times as much each time that is used up.
func (c *H2) Answer(id uint32) (a Answer) {
	window, step := int(c.window), 1
	for {
		frame, err := c.Framer.ReadFrame()
		if err != nil {
			var stream http2.StreamError
			if errors.As(err, &stream) {
				a.Err = malformed("%v", err)
			} else {
				a.Err = failure(err, ErrClosed)
			}
			return a.cutAfterHeader()
		}
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				err = c.Framer.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				err = c.Framer.WritePing(true, f.Data)
			}
		case *http2.GoAwayFrame:
			if f.LastStreamID < id || f.ErrCode != http2.ErrCodeNo {
				a.Err = fmt.Errorf("%w: GOAWAY %v", ErrClosed, f.ErrCode)
				return a.cutAfterHeader()
			}
			a.Close = true
		case *http2.RSTStreamFrame:
			if f.StreamID == id {
				a.Err = fmt.Errorf("%w: RST_STREAM %v", ErrClosed, f.ErrCode)
				return a.cutAfterHeader()
			}
		case *http2.MetaHeadersFrame:
			if f.StreamID != id {
				break
			}
			if a.headers(f); a.Err != nil || f.StreamEnded() {
				return a
			}
		case *http2.DataFrame:
			if f.StreamID != id {
				break
			}
			if a.Status == 0 {
				a.Err = malformed("DATA before HEADERS")
				return a
			}
			a.Body = append(a.Body, f.Data()...)
			window -= len(f.Data())
			if window < 0 {
				a.Err = malformed("%d bytes beyond the window", -window)
				return a
			}
			if f.StreamEnded() {
				a.check()
				return a
			}
		}
		if a.Status != 0 && window == 0 {
			err = errors.Join(err, c.Framer.WriteWindowUpdate(id, uint32(step)))
			window += step
			step = min(step*100, 1<<20)
		}
		if err != nil {
			a.Err = failure(err, ErrClosed)
			return a.cutAfterHeader()
		}
	}
}

// What ends after the header has begun is cut short.
func (a Answer) cutAfterHeader() Answer {
	if a.Status != 0 && errors.Is(a.Err, ErrClosed) {
		a.Err = fmt.Errorf("%w (%v)", ErrTruncated, a.Err)
	}

	return a
}

func (a *Answer) headers(f *http2.MetaHeadersFrame) {
	if a.Status != 0 {
		for _, field := range f.RegularFields() {
			a.Trailer = append(a.Trailer, Field{field.Name, field.Value})
		}
		if !f.StreamEnded() {
			a.Err = malformed("trailers before the end")
		}
		a.check()
		return
	}
	status, err := strconv.Atoi(f.PseudoValue("status"))
	if err != nil {
		a.Err = malformed("no status")
		return
	}
	if status < 200 {
		return
	}
	a.Status, a.Framing = status, Stream
	for _, field := range f.RegularFields() {
		switch field.Name {
		case "connection", "keep-alive", "transfer-encoding", "upgrade":
			a.Err = malformed("%s in HTTP/2", field.Name)
		}
		a.Header = append(a.Header, Field{field.Name, field.Value})
	}
	if f.StreamEnded() {
		// No body: the length in a header is that of another answer, or 0.
		a.Framing = None
	}
}

// check compares the length that was announced.
func (a *Answer) check() {
	if length := a.Get("content-length"); length != "" && length != strconv.Itoa(len(a.Body)) && a.Err == nil {
		a.Err = malformed("content-length %s, %d bytes came", length, len(a.Body))
	}
}

func lower(name string) string {
	return string(bytes.ToLower([]byte(name)))
}
