//go:build linux

package main

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// goal is what a row has to reach: against the relay in the same round, or as it stands.
type goal struct {
	must, aim float64
	absolute  bool
}

// verdict compares a result with the goal.
func (g *goal) verdict(r *result, less bool) string {
	v := r.Ratio
	if g.absolute {
		v = &r.Median
	}
	reached := func(limit float64) bool {
		// As the table shows it: 0.998 of a required 1.00 is met.
		shown := math.Round(*v*100) / 100
		return less && shown <= limit || !less && shown >= limit
	}
	switch {
	case v == nil || math.IsNaN(*v):
		return "no reference"
	case reached(g.aim):
		return "aim reached"
	case reached(g.must):
		return "must reached"
	default:
		return "MISSED"
	}
}

// result is what one contender reached in one row.
type result struct {
	Median float64   `json:"median"`
	Ratio  *float64  `json:"ratio,omitempty"` // median of the rounds' ratios to the relay
	Values []float64 `json:"values"`          // by round, without those that failed
}

// line is one row of a table.
type line struct {
	row
	scenario *scenario
	values   map[string]map[int]float64 // by contender and round
}

// result returns what a contender reached, or nil if it was not measured.
func (l *line) result(who string) *result {
	values := l.values[who]
	if len(values) == 0 {
		return nil
	}
	r := new(result)
	for _, round := range slices.Sorted(maps.Keys(values)) {
		r.Values = append(r.Values, values[round])
	}
	r.Median = median(r.Values)
	if all := ratios(values, l.values[nameRelay]); who != nameRelay && len(all) > 0 {
		m := median(all)
		r.Ratio = &m
	}
	return r
}

// results collects all lines, and what the reader must know beside them.
type results struct {
	who   []string // contenders, in the order of the columns
	lines []*line
	notes []string
	fails []string
}

// newResults prepares the lines of the scenarios.
func newResults(who []contender, chosen []*scenario, quick bool) *results {
	r := new(results)
	for _, c := range who {
		r.who = append(r.who, c.name)
	}
	for _, s := range chosen {
		for _, row := range s.rows {
			if !quick || !row.full {
				r.lines = append(r.lines, &line{row, s, make(map[string]map[int]float64)})
			}
		}
	}
	return r
}

// add keeps what a trial has yielded.
func (r *results) add(s *scenario, who string, round int, m measures, note string) {
	for _, l := range r.lines {
		v, ok := m[l.id]
		if l.scenario != s || !ok {
			continue
		}
		if l.values[who] == nil {
			l.values[who] = make(map[int]float64)
		}
		l.values[who][round] = v
	}
	if note != "" {
		r.note(fmt.Sprintf("%s, %s: %s", s.name, who, note))
	}
}

func (r *results) note(text string) {
	if !slices.Contains(r.notes, text) {
		r.notes = append(r.notes, text)
	}
}

// failed keeps that a trial failed.
func (r *results) failed(s *scenario, who string, round int, err error) {
	text := strings.ReplaceAll(err.Error(), "\n", "; ") // one line of a list
	r.fails = append(r.fails, fmt.Sprintf("%s, %s, round %d: %s", s.name, who, round+1, text))
}

// String lists the values for the progress.
func (m measures) String() string {
	var parts []string
	for _, id := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, id+" "+number(m[id]))
	}
	return strings.Join(parts, ", ")
}
