//go:build linux

package main

import (
	"context"
	"fmt"
	"time"

	"sallyport/test/internal/faults"
)

// scenario is one thing that is measured: every contender, in every round, with agents of its own.
type scenario struct {
	name  string // for -only
	group string // heading of its table
	about string // one line for -help
	// quick is how many rounds are enough for -quick; 0 = it does not measure this at all.
	quick int
	// rounds is how many rounds are enough otherwise; 0 = as many as asked for.
	rounds int
	// link is between the agents; the zero value is none.
	link faults.Link
	// agentsOnly leaves out direct TCP, which has nothing that could be measured here.
	agentsOnly bool
	// limit is how long one contender may take in one round.
	limit time.Duration
	rows  []row
	run   func(context.Context, *trial) (measures, error)
}

// row is one value that a scenario yields.
type row struct {
	id    string // in measures
	title string
	unit  string
	// less says that less is better.
	less bool
	goal *goal
	// full rows are left out by -quick.
	full bool
}

// The headings of the tables.
const (
	groupWork   = "Throughput"
	groupWait   = "Round trips and opens"
	groupLink   = "Long links"
	groupChange = "Changing and shared links"
	groupMemory = "Memory and scale"
)

// roundsOf returns how many rounds of those asked for the scenario gets.
func (s *scenario) roundsOf(asked int, quick bool) int {
	switch {
	case quick && s.quick > 0:
		return min(asked, s.quick)
	case s.rounds > 0:
		return min(asked, s.rounds)
	default:
		return asked
	}
}

const shortLimit = time.Minute

// scenarios returns all that can be measured, in the order of the tables.
func scenarios() []*scenario {
	var all []*scenario
	for _, up := range []bool{true, false} {
		for _, n := range []int{1, 16, 256} {
			all = append(all, bulkScenario(up, n))
		}
	}
	all = append(all, waitScenarios()...)
	all = append(all, linkScenarios()...)
	all = append(all, changeScenarios()...)
	for _, n := range []int{1000, 5000, 20_000} {
		all = append(all, idleScenario(n))
	}
	all = append(all, stalledScenario(1), stalledScenario(16), burstScenario())
	return all
}

