package admin

import (
	"runtime"

	"github.com/prometheus/client_golang/prometheus"

	"sallyport/proxy"
)

// collector turns one snapshot into metrics at each scrape.
type collector struct {
	snapshot func() proxy.Status
	figures  []figure
}

// figure is one metric: its description, and how to read it from a snapshot.
type figure struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	// Either value, for a metric without label, or values, by the label's value.
	value  func(*proxy.Status) float64
	values func(*proxy.Status) map[string]float64
}

func newCollector(snapshot func() proxy.Status) *collector {
	return &collector{snapshot: snapshot, figures: figures()}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, f := range c.figures {
		ch <- f.desc
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	st := c.snapshot()
	for _, f := range c.figures {
		if f.value != nil {
			ch <- prometheus.MustNewConstMetric(f.desc, f.kind, f.value(&st))
			continue
		}
		for label, v := range f.values(&st) {
			ch <- prometheus.MustNewConstMetric(f.desc, f.kind, v, label)
		}
	}
}

func gauge(name, help string, value func(*proxy.Status) float64) figure {
	return figure{desc: prometheus.NewDesc("sallyport_"+name, help, nil, nil), kind: prometheus.GaugeValue, value: value}
}

func gauges(name, help, label string, values func(*proxy.Status) map[string]float64) figure {
	return figure{desc: prometheus.NewDesc("sallyport_"+name, help, []string{label}, nil), kind: prometheus.GaugeValue, values: values}
}

func counter(name, help string, value func(*proxy.Counters) uint64) figure {
	return figure{
		desc: prometheus.NewDesc("sallyport_"+name, help, nil, nil), kind: prometheus.CounterValue,
		value: func(st *proxy.Status) float64 { return float64(value(&st.Counters)) },
	}
}

// counters has one value for each label's value; those of known are there from the start, as 0, so that the first
// event is an increase too.
func counters(name, help, label string, known []string, values func(*proxy.Counters) map[string]uint64) figure {
	return figure{
		desc: prometheus.NewDesc("sallyport_"+name, help, []string{label}, nil), kind: prometheus.CounterValue,
		values: func(st *proxy.Status) map[string]float64 {
			out := make(map[string]float64)
			for _, label := range known {
				out[label] = 0
			}
			for label, n := range values(&st.Counters) {
				out[label] = float64(n)
			}
			return out
		},
	}
}

// figures is the list of all metrics that come from a snapshot.
func figures() []figure {
	return []figure{
		gauges("sessions", "Live sessions, by whether a carrier is attached.", "state", sessions),
		gauge("carriers", "Carriers attached to a session.", carriers),
		gauges("streams", "Streams being relayed, by state: opening until the target's agent has answered, then open.", "state", streams),
		gauge("listeners", "Open listeners: forwards at a client agent, reverse forwards at a server agent.",
			func(st *proxy.Status) float64 { return float64(len(st.Listeners)) }),
		gauge("waiting_connections", "Accepted connections that wait for a session (client agent).",
			func(st *proxy.Status) float64 { return float64(st.Waiting) }),
		gauge("draining", "1 once the agent drains, else 0.", draining),

		counter("sessions_opened_total", "Sessions established.",
			func(c *proxy.Counters) uint64 { return c.SessionsOpened }),
		counter("sessions_lost_total", "Sessions that ended with their streams, not by a drain or a close.",
			func(c *proxy.Counters) uint64 { return c.SessionsLost }),
		counter("carriers_opened_total", "Carriers whose WebSocket handshake succeeded.",
			func(c *proxy.Counters) uint64 { return c.CarriersOpened }),
		counters("carriers_lost_total", "Carriers that ended, by cause: closed by a WebSocket close, eof without one, surplus when fewer do.", "cause", nil,
			func(c *proxy.Counters) map[string]uint64 { return c.CarrierLosses }),
		counters("dial_failures_total", "Attempts to reach the server agent that failed, by cause (client agent).", "cause", dialCauses(),
			func(c *proxy.Counters) map[string]uint64 { return c.DialFailures }),
		counter("auth_failures_total", "Requests turned away for their credentials (server agent).",
			func(c *proxy.Counters) uint64 { return c.AuthFailures }),
		counter("resumes_total", "Carriers that joined a session which had none left.",
			func(c *proxy.Counters) uint64 { return c.Resumes }),
		counter("replayed_bytes_total", "Payload bytes queued again after a carrier was lost or suspected.",
			func(c *proxy.Counters) uint64 { return c.BytesReplayed }),
		counters("transferred_bytes_total", "Payload bytes handed to carriers (sent) and passed on from them (received).", "direction", nil, transferred),

		counter("streams_opened_total", "Streams whose target was reached.",
			func(c *proxy.Counters) uint64 { return c.StreamsOpened }),
		counters("streams_ended_total", "Relayed streams that ended, by cause; eof is the clean one.", "cause", []string{"eof"},
			func(c *proxy.Counters) map[string]uint64 { return c.StreamsEnded }),
		counters("open_failures_total", "Streams whose target was not reached, by cause.", "cause", openCauses(),
			func(c *proxy.Counters) map[string]uint64 { return c.OpenFailures }),
		counter("connections_dropped_total", "Accepted connections that were reset because too many waited, or waited too long.",
			func(c *proxy.Counters) uint64 { return c.ConnectionsDropped }),
	}
}

func sessions(st *proxy.Status) map[string]float64 {
	out := map[string]float64{"attached": 0, "detached": 0}
	for _, s := range st.Sessions {
		if s.Carriers > 0 {
			out["attached"]++
		} else {
			out["detached"]++
		}
	}
	return out
}

func carriers(st *proxy.Status) (n float64) {
	for _, s := range st.Sessions {
		n += float64(s.Carriers)
	}
	return n
}

func streams(st *proxy.Status) map[string]float64 {
	out := map[string]float64{proxy.StreamOpening: 0, proxy.StreamOpen: 0}
	for _, s := range st.Streams {
		out[s.State]++
	}
	return out
}

func draining(st *proxy.Status) float64 {
	if st.Draining {
		return 1
	}
	return 0
}

func transferred(c *proxy.Counters) map[string]uint64 {
	return map[string]uint64{"sent": c.BytesSent, "received": c.BytesReceived}
}

func dialCauses() []string {
	return []string{
		string(proxy.CauseNetwork), string(proxy.CauseAuth), string(proxy.CauseTLS),
		string(proxy.CauseConfig), string(proxy.CauseLimit),
	}
}

// openCauses are the reasons for which a target is not reached that an operator may want to be told of.
func openCauses() []string {
	var names []string
	for code := proxy.CodeDenied; code <= proxy.CodeInUse; code++ {
		names = append(names, code.String())
	}
	return names
}

// newRTT makes the histogram of round trips: from a loopback's to those over which nobody types any more.
func newRTT() prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "sallyport_rtt_seconds", Help: "Round trips of PINGs through a carrier, in the data path.",
		Buckets: []float64{.0005, .001, .0025, .005, .01, .02, .03, .05, .075, .1, .15, .25, .5, 1, 2.5, 5, 10},
	})
}

// newBuildInfo makes the metric that tells what runs; its value is always 1.
func newBuildInfo(version string) prometheus.Collector {
	labels := prometheus.Labels{"version": version, "goversion": runtime.Version(), "protocol": proxy.Subprotocol}
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sallyport_build_info", Help: "What runs, in the labels; always 1.", ConstLabels: labels,
	}, func() float64 { return 1 })
}
