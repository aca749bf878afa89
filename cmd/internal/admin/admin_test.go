package admin

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"sallyport/proxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sample is a snapshot in which every figure has a value of its own.
func sample() proxy.Status {
	return proxy.Status{
		Agent:     "server",
		Draining:  true,
		Sessions:  []proxy.SessionStatus{{Identity: "alice", Carriers: 3}, {Identity: "bob"}, {Identity: "carol", Carriers: 1}},
		Listeners: []proxy.ListenerStatus{{Addr: "127.0.0.1:8000"}},
		Streams:   []proxy.StreamStatus{{State: proxy.StreamOpen}, {State: proxy.StreamOpen}, {State: proxy.StreamOpening}},
		Waiting:   5,
		Counters: proxy.Counters{
			SessionsOpened: 11, SessionsLost: 12, CarriersOpened: 13,
			CarrierLosses: map[string]uint64{"reset": 14}, DialFailures: map[string]uint64{"tls": 15},
			Resumes: 16, BytesReplayed: 17, StreamsOpened: 18,
			StreamsEnded: map[string]uint64{"aborted": 19}, OpenFailures: map[string]uint64{"refused": 20},
			BytesSent: 21, BytesReceived: 22, AuthFailures: 23, ConnectionsDropped: 24,
		},
	}
}

func newAdmin(t *testing.T, st proxy.Status, ready error) *Admin {
	t.Helper()
	return New(Options{
		Status:  func() proxy.Status { return st },
		Ready:   func(context.Context) error { return ready },
		Version: "1.2.3",
	})
}

func get(t *testing.T, a http.Handler, path string) (code int, body string) {
	t.Helper()
	w := httptest.NewRecorder()
	a.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	if got := w.Header().Get("Cache-Control"); got != "no-store" {
		t.Errorf("%s: Cache-Control %q", path, got)
	}
	return w.Code, w.Body.String()
}

// The names follow Prometheus's rules, before anything has happened and after.
func TestMetricsLint(t *testing.T) {
	for name, st := range map[string]proxy.Status{"new agent": {}, "busy agent": sample()} {
		a := newAdmin(t, st, nil)
		a.ObserveRTT(time.Millisecond)
		problems, err := testutil.GatherAndLint(a.registry)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, p := range problems {
			t.Errorf("%s: %s: %s", name, p.Metric, p.Text)
		}
	}
}

func TestMetrics(t *testing.T) {
	a := newAdmin(t, sample(), nil)
	a.ObserveRTT(40 * time.Millisecond)
	a.ObserveRTT(300 * time.Millisecond)
	code, body := get(t, a, "/metrics")
	if code != http.StatusOK {
		t.Fatalf("status %d: %s", code, body)
	}
	lines := strings.Split(body, "\n")
	for _, want := range []string{
		`sallyport_sessions{state="attached"} 2`,
		`sallyport_sessions{state="detached"} 1`,
		`sallyport_carriers 4`,
		`sallyport_streams{state="open"} 2`,
		`sallyport_streams{state="opening"} 1`,
		`sallyport_listeners 1`,
		`sallyport_waiting_connections 5`,
		`sallyport_draining 1`,
		`sallyport_sessions_opened_total 11`,
		`sallyport_sessions_lost_total 12`,
		`sallyport_carriers_opened_total 13`,
		`sallyport_carriers_lost_total{cause="reset"} 14`,
		`sallyport_dial_failures_total{cause="tls"} 15`,
		`sallyport_dial_failures_total{cause="network"} 0`,
		`sallyport_resumes_total 16`,
		`sallyport_replayed_bytes_total 17`,
		`sallyport_streams_opened_total 18`,
		`sallyport_streams_ended_total{cause="aborted"} 19`,
		`sallyport_streams_ended_total{cause="eof"} 0`,
		`sallyport_open_failures_total{cause="refused"} 20`,
		`sallyport_open_failures_total{cause="denied"} 0`,
		`sallyport_open_failures_total{cause="in_use"} 0`,
		`sallyport_transferred_bytes_total{direction="sent"} 21`,
		`sallyport_transferred_bytes_total{direction="received"} 22`,
		`sallyport_auth_failures_total 23`,
		`sallyport_connections_dropped_total 24`,
		`sallyport_rtt_seconds_bucket{le="0.05"} 1`,
		`sallyport_rtt_seconds_count 2`,
	} {
		if !contains(lines, want) {
			t.Errorf("no line %q", want)
		}
	}
	for _, part := range []string{"sallyport_build_info{", `version="1.2.3"`, `protocol="` + proxy.Subprotocol + `"`, "go_goroutines", "process_resident_memory_bytes"} {
		if !strings.Contains(body, part) {
			t.Errorf("the metrics do not have %q", part)
		}
	}
}

func contains(lines []string, want string) bool {
	for _, line := range lines {
		if line == want {
			return true
		}
	}
	return false
}

func TestHealthAndReadiness(t *testing.T) {
	sick := errors.New("no session is attached")
	for _, c := range []struct {
		path  string
		ready error
		code  int
		body  string
	}{
		{"/healthz", nil, http.StatusOK, "alive\n"},
		{"/healthz", sick, http.StatusOK, "alive\n"},
		{"/readyz", nil, http.StatusOK, "ready\n"},
		{"/readyz", sick, http.StatusServiceUnavailable, "not ready: no session is attached\n"},
		{"/nothing", nil, http.StatusNotFound, "404 page not found\n"},
	} {
		if code, body := get(t, newAdmin(t, proxy.Status{}, c.ready), c.path); code != c.code || body != c.body {
			t.Errorf("%s, ready %v: %d %q, want %d %q", c.path, c.ready, code, body, c.code, c.body)
		}
	}
	w := httptest.NewRecorder()
	newAdmin(t, proxy.Status{}, nil).ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/readyz", nil))
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d, want 405", w.Code)
	}
}

// An agent that does not answer is not ready, and the probe is told in time.
func TestReadinessIsBounded(t *testing.T) {
	a := New(Options{
		Status: func() proxy.Status { return proxy.Status{} },
		Ready:  func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	})
	begin := time.Now()
	code, body := get(t, a, "/readyz")
	if took := time.Since(begin); code != http.StatusServiceUnavailable || took < readyTimeout || took > 10*readyTimeout {
		t.Errorf("%d %q after %v", code, body, took)
	}
}

func TestStatus(t *testing.T) {
	code, body := get(t, newAdmin(t, sample(), nil), "/status")
	var got proxy.Status
	if err := json.Unmarshal([]byte(body), &got); err != nil || code != http.StatusOK {
		t.Fatalf("%d, %v: %s", code, err, body)
	}
	if got.Agent != "server" || len(got.Sessions) != 3 || got.Counters.AuthFailures != 23 {
		t.Errorf("got %+v", got)
	}
}

// Serve answers on a real listener, and leaves nothing behind when its context ends.
func TestServe(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	served := make(chan error, 1)
	go func() { served <- newAdmin(t, proxy.Status{}, nil).Serve(ctx, l) }()

	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://" + l.Addr().String() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || string(body) != "alive\n" {
		t.Errorf("%q, %v", body, err)
	}
	cancel()
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if c, err := net.Dial("tcp", l.Addr().String()); err == nil {
		c.Close()
		t.Error("the listener is still open")
	}
}

// A listener that breaks is an error, not silence.
func TestServeBrokenListener(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := newAdmin(t, proxy.Status{}, nil).Serve(t.Context(), l); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, want net.ErrClosed", err)
	}
}
