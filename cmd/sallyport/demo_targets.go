package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
)

// demoPage is what the web target shows to a browser.
const demoPage = `<!doctype html>
<title>Sallyport</title>
<body style="font: 1.1em/1.6 sans-serif; max-width: 38em; margin: 3em auto">
<h1>You are on the other side.</h1>
<p>This page came from a web server that only the <b>server agent</b> talks to: through a WebSocket, inside TLS, inside
an HTTP CONNECT tunnel, past a proxy that wants a password, and out at the <b>client agent</b>'s listener, which is the
address in your browser.</p>
<p>Both agents, the proxy and this server run in the demo that you started.</p>
`

// demoPayload is random bytes, the same ones each time that they are read.
type demoPayload struct {
	seed [32]byte
	size int64
}

func (p demoPayload) reader() io.Reader { return io.LimitReader(rand.NewChaCha8(p.seed), p.size) }

// hexSum is a SHA-256 as people compare it.
func hexSum(sum []byte) string { return hex.EncodeToString(sum) }

// sumTrailer is the HTTP trailer in which the web target tells the SHA-256 of what it sent.
const sumTrailer = "Sha-256"

// demoWeb is the web target: a page, something large to download, and a place to upload to.
type demoWeb struct{ payload demoPayload }

// run serves until ctx ends.
func (t *demoWeb) run(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, demoPage) })
	mux.HandleFunc("GET /download", t.download)
	mux.HandleFunc("POST /upload", upload)
	return serveHTTP(ctx, l, mux)
}

// serveHTTP serves until ctx ends.
func serveHTTP(ctx context.Context, l net.Listener, h http.Handler) error {
	server := &http.Server{
		Handler: h, ReadHeaderTimeout: demoTimeout,
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
	}
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(closed)
		server.Close()
	})
	err := server.Serve(l)
	if stop() {
		return err
	}
	<-closed
	return nil
}

func (t *demoWeb) download(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Trailer", sumTrailer)
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(w, sum), t.payload.reader()); err == nil {
		w.Header().Set(sumTrailer, hexSum(sum.Sum(nil)))
	}
}

// upload answers with the SHA-256 of what arrived.
func upload(w http.ResponseWriter, r *http.Request) {
	sum := sha256.New()
	if _, err := io.Copy(sum, r.Body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	_, _ = io.WriteString(w, hexSum(sum.Sum(nil)))
}

// demoEcho is the echo target.
func demoEcho(ctx context.Context, l net.Listener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	for {
		c, err := l.Accept()
		if err != nil {
			if stop() {
				return err
			}
			return nil
		}
		wg.Go(func() {
			end := context.AfterFunc(ctx, func() { c.Close() })
			_, _ = io.Copy(c, c)
			if end() {
				c.Close()
			}
		})
	}
}
