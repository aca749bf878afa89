package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"sallyport/proxy"
)

const (
	// readyTimeout bounds a readiness check: probes give up after a second or a few, and should get the reason before.
	readyTimeout = 900 * time.Millisecond
	// headerTimeout and idleTimeout bound what a silent connection to the admin listener costs.
	headerTimeout = 5 * time.Second
	idleTimeout   = time.Minute
	// maxHeader is far above what a scraper sends, in bytes.
	maxHeader = 16 << 10
	// farewell is how long requests may take to finish once Serve is told to end.
	farewell = time.Second
)

// Options say about which agent to tell. Status and Ready are required; they are called from several goroutines.
type Options struct {
	// Status returns a snapshot of the agent.
	Status func() proxy.Status
	// Ready returns nil while the agent can do its work, before ctx ends; else why not.
	Ready func(ctx context.Context) error
	// Version is the program's, for the build info metric.
	Version string
	// Logger gets failures of the listener; nil discards.
	Logger *slog.Logger
}

// Admin is the handler of an agent's admin pages. It is safe for concurrent use.
type Admin struct {
	o        Options
	mux      *http.ServeMux
	registry *prometheus.Registry
	rtt      prometheus.Histogram
}

// New makes the pages for one agent, with a metrics registry of their own.
func New(o Options) *Admin {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	a := &Admin{o: o, mux: http.NewServeMux(), registry: prometheus.NewRegistry(), rtt: newRTT()}
	a.registry.MustRegister( // fails only for a name that is there twice: a test would see it
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		newBuildInfo(o.Version),
		a.rtt,
		newCollector(o.Status),
	)
	a.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, "alive") })
	a.mux.HandleFunc("GET /readyz", a.ready)
	a.mux.HandleFunc("GET /status", a.status)
	a.mux.Handle("GET /metrics", promhttp.HandlerFor(a.registry, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(o.Logger.Handler(), slog.LevelWarn),
	}))
	return a
}

// ObserveRTT adds one measured round trip of a PING to the histogram. It never blocks for long.
func (a *Admin) ObserveRTT(d time.Duration) { a.rtt.Observe(d.Seconds()) }

// ServeHTTP implements http.Handler.
func (a *Admin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	a.mux.ServeHTTP(w, r)
}

// Serve serves the pages on l until ctx ends, then closes l and gives running requests a second. The error is why l
// stopped accepting, nil if ctx ended.
func (a *Admin) Serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler:           a,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(a.o.Logger.Handler(), slog.LevelDebug),
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
		defer cancel()
		if server.Shutdown(last) != nil {
			_ = server.Close()
		}
	})
	err := server.Serve(l)
	if stop() {
		return fmt.Errorf("admin listener: %w", err)
	}
	<-ended
	return nil
}

// ready asks the agent whether it can do its work.
func (a *Admin) ready(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
	defer cancel()
	if err := a.o.Ready(ctx); err != nil {
		plain(w, http.StatusServiceUnavailable, "not ready: "+err.Error())
		return
	}
	plain(w, http.StatusOK, "ready")
}

// status writes the whole snapshot.
func (a *Admin) status(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(a.o.Status()) // fails only when the reader has gone
}

// plain answers with one line of text.
func plain(w http.ResponseWriter, code int, line string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	_, _ = io.WriteString(w, line+"\n")
}
