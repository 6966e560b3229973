//go:build reference

package main

import (
	"crypto/tls"
	"net"
	"net/http"

	zaphttp "github.com/zap-proto/http"
)

// The module listens by itself, so a free port is looked for first.
func start(handler http.Handler, _ *tls.Config) (string, func() error, error) {
	listener, err := listen(nil)
	if err != nil {
		return "", nil, err
	}
	addr := listener.Addr().String()
	listener.Close()
	failed := make(chan error, 1)
	go func() { failed <- zaphttp.ListenAndServe(addr, handler) }()
	for {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
			return addr, func() error { return <-failed }, nil
		}
		select {
		case err := <-failed:
			return "", nil, err
		default:
		}
	}
}

func newTransport(addr string, _ *tls.Config) http.RoundTripper { return zaphttp.NewTransport(addr) }
