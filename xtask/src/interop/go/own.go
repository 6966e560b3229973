//go:build !reference

package main

// ZAP-HTTP once more, as plainly as it can be read from the description of the wire.

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
)

const (
	typeRequest  = 1
	typeResponse = 2
	typeHead     = 3
	typeData     = 4
	typeEnd      = 5

	maxFrame = 64 << 20
)

type pair struct{ name, value string }

func putPairs(pairs []pair) []byte {
	if len(pairs) == 0 {
		return nil
	}
	out := binary.LittleEndian.AppendUint32(nil, uint32(len(pairs)))
	for _, p := range pairs {
		out = binary.LittleEndian.AppendUint32(out, uint32(len(p.name)))
		out = append(out, p.name...)
		out = binary.LittleEndian.AppendUint32(out, uint32(len(p.value)))
		out = append(out, p.value...)
	}
	return out
}

func readPairs(block []byte) ([]pair, error) {
	if len(block) == 0 {
		return nil, nil
	}
	short := errors.New("a pair block is too short")
	text := func() (string, error) {
		if len(block) < 4 {
			return "", short
		}
		size := binary.LittleEndian.Uint32(block)
		block = block[4:]
		if uint64(size) > uint64(len(block)) {
			return "", short
		}
		out := string(block[:size])
		block = block[size:]
		return out, nil
	}
	if len(block) < 4 {
		return nil, short
	}
	count := binary.LittleEndian.Uint32(block)
	block = block[4:]
	var pairs []pair
	for range count {
		name, err := text()
		if err != nil {
			return nil, err
		}
		value, err := text()
		if err != nil {
			return nil, err
		}
		pairs = append(pairs, pair{name, value})
	}
	return pairs, nil
}

// A frame with the prefix. Fields that are nil get an empty slot; a field of 8 raw bytes is `fixed`.
func putFrame(kind byte, fixed []byte, fields ...[]byte) []byte {
	const header = 16
	object := len(fixed) + 8*len(fields)
	frame := make([]byte, header+object)
	copy(frame, "ZAP\x00")
	binary.LittleEndian.PutUint16(frame[4:], 1)
	frame[7] = kind
	binary.LittleEndian.PutUint32(frame[8:], header)
	copy(frame[header:], fixed)
	for index, field := range fields {
		if len(field) == 0 {
			continue
		}
		slot := header + len(fixed) + 8*index
		binary.LittleEndian.PutUint32(frame[slot:], uint32(len(frame)-slot))
		binary.LittleEndian.PutUint32(frame[slot+4:], uint32(len(field)))
		frame = append(frame, field...)
	}
	binary.LittleEndian.PutUint32(frame[12:], uint32(len(frame)))
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...)
}

type frame struct {
	bytes []byte
	root  uint64
}

func (f frame) kind() byte { return f.bytes[7] }

// The bytes of the slot at this offset in the object.
func (f frame) field(offset uint64) ([]byte, error) {
	at, size := f.root+offset, uint64(len(f.bytes))
	if at+8 > size {
		return nil, errors.New("the object leaves the frame")
	}
	rel := uint64(binary.LittleEndian.Uint32(f.bytes[at:]))
	length := uint64(binary.LittleEndian.Uint32(f.bytes[at+4:]))
	if rel == 0 {
		return nil, nil
	}
	if at+rel < 16 || at+rel+length > size {
		return nil, errors.New("a slot leaves the frame")
	}
	return f.bytes[at+rel : at+rel+length], nil
}

func (f frame) pairs(offset uint64) ([]pair, error) {
	block, err := f.field(offset)
	if err != nil {
		return nil, err
	}
	return readPairs(block)
}

