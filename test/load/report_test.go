//go:build linux

package main

import (
	"bytes"
	"io"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{0: "0.00", 0.984: "0.98", 9.5: "9.50", 12.34: "12.3", 567.8: "568", -42: "-42.0"} {
		if got := number(v); got != want {
			t.Errorf("number(%v) = %s, want %s", v, got, want)
		}
	}
	if got := number(math.NaN()); got != "–" {
		t.Errorf("number(NaN) = %s", got)
	}
}

func TestVerdict(t *testing.T) {
	ratio := func(v float64) *result { return &result{Median: 1000, Ratio: &v} }
	more, less := &goal{must: 0.95, aim: 1.1}, &goal{must: 0.9, aim: 0.8}
	value := &goal{must: 24, aim: 12, absolute: true}
	for _, c := range []struct {
		goal *goal
		r    *result
		less bool
		want string
	}{
		{more, ratio(1.2), false, "aim reached"},
		{more, ratio(0.951), false, "must reached"},
		{more, ratio(0.949), false, "must reached"}, // the table shows 0.95
		{more, ratio(0.94), false, "MISSED"},
		{more, &result{Median: 1}, false, "no reference"},
		{less, ratio(0.8), true, "aim reached"},
		{less, ratio(0.9), true, "must reached"},
		{less, ratio(0.91), true, "MISSED"},
		{value, &result{Median: 11}, true, "aim reached"},
		{value, &result{Median: 24}, true, "must reached"},
		{value, &result{Median: 25}, true, "MISSED"},
	} {
		if got := c.goal.verdict(c.r, c.less); got != c.want {
			t.Errorf("%+v with %+v: %s, want %s", *c.goal, *c.r, got, c.want)
		}
	}
}

// Medians and ratios come from the right rounds, and land in the right cells.
func TestMarkdown(t *testing.T) {
	s := waitScenarios()[0]
	who := []contender{{name: nameSallyport}, {name: nameRelay}, {name: nameDirect}}
	r := newResults(who, []*scenario{s}, true)
	for round, v := range []struct{ ours, relay float64 }{{80, 100}, {300, 200}, {90, 100}} {
		r.add(s, nameSallyport, round, measures{"p50": v.ours, "unknown": 1}, "only so many")
		r.add(s, nameRelay, round, measures{"p50": v.relay}, "")
	}
	var b bytes.Buffer
	r.markdown(&b, about{Command: commandLine([]string{"-only", "a|b"}), Begun: time.Unix(0, 0)})
	for _, want := range []string{
		"`go run ./test/load -only 'a|b'`, 1970-01-01 00:00 UTC",
		"| round trip of 1 byte, p50 | µs | 90.0 (0.90) | 100 | – | ≤ 0.90 (0.80) | must reached |",
		"| round trip of 1 byte, p99 | µs | – | – | – |  |  |",
		"- ping, Sallyport: only so many",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, &b)
		}
	}
	if strings.Count(b.String(), "only so many") != 1 {
		t.Error("a note is repeated")
	}
}

