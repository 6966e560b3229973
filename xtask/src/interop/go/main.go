// A peer of another language: serves what zap_peer checks, and checks what zap_peer serves.
//
// It is built twice where that is possible: on own.go, a second reading of the wire's description that
// shares no line with the Rust one, and on the reference module (build tag "reference").
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const node = "node.interop.example"

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	directory := ""
	if len(args) >= 2 && args[len(args)-2] == "--tls" {
		directory, args = args[len(args)-1], args[:len(args)-2]
	}
	var config *tls.Config
	if directory != "" {
		var err error
		if config, err = tlsConfig(directory); err != nil {
			return err
		}
	}
	switch {
	case len(args) == 1 && args[0] == "serve":
		return serveUntilInputEnds(config)
	case len(args) == 2 && args[0] == "check":
		return check(args[1], config)
	}
	return errors.New("usage: peer serve|check ADDR [--tls DIR]")
}

// The policy of the mesh: TLS 1.3, the hybrid exchange alone, certificates on both sides.
func tlsConfig(directory string) (*tls.Config, error) {
	certificate, err := tls.LoadX509KeyPair(
		filepath.Join(directory, "node.pem"), filepath.Join(directory, "node.key"))
	if err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(filepath.Join(directory, "ca.pem"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	return &tls.Config{
		Certificates:     []tls.Certificate{certificate},
		RootCAs:          roots,
		ClientCAs:        roots,
		ClientAuth:       tls.RequireAndVerifyClientCert,
		ServerName:       node,
		MinVersion:       tls.VersionTLS13,
		CurvePreferences: []tls.CurveID{tls.X25519MLKEM768},
		NextProtos:       []string{"zap-http/1"},
	}, nil
}

func serveUntilInputEnds(config *tls.Config) error {
	addr, serving, err := start(handler(), config)
	if err != nil {
		return err
	}
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	fmt.Println("ready", addr)
	return serving()
}

func handler() http.Handler {
	released := make(chan struct{}, 16)
	mux := http.NewServeMux()
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Echo-Method", r.Method)
		w.Header().Set("Echo-Target", r.URL.RequestURI())
		w.Header().Set("Echo-Host", r.Host)
		for name, values := range r.Header {
			if strings.HasPrefix(name, "X-") {
				w.Header()["Echo-"+name] = values
			}
		}
		w.Write(body)
	})
	mux.HandleFunc("/conn", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.RemoteAddr) })
	mux.HandleFunc("/trailer", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Checksum")
		io.WriteString(w, "summed")
		w.Header().Set("X-Checksum", "abc123")
	})
	mux.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for count := range 3 {
			if count > 0 {
				<-released
			}
			fmt.Fprintf(w, "data: %d\n\n", count)
			w.(http.Flusher).Flush()
		}
	})
	mux.HandleFunc("/release", func(w http.ResponseWriter, r *http.Request) { released <- struct{}{} })
	mux.HandleFunc("/cut", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "half a bo")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	mux.HandleFunc("/panic", func(w http.ResponseWriter, r *http.Request) { panic("on purpose") })
	mux.HandleFunc("/status/{status}", func(w http.ResponseWriter, r *http.Request) {
		status, _ := strconv.Atoi(r.PathValue("status"))
		w.WriteHeader(status)
		if status != http.StatusNoContent && status != http.StatusNotModified {
			fmt.Fprintf(w, "status %d", status)
		}
	})
	return mux
}

type answer struct {
	*http.Response
	text []byte
}

func send(client *http.Client, request *http.Request, err error) (answer, error) {
	if err != nil {
		return answer{}, err
	}
	response, err := client.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return answer{response, text}, err
}

