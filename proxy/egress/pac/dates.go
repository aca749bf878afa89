package pac

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// inZone takes a final "GMT" off the arguments and gives the time in the zone that is meant.
func inZone(now time.Time, args []string) (time.Time, []string) {
	if n := len(args); n > 0 && strings.EqualFold(args[n-1], "GMT") {
		return now.UTC(), args[:n-1]
	}
	return now, args
}

var (
	weekdays = []string{"SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"}
	months   = []string{"JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"}
)

// between reports whether x lies from a to b, both included, over the end of the circle if b is before a.
func between(a, x, b int) bool {
	if a <= b {
		return a <= x && x <= b
	}
	return a <= x || x <= b
}

// weekdayRange is weekdayRange(day[, day][, "GMT"]).
func weekdayRange(now time.Time, args []string) bool {
	now, args = inZone(now, args)
	if len(args) < 1 || len(args) > 2 {
		return false
	}
	from := slices.Index(weekdays, strings.ToUpper(args[0]))
	to := slices.Index(weekdays, strings.ToUpper(args[len(args)-1]))
	return from >= 0 && to >= 0 && between(from, int(now.Weekday()), to)
}

// timeRange is timeRange(hour), (hour, hour), (hour, min, hour, min) or (hour, min, sec, hour, min, sec), each with
// "GMT" behind if wanted. The end's unit is included: (9, 17) lasts until 17:59:59.
func timeRange(now time.Time, args []string) bool {
	now, args = inZone(now, args)
	n := len(args)
	if n != 1 && n != 2 && n != 4 && n != 6 {
		return false
	}
	parts := make([]int, n)
	for i, a := range args {
		v, err := strconv.Atoi(strings.TrimSpace(a))
		if err != nil || v < 0 || v > 60 {
			return false
		}
		parts[i] = v
	}
	half := max(n/2, 1)
	clock := []int{now.Hour(), now.Minute(), now.Second()}[:half]
	return between(seconds(parts[:half]), seconds(clock), seconds(parts[n-half:]))
}

// seconds makes one number of hours, minutes and seconds, as many as there are.
func seconds(parts []int) int {
	n := 0
	for _, p := range parts {
		n = n*61 + p
	}
	return n
}

// dateRange is dateRange with one date or two, each of a day, a month, a year, or of several of these in this order,
// and "GMT" behind if wanted.
func dateRange(now time.Time, args []string) bool {
	now, args = inZone(now, args)
	if len(args) == 0 || len(args) > 6 {
		return false
	}
	kinds, values := make([]int, len(args)), make([]int, len(args))
	for i, a := range args {
		var ok bool
		if kinds[i], values[i], ok = datePart(a); !ok {
			return false
		}
	}
	half := len(args)
	if n := len(args); n%2 == 0 && slices.Equal(kinds[:n/2], kinds[n/2:]) {
		half = n / 2
	}
	if !slices.IsSorted(kinds[:half]) || len(slices.Compact(slices.Clone(kinds[:half]))) != half {
		return false
	}
	today := []int{now.Day(), int(now.Month()), now.Year()}
	number := func(values []int) int {
		n := 0
		for i := half - 1; i >= 0; i-- { // the year weighs most
			n = n*32 + values[i]
		}
		return n
	}
	var x []int
	for _, kind := range kinds[:half] {
		x = append(x, today[kind])
	}
	from, to := number(values[:half]), number(values[len(args)-half:])
	if slices.Contains(kinds[:half], 2) { // years do not come round
		return from <= number(x) && number(x) <= to
	}
	return between(from, number(x), to)
}

// datePart tells a day (kind 0), a month (1) and a year (2) apart.
func datePart(s string) (kind, value int, ok bool) {
	if i := slices.Index(months, strings.ToUpper(strings.TrimSpace(s))); i >= 0 {
		return 1, i + 1, true
	}
	n, err := strconv.Atoi(strings.TrimSpace(s))
	switch {
	case err != nil || n < 1 || n > 9999:
		return 0, 0, false
	case n <= 31:
		return 0, n, true
	}
	return 2, n, true
}