func readFrame(from io.Reader) (frame, error) {
	var prefix [4]byte
	if _, err := io.ReadFull(from, prefix[:]); err != nil {
		return frame{}, err
	}
	size := binary.BigEndian.Uint32(prefix[:])
	if size == 0 || size > maxFrame {
		return frame{}, fmt.Errorf("a frame of %d bytes", size)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(from, body); err != nil {
		return frame{}, fmt.Errorf("inside a frame: %w", err)
	}
	if size < 16 || string(body[:4]) != "ZAP\x00" {
		return frame{}, errors.New("no frame of this protocol")
	}
	root, whole := binary.LittleEndian.Uint32(body[8:]), binary.LittleEndian.Uint32(body[12:])
	if whole < 16 || whole > size || root < 16 || root >= whole {
		return frame{}, errors.New("the header of a frame is wrong")
	}
	return frame{body[:whole], uint64(root)}, nil
}

var ofTheConnection = map[string]bool{
	"Content-Length": true, "Trailer": true, "Connection": true, "Keep-Alive": true,
	"Proxy-Connection": true, "Transfer-Encoding": true, "Upgrade": true,
}

func pairsOf(header http.Header, without map[string]bool) []pair {
	var pairs []pair
	for name, values := range header {
		if ofTheConnection[name] || without[name] {
			continue
		}
		for _, value := range values {
			pairs = append(pairs, pair{name, value})
		}
	}
	return pairs
}

func headerOf(pairs []pair) http.Header {
	header := http.Header{}
	for _, p := range pairs {
		if !ofTheConnection[http.CanonicalHeaderKey(p.name)] {
			header.Add(p.name, p.value)
		}
	}
	return header
}

// The server.

func start(handler http.Handler, config *tls.Config) (string, func() error, error) {
	listener, err := listen(config)
	if err != nil {
		return "", nil, err
	}
	return listener.Addr().String(), func() error {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return err
			}
			go serveConn(conn, handler)
		}
	}, nil
}

func serveConn(conn net.Conn, handler http.Handler) {
	defer conn.Close()
	from := bufio.NewReader(conn)
	for {
		frame, err := readFrame(from)
		if err != nil {
			return
		}
		request, err := requestOf(frame)
		if err != nil {
			conn.Write(putFrame(typeResponse, []byte{0x90, 1, 0, 0, 0, 0, 0, 0}, nil, nil, nil, []byte(err.Error()), nil))
			return
		}
		request.RemoteAddr = conn.RemoteAddr().String()
		out := &writer{conn: conn, header: http.Header{}, status: 200}
		if !out.run(handler, request) {
			return
		}
	}
}

func requestOf(f frame) (*http.Request, error) {
	if f.kind() != typeRequest {
		return nil, fmt.Errorf("a request was expected, not a frame of type %d", f.kind())
	}
	var texts [3]string
	for index := range texts {
		field, err := f.field(uint64(8 * index))
		if err != nil {
			return nil, err
		}
		texts[index] = string(field)
	}
	pairs, err := f.pairs(24)
	if err != nil {
		return nil, err
	}
	body, err := f.field(32)
	if err != nil {
		return nil, err
	}
	target, err := url.ParseRequestURI(texts[1])
	if err != nil {
		return nil, err
	}
	header := headerOf(pairs)
	host := header.Get("Host")
	header.Del("Host")
	return &http.Request{
		Method: texts[0], URL: target, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: header,
		Host: host, RequestURI: texts[1], Body: io.NopCloser(bytes.NewReader(body)),
		ContentLength: int64(len(body)),
	}, nil
}

type writer struct {
	conn     net.Conn
	header   http.Header
	status   int
	wrote    bool
	streamed bool
	waiting  []byte
}

func (w *writer) Header() http.Header { return w.header }

func (w *writer) WriteHeader(status int) {
	if !w.wrote {
		w.status, w.wrote = status, true
	}
}

func (w *writer) Write(text []byte) (int, error) {
	w.WriteHeader(200)
	w.waiting = append(w.waiting, text...)
	return len(text), nil
}

func (w *writer) Flush() {
	w.WriteHeader(200)
	if !w.streamed {
		w.streamed = true
		w.conn.Write(w.message(typeHead, nil, nil))
	}
	if len(w.waiting) > 0 {
		w.conn.Write(putFrame(typeData, nil, w.waiting))
		w.waiting = nil
	}
}

func (w *writer) message(kind byte, body, trailers []byte) []byte {
	fixed := binary.LittleEndian.AppendUint64(nil, uint64(w.status))
	head := putPairs(pairsOf(w.header, w.trailerNames()))
	return putFrame(kind, fixed, []byte(http.StatusText(w.status)), []byte("HTTP/1.1"), head, body, trailers)
}

func (w *writer) trailerNames() map[string]bool {
	names := map[string]bool{}
	for _, list := range w.header["Trailer"] {
		for name := range strings.SplitSeq(list, ",") {
			names[http.CanonicalHeaderKey(strings.TrimSpace(name))] = true
		}
	}
	return names
}

// Whether the connection may go on.
func (w *writer) run(handler http.Handler, request *http.Request) (goesOn bool) {
	defer func() {
		if what := recover(); what != nil {
			goesOn = false
			if what != http.ErrAbortHandler && !w.streamed {
				failed := &writer{conn: w.conn, header: http.Header{}, status: 500}
				_, err := w.conn.Write(failed.message(typeResponse, nil, nil))
				goesOn = err == nil
			}
		}
	}()
	handler.ServeHTTP(w, request)
	var trailers []pair
	for name := range w.trailerNames() {
		for _, value := range w.header[name] {
			trailers = append(trailers, pair{name, value})
		}
	}
	var err error
	if w.streamed {
		w.Flush()
		_, err = w.conn.Write(putFrame(typeEnd, nil, putPairs(trailers)))
	} else {
		_, err = w.conn.Write(w.message(typeResponse, w.waiting, putPairs(trailers)))
	}
	return err == nil
}

