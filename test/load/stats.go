//go:build linux

package main

import (
	"math"
	"slices"
	"time"
)

// median returns the middle of the values, the mean of the two middle ones for an even number, and
// NaN for none. It leaves the values as they are.
func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	i := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[i]
	}
	return (sorted[i-1] + sorted[i]) / 2
}

// percentile returns the smallest value that at least the fraction p of the values do not exceed,
// and 0 for none. It sorts the values.
func percentile(values []time.Duration, p float64) time.Duration {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	i := int(math.Ceil(p*float64(len(values)))) - 1
	return values[min(max(i, 0), len(values)-1)]
}

// ratios divides each round's value by the reference's of the same round. Rounds that lack one of
// the two, or whose reference is 0, are left out.
func ratios(values, reference map[int]float64) []float64 {
	var out []float64
	for round, v := range values {
		if ref, ok := reference[round]; ok && ref != 0 {
			out = append(out, v/ref)
		}
	}
	return out
}

// rotated returns the list turned left by n places.
func rotated[T any](list []T, n int) []T {
	if len(list) == 0 {
		return nil
	}
	n %= len(list)
	return slices.Concat(list[n:], list[:n])
}