func check(addr string, config *tls.Config) error {
	client := &http.Client{Transport: newTransport(addr, config), Timeout: 30 * time.Second}
	other := &http.Client{Transport: newTransport(addr, config), Timeout: 30 * time.Second}
	url := func(path string) string { return "http://" + addr + path }
	get := func(path string) (answer, error) {
		request, err := http.NewRequest("GET", url(path), nil)
		return send(client, request, err)
	}
	report := func(row, what string, err error) {
		if err == nil {
			fmt.Println("ok", row, what)
		} else {
			fmt.Printf("FAIL %s %s: %v\n", row, what, err)
		}
	}

	report("Z-001", "a POST with headers and a body", func() error {
		request, err := http.NewRequest("POST", url("/echo?height=42"), strings.NewReader(`{"block":42}`))
		if err == nil {
			request.Header.Set("Content-Type", "application/json")
			request.Header.Set("X-Trace-Id", "abc-123")
		}
		got, err := send(client, request, err)
		return first(err, func() error {
			return same(
				[]any{got.StatusCode, got.Header.Get("Echo-Method"), got.Header.Get("Echo-Target"),
					got.Header.Get("Echo-X-Trace-Id"), string(got.text)},
				[]any{200, "POST", "/echo?height=42", "abc-123", `{"block":42}`})
		})
	}())
	report("Z-002", "a GET without anything", func() error {
		got, err := get("/echo")
		return first(err, func() error {
			return same([]any{got.Header.Get("Echo-Method"), len(got.text)}, []any{"GET", 0})
		})
	}())
	report("Z-004", "a trailer", func() error {
		got, err := get("/trailer")
		return first(err, func() error {
			return same([]any{got.Header.Get("X-Checksum"), got.Trailer.Get("X-Checksum"), string(got.text)},
				[]any{"", "abc123", "summed"})
		})
	}())
	report("Z-005", "a repeated header", func() error {
		request, err := http.NewRequest("GET", url("/echo"), nil)
		if err == nil {
			request.Header["X-Multi"] = []string{"one", "two", "three"}
		}
		got, err := send(client, request, err)
		return first(err, func() error {
			return same([]any{got.Header.Values("Echo-X-Multi")}, []any{[]string{"one", "two", "three"}})
		})
	}())
	report("Z-006", "odd header values", func() error {
		for _, value := range []string{`"quoted" \ back`, "<b>&amp;</b>", "grüße 🦀"} {
			request, err := http.NewRequest("GET", url("/echo"), nil)
			if err == nil {
				request.Header.Set("X-Odd", value)
			}
			got, err := send(client, request, err)
			if err = first(err, func() error {
				return same([]any{got.Header.Get("Echo-X-Odd")}, []any{value})
			}); err != nil {
				return err
			}
		}
		return nil
	}())
	report("Z-007", "the host", func() error {
		request, err := http.NewRequest("GET", url("/echo"), nil)
		if err == nil {
			request.Host = "given.example"
		}
		got, err := send(client, request, err)
		return first(err, func() error { return same([]any{got.Header.Get("Echo-Host")}, []any{"given.example"}) })
	}())
	report("Z-015", "five requests on one connection", func() error {
		alone := &http.Client{Transport: newTransport(addr, config)}
		seen := map[string]bool{}
		for range 5 {
			request, err := http.NewRequest("GET", url("/conn"), nil)
			got, err := send(alone, request, err)
			if err != nil {
				return err
			}
			seen[string(got.text)] = true
		}
		return same([]any{len(seen)}, []any{1})
	}())
	report("Z-016", "statuses with and without bodies", func() error {
		for _, status := range []int{404, 500, 503, 418, 204, 304} {
			text := fmt.Sprintf("status %d", status)
			if status == 204 || status == 304 {
				text = ""
			}
			got, err := get(fmt.Sprintf("/status/%d", status))
			if err = first(err, func() error {
				return same([]any{got.StatusCode, string(got.text)}, []any{status, text})
			}); err != nil {
				return err
			}
		}
		return nil
	}())
	report("Z-017", "binary and large bodies", func() error {
		state := uint64(0x2545f4914f6cdd1d)
		random := make([]byte, 4<<20)
		for at := range random {
			state ^= state << 13
			state ^= state >> 7
			state ^= state << 17
			random[at] = byte(state >> 32)
		}
		for _, body := range [][]byte{{0, 0xff, 0, 0xff, '\n', 0}, random, bytes.Repeat([]byte{7}, 60<<20)} {
			request, err := http.NewRequest("POST", url("/echo"), bytes.NewReader(body))
			got, err := send(client, request, err)
			if err != nil {
				return err
			}
			if !bytes.Equal(got.text, body) {
				return fmt.Errorf("%d bytes came back changed", len(body))
			}
		}
		return nil
	}())
	report("Z-018", "a handler that panics", func() error {
		got, err := get("/panic")
		if err = first(err, func() error { return same([]any{got.StatusCode}, []any{500}) }); err != nil {
			return err
		}
		got, err = get("/status/418")
		return first(err, func() error { return same([]any{got.StatusCode}, []any{418}) })
	}())
	report("Z-019", "events, each when it is released", func() error {
		response, err := client.Get(url("/events"))
		if err != nil {
			return err
		}
		defer response.Body.Close()
		for count := range 3 {
			if count > 0 {
				request, err := http.NewRequest("GET", url("/release"), nil)
				if _, err = send(other, request, err); err != nil {
					return err
				}
			}
			expected := fmt.Sprintf("data: %d\n\n", count)
			got := make([]byte, len(expected))
			if _, err := io.ReadFull(response.Body, got); err != nil {
				return err
			}
			if err := same([]any{string(got)}, []any{expected}); err != nil {
				return err
			}
		}
		rest, err := io.ReadAll(response.Body)
		return first(err, func() error { return same([]any{len(rest)}, []any{0}) })
	}())
	report("Z-020", "a stream that is cut", func() error {
		if _, err := get("/cut"); err == nil {
			return errors.New("a body that was cut looked whole")
		}
		got, err := get("/status/418")
		return first(err, func() error { return same([]any{got.StatusCode}, []any{418}) })
	}())
	return nil
}

func first(err error, then func() error) error {
	if err != nil {
		return err
	}
	return then()
}

func same(got, expected []any) error {
	if g, e := fmt.Sprintf("%q", got), fmt.Sprintf("%q", expected); g != e {
		return fmt.Errorf("got %s, expected %s", g, e)
	}
	return nil
}

func listen(config *tls.Config) (net.Listener, error) {
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err == nil && config != nil {
		listener = tls.NewListener(listener, config)
	}
	return listener, err
}