// The client.

func newTransport(addr string, config *tls.Config) http.RoundTripper {
	return &transport{addr: addr, config: config}
}

type transport struct {
	addr   string
	config *tls.Config
	mutex  sync.Mutex
	idle   []*clientConn
}

type clientConn struct {
	net.Conn
	from *bufio.Reader
}

func (t *transport) connection() (*clientConn, error) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	if last := len(t.idle) - 1; last >= 0 {
		conn := t.idle[last]
		t.idle = t.idle[:last]
		return conn, nil
	}
	var conn net.Conn
	var err error
	if t.config == nil {
		conn, err = net.Dial("tcp", t.addr)
	} else {
		conn, err = tls.Dial("tcp", t.addr, t.config)
	}
	if err != nil {
		return nil, err
	}
	return &clientConn{conn, bufio.NewReader(conn)}, nil
}

func (t *transport) giveBack(conn *clientConn) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	t.idle = append(t.idle, conn)
}

func (t *transport) RoundTrip(request *http.Request) (*http.Response, error) {
	var body []byte
	if request.Body != nil {
		var err error
		body, err = io.ReadAll(request.Body)
		request.Body.Close()
		if err != nil {
			return nil, err
		}
	}
	host := request.Host
	if host == "" {
		host = request.URL.Host
	}
	pairs := append(pairsOf(request.Header, nil), pair{"Host", host})
	conn, err := t.connection()
	if err != nil {
		return nil, err
	}
	_, err = conn.Write(putFrame(typeRequest, nil, []byte(request.Method), []byte(request.URL.RequestURI()),
		[]byte("HTTP/1.1"), putPairs(pairs), body, nil))
	if err != nil {
		conn.Close()
		return nil, err
	}
	response, err := t.read(conn, request)
	if err != nil {
		conn.Close()
	}
	return response, err
}

func (t *transport) read(conn *clientConn, request *http.Request) (*http.Response, error) {
	f, err := readFrame(conn.from)
	if err != nil {
		return nil, err
	}
	if f.kind() != typeResponse && f.kind() != typeHead {
		return nil, fmt.Errorf("an answer was expected, not a frame of type %d", f.kind())
	}
	pairs, err := f.pairs(24)
	if err != nil {
		return nil, err
	}
	body, err := f.field(32)
	if err != nil {
		return nil, err
	}
	trailers, err := f.pairs(40)
	if err != nil {
		return nil, err
	}
	response := &http.Response{
		StatusCode: int(binary.LittleEndian.Uint16(f.bytes[f.root:])), Proto: "HTTP/1.1", ProtoMajor: 1,
		ProtoMinor: 1, Header: headerOf(pairs), Trailer: headerOf(trailers), ContentLength: -1, Request: request,
	}
	if f.kind() == typeHead {
		response.Body = &stream{conn: conn, transport: t, response: response}
		return response, nil
	}
	t.giveBack(conn)
	response.Body = io.NopCloser(bytes.NewReader(body))
	return response, nil
}

type stream struct {
	conn      *clientConn
	transport *transport
	response  *http.Response
	waiting   []byte
	err       error
}

func (s *stream) Read(into []byte) (int, error) {
	for len(s.waiting) == 0 && s.err == nil {
		s.next()
	}
	if len(s.waiting) == 0 {
		return 0, s.err
	}
	n := copy(into, s.waiting)
	s.waiting = s.waiting[n:]
	return n, nil
}

func (s *stream) next() {
	f, err := readFrame(s.conn.from)
	if err != nil {
		s.err = io.ErrUnexpectedEOF
		return
	}
	switch f.kind() {
	case typeData:
		s.waiting, s.err = f.field(0)
	case typeEnd:
		trailers, err := f.pairs(0)
		if err != nil {
			s.err = err
			return
		}
		s.response.Trailer = headerOf(trailers)
		s.err = io.EOF
		s.transport.giveBack(s.conn)
		s.conn = nil
	default:
		s.err = fmt.Errorf("a frame of type %d inside a stream", f.kind())
	}
}

func (s *stream) Close() error {
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
	if s.err == nil {
		s.err = errors.New("closed")
	}
	return nil
}