func bulkScenario(up bool, n int) *scenario {
	way, must := "download", goal{must: 1, aim: 1.15}
	if up {
		way, must = "upload", goal{must: 0.95, aim: 1.10}
	}
	if n > 1 {
		must = goal{must: 1, aim: 1.05}
	}
	title := fmt.Sprintf("%s, %s", way, plural(n, "stream"))
	s := &scenario{
		name: fmt.Sprintf("%s-%d", way, n), group: groupWork, limit: shortLimit,
		about: title + ": MB for a second of the agents' processor time; MB/s",
		rows: []row{
			{id: "work", title: title, unit: "MB/CPU-s"},
			{id: "rate", title: title, unit: "MB/s"},
		},
		run: throughput(up, n),
	}
	if n < 256 {
		s.quick, s.rows[0].goal = quickRounds, &must
	}
	return s
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func waitScenarios() []*scenario {
	return []*scenario{
		{
			name: "ping", group: groupWait, quick: quickRounds, limit: shortLimit,
			about: "round trip of one byte on an open stream, and the agents' processor time for it",
			rows: []row{
				{id: "p50", title: "round trip of 1 byte, p50", unit: "µs", less: true, goal: &goal{must: 0.90, aim: 0.80}},
				{id: "p99", title: "round trip of 1 byte, p99", unit: "µs", less: true},
				{id: "cpu", title: "round trip of 1 byte, processor time", unit: "µs", less: true, goal: &goal{must: 1.10, aim: 0.75}},
			},
			run: pingPong,
		},
		{
			name: "open", group: groupWait, quick: quickRounds, limit: shortLimit,
			about: "open a stream, have one byte echoed, close it; one after the other",
			rows: []row{
				{id: "p50", title: "open, echo, close, p50", unit: "µs", less: true, goal: &goal{must: 0.33, aim: 0.30}},
				{id: "cpu", title: "open, echo, close, processor time", unit: "µs", less: true, goal: &goal{must: 0.25, aim: 0.16}},
			},
			run: opens,
		},
		{
			name: "open-64", group: groupWait, quick: quickRounds, limit: shortLimit,
			about: "the same, 64 at once",
			rows: []row{
				{id: "rate", title: "open, echo, close, 64 at once", unit: "opens/s", goal: &goal{must: 3.8, aim: 4.5}},
			},
			run: opensAtOnce,
		},
	}
}

func linkScenarios() []*scenario {
	const rtt = 40 * time.Millisecond
	var all []*scenario
	for _, rate := range []int{100, 20} {
		for _, queue := range []int{256, 4096} {
			for _, up := range []bool{false, true} {
				s := linkScenario(rtt, rate, queue, up)
				if !up || rate == 100 && queue == 256 {
					// The downloads and one upload tell most. They take seconds each, and noise is
					// small beside a long link's delay: one round does.
					s.quick = 1
				}
				all = append(all, s)
			}
		}
	}
	for _, other := range []time.Duration{5 * time.Millisecond, 200 * time.Millisecond} {
		for _, up := range []bool{false, true} {
			all = append(all, linkScenario(other, 20, 256, up))
		}
	}
	return all
}

func linkScenario(rtt time.Duration, rate, queueKB int, up bool) *scenario {
	way := "download"
	if up {
		way = "upload"
	}
	where := fmt.Sprintf("%v, %d MB/s, queue %s", rtt, rate, kilobytes(queueKB))
	share, first, slow := &goal{must: 0.98, aim: 1}, &goal{must: 0.35, aim: 0.34}, &goal{must: 1.15, aim: 1.03, absolute: true}
	if rtt != 40*time.Millisecond {
		first, slow = nil, nil // the goals are for 40 ms
	}
	l := newLink(rtt, rate, queueKB)
	return &scenario{
		name:  fmt.Sprintf("link-%d-%d-%s-%s", rtt.Milliseconds(), rate, kilobytes(queueKB), way),
		group: groupLink, rounds: 3, limit: shortLimit, link: l,
		about: fmt.Sprintf("%s: %s of 1 stream, open to first echo, a byte's round trip quiet and beside it", where, way),
		rows: []row{
			{id: "share", title: where + ": " + way + ", 1 stream", unit: "of the rate", goal: share},
			{id: "first", title: where + ": open to first echo", unit: "ms", less: true, goal: first},
			{id: "quiet", title: where + ": round trip, quiet", unit: "ms", less: true, full: true},
			{id: "full", title: where + ": round trip beside the " + way, unit: "ms", less: true},
			{id: "slow", title: where + ": the same against quiet", unit: "×", less: true, goal: slow},
		},
		run: overLink(l, up),
	}
}

func kilobytes(n int) string {
	if n%1024 == 0 {
		return fmt.Sprintf("%dMB", n/1024)
	}
	return fmt.Sprintf("%dKB", n)
}

func changeScenarios() []*scenario {
	all := []*scenario{{
		name: "change", group: groupChange, rounds: 3, limit: shortLimit, link: newLink(40*time.Millisecond, fastRate, 256),
		about: "40 ms: the rate goes from 100 to 20 and back to 100 MB/s under a download",
		rows: []row{
			{id: "calm", title: "100 → 20 MB/s: until the round trip stays under 1.25 × quiet", unit: "s", less: true},
			{id: "share", title: "100 → 20 MB/s: download, after 2 s", unit: "of the rate"},
			{id: "back", title: "20 → 100 MB/s: until 90 % of the rate", unit: "s", less: true},
			{id: "again", title: "20 → 100 MB/s: download, after 2 s", unit: "of the rate"},
		},
		run: rateChange,
	}}
	for _, queue := range []int{256, 4096} {
		l := newLink(40*time.Millisecond, 20, queue)
		where := fmt.Sprintf("20 MB/s, queue %s, beside a rival that fills it", kilobytes(queue))
		all = append(all, &scenario{
			name: "rival-" + kilobytes(queue), group: groupChange, rounds: 3, limit: shortLimit, link: l,
			about: "40 ms, " + where + ": what part of its fair half a download gets",
			rows: []row{
				{id: "share", title: where + ": download", unit: "of its half"},
				{id: "all", title: where + ": both together", unit: "of the rate"},
			},
			run: rival(l),
		})
	}
	return all
}

func idleScenario(n int) *scenario {
	title := plural(n, "idle stream")
	s := &scenario{
		name: fmt.Sprintf("idle-%d", n), group: groupMemory, rounds: 1, agentsOnly: true,
		limit: 4 * time.Minute,
		about: title + ": memory for each, time to open them; opens beside them",
		rows: []row{
			{id: "client", title: title + ": RSS, client agent", unit: "KB each", less: true},
			{id: "server", title: title + ": RSS, server agent", unit: "KB each", less: true},
			{id: "open", title: title + ": opened, 32 at once", unit: "opens/s"},
		},
	}
	if n == 5000 {
		s.rows[0].goal, s.rows[1].goal = &goal{must: 24, aim: 12, absolute: true}, &goal{must: 24, aim: 12, absolute: true}
		s.rows = append(s.rows, row{id: "cpu", title: title + ": processor time at idle", unit: "ms/s", less: true})
		s.quick, s.run = 1, idle(n, idleCPU)
		return s
	}
	s.rows = append(s.rows, row{id: "more", title: title + ": more opens beside them, 64 at once", unit: "opens/s"})
	s.run = idle(n, opensBeside)
	return s
}

func stalledScenario(n int) *scenario {
	title := plural(n, "stalled reader")
	s := &scenario{
		name: fmt.Sprintf("stalled-%d", n), group: groupMemory, rounds: 3, limit: shortLimit,
		about: title + ": memory held for each, and the rate of another stream beside",
		rows: []row{
			{id: "held", title: title + ": RSS held by both agents", unit: "MB each", less: true, goal: &goal{must: 0.5, aim: 0.1, absolute: true}},
			{id: "other", title: title + ": another stream's rate", unit: "of alone", goal: &goal{must: 0.9, aim: 1, absolute: true}},
		},
		run: stalled(n),
	}
	if n == 1 {
		s.quick = 2
	}
	return s
}

func burstScenario() *scenario {
	return &scenario{
		name: "burst", group: groupMemory, rounds: 1, agentsOnly: true, limit: 3 * time.Minute,
		about: "memory before a burst of 32 bulk and 1,000 small streams, at its peak and a minute after",
		rows: []row{
			{id: "before", title: "burst: RSS of both agents before", unit: "MB", less: true},
			{id: "peak", title: "burst: at the peak", unit: "MB", less: true},
			{id: "after", title: "burst: a minute after", unit: "MB", less: true},
		},
		run: burst,
	}
}