func TestParseFlags(t *testing.T) {
	var help bytes.Buffer
	if o, err := parseFlags([]string{"-help"}, &help); o != nil || err != nil {
		t.Errorf("-help: %v, %v", o, err)
	}
	for _, want := range []string{"-rounds", "-contender", "* upload-1 ", "  burst "} {
		if !strings.Contains(help.String(), want) {
			t.Errorf("-help does not mention %q", want)
		}
	}
	for _, bad := range [][]string{
		{"-nonsense"},
		{"word"},
		{"-only", "("},
		{"-only", "nothing-such"},
		{"-who", "("},
		{"-rounds", "-1"},
		{"-seconds", "1e9"},
		{"-contender", "x"},
		{"-contender", "x=a || b"},
		{"-contender", "x=|| b {listen}"},
	} {
		if _, err := parseFlags(bad, io.Discard); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
	o, err := parseFlags([]string{"-quick", "-seconds", "0.5", "-only", "upload"}, io.Discard)
	if err != nil || o.window != 500*time.Millisecond || o.rounds != quickRounds || len(o.scenarios) < 3 {
		t.Errorf("%+v, %v", o, err)
	}
	full, err := parseFlags(nil, io.Discard)
	if err != nil || full.rounds != fullRounds || full.window != fullWindow || len(full.scenarios) != len(scenarios()) {
		t.Errorf("%+v, %v", full, err)
	}
}

// Names select scenarios, ids their rows: neither may be there twice.
func TestScenariosAreDistinct(t *testing.T) {
	names := make(map[string]bool)
	for _, s := range scenarios() {
		if names[s.name] {
			t.Errorf("two scenarios %s", s.name)
		}
		names[s.name] = true
		ids := make(map[string]bool)
		for _, row := range s.rows {
			if ids[row.id] {
				t.Errorf("%s has two rows %s", s.name, row.id)
			}
			ids[row.id] = true
		}
		if s.run == nil || s.limit == 0 || s.group == "" || s.about == "" {
			t.Errorf("%s is incomplete", s.name)
		}
	}
}

func TestRoundsOf(t *testing.T) {
	for _, c := range []struct {
		s     scenario
		asked int
		quick bool
		want  int
	}{
		{scenario{}, 5, false, 5},
		{scenario{rounds: 3}, 5, false, 3},
		{scenario{rounds: 3}, 2, false, 2},
		{scenario{quick: 2}, 3, true, 2},
		{scenario{quick: 2, rounds: 1}, 5, false, 1},
		{scenario{rounds: 1}, 3, true, 1}, // chosen by -only
	} {
		if got := c.s.roundsOf(c.asked, c.quick); got != c.want {
			t.Errorf("%d asked, quick %v, quick %d, rounds %d: %d, want %d", c.asked, c.quick, c.s.quick, c.s.rounds, got, c.want)
		}
	}
}

func TestAttributes(t *testing.T) {
	log := `{"msg":"listening","addr":"a:1"}
not JSON
{"msg":"other","addr":"b:2"}
{"msg":"listening","addr":"c:3"}
{"msg":"listen`
	if got := attributes([]byte(log), "listening", "addr"); !slices.Equal(got, []string{"a:1", "c:3"}) {
		t.Errorf("%q", got)
	}
}

func TestExpand(t *testing.T) {
	got := expand([]string{"serve", "{server}", "--to={target.host}:{target.port}", "{unknown}", "{key}"},
		map[string]string{"server": "127.0.0.1:1", "target": "[::1]:22", "key": "/tmp/key.pem"})
	want := []string{"serve", "127.0.0.1:1", "--to=::1:22", "{unknown}", "/tmp/key.pem"}
	if !slices.Equal(got, want) {
		t.Errorf("expand = %q, want %q", got, want)
	}
}

func TestCommandLine(t *testing.T) {
	got := commandLine([]string{"-quick", "-only", "^a|b$", "-json", "it's"})
	if want := `go run ./test/load -quick -only '^a|b$' -json 'it'\''s'`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestCleanEnvironment(t *testing.T) {
	got := cleanEnvironment([]string{"PATH=/bin", "SALLYPORT_TOKEN=x", "https_proxy=y", "HOME=/root", "ALL_PROXY="}, "/d")
	if want := []string{"PATH=/bin", "HOME=/d"}; !reflect.DeepEqual(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestLastSlow(t *testing.T) {
	start := time.Unix(100, 0)
	at := func(ms int, took time.Duration) timedEcho {
		return timedEcho{start.Add(time.Duration(ms) * time.Millisecond), took}
	}
	echoes := []timedEcho{at(-10, time.Second), at(100, 80*time.Millisecond), at(300, 60*time.Millisecond), at(500, 41*time.Millisecond)}
	if got := lastSlow(echoes, start, 50*time.Millisecond); got != 300*time.Millisecond {
		t.Errorf("lastSlow = %v", got)
	}
	if got := lastSlow(echoes, start, time.Second); got != 0 {
		t.Errorf("none is slow, but %v", got)
	}
}

func TestFirstReached(t *testing.T) {
	if i, ok := firstReached([]float64{10, 50, 95, 80}, 90); i != 2 || !ok {
		t.Errorf("%d, %v", i, ok)
	}
	if _, ok := firstReached([]float64{10, 50}, 90); ok {
		t.Error("never reached, but found")
	}
}
