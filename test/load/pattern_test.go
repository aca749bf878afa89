//go:build linux

package main

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

// Whatever the pieces are in which it is made and checked, the pattern is one sequence.
func TestPatternInPieces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const size = 300
		stream := rapid.Uint16().Draw(t, "stream")
		want := make([]byte, size)
		newPattern(stream).fill(want)

		got := make([]byte, size)
		maker, checker := newPattern(stream), newPattern(stream)
		for at := 0; at < size; {
			n := rapid.IntRange(1, size-at).Draw(t, "made")
			maker.fill(got[at : at+n])
			at += n
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("made in pieces it differs: %x, want %x", got, want)
		}
		for at := 0; at < size; {
			n := rapid.IntRange(1, size-at).Draw(t, "checked")
			if err := checker.check(got[at : at+n]); err != nil {
				t.Fatal(err)
			}
			at += n
		}
	})
}

// One wrong byte anywhere is found, and named.
func TestPatternFindsDamage(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		data := make([]byte, 200)
		newPattern(7).fill(data)
		at := rapid.IntRange(0, len(data)-1).Draw(t, "at")
		cut := rapid.IntRange(0, len(data)).Draw(t, "cut")
		data[at] ^= byte(rapid.IntRange(1, 255).Draw(t, "change"))

		p := newPattern(7)
		err := p.check(data[:cut])
		if err == nil {
			err = p.check(data[cut:])
		}
		if err == nil {
			t.Fatalf("byte %d is wrong and was not found", at)
		}
		if p.offset != uint64(at) {
			t.Fatalf("found at %d, is at %d: %v", p.offset, at, err)
		}
	})
}

func TestPatternTellsApart(t *testing.T) {
	data := make([]byte, 64)
	newPattern(1).fill(data)
	for name, damaged := range map[string][]byte{
		"another stream's": func() []byte { b := make([]byte, 64); newPattern(2).fill(b); return b }(),
		"eight lost":       data[8:],
		"eight doubled":    append(bytes.Clone(data[:8]), data...),
	} {
		if err := newPattern(1).check(damaged); err == nil {
			t.Errorf("%s: not found", name)
		}
	}
}
