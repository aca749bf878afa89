//go:build linux

package main

import "testing"

// What making and checking the pattern costs the load: it must stay far below the tunnels' own work.
func BenchmarkPattern(b *testing.B) {
	buf := make([]byte, chunk)
	newPattern(1).fill(buf)
	for name, do := range map[string]func(p *pattern) error{
		"fill":  func(p *pattern) error { p.fill(buf); return nil },
		"check": func(p *pattern) error { p.offset = 0; return p.check(buf) },
	} {
		b.Run(name, func(b *testing.B) {
			newPattern(1).fill(buf)
			b.SetBytes(chunk)
			p := newPattern(1)
			for b.Loop() {
				if err := do(p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
