//go:build linux

package main

import (
	"encoding/binary"
	"fmt"
)

// pattern is an endless sequence of bytes in which every aligned word of 8 bytes tells whose it is
// and where it belongs: the number of the stream above 48 bits of word index, little endian. Bytes
// that are lost, doubled, changed or swapped with another stream's show, at the cost of one
// comparison a word.
type pattern struct {
	base   uint64 // stream number << 48
	offset uint64 // bytes so far
}

// newPattern returns the pattern of a stream, from its first byte.
func newPattern(stream uint16) *pattern { return &pattern{base: uint64(stream) << 48} }

// word returns the i-th word.
func (p *pattern) word(i uint64) uint64 { return p.base | i&(1<<48-1) }

// byteAt returns the byte at an offset.
func (p *pattern) byteAt(offset uint64) byte { return byte(p.word(offset/8) >> (offset % 8 * 8)) }

// fill writes the next bytes of the pattern into b.
func (p *pattern) fill(b []byte) {
	for ; len(b) > 0 && p.offset%8 != 0; b = b[1:] {
		b[0] = p.byteAt(p.offset)
		p.offset++
	}
	whole, word := len(b)&^7, p.word(p.offset/8)
	for at := 0; at < whole; at += 8 {
		binary.LittleEndian.PutUint64(b[at:], word)
		word++
	}
	p.offset += uint64(whole)
	b = b[whole:]
	for ; len(b) > 0; b = b[1:] {
		b[0] = p.byteAt(p.offset)
		p.offset++
	}
}

// check compares b with the next bytes of the pattern. Its error names the first byte that differs.
func (p *pattern) check(b []byte) error {
	for ; len(b) > 0 && p.offset%8 != 0; b = b[1:] {
		if b[0] != p.byteAt(p.offset) {
			return p.mismatch(b[0])
		}
		p.offset++
	}
	at, word := 0, p.word(p.offset/8)
	for ; at <= len(b)-8 && binary.LittleEndian.Uint64(b[at:]) == word; at += 8 {
		word++
	}
	p.offset += uint64(at)
	b = b[at:]
	for ; len(b) > 0; b = b[1:] { // the tail, or the word that differs
		if b[0] != p.byteAt(p.offset) {
			return p.mismatch(b[0])
		}
		p.offset++
	}
	return nil
}

func (p *pattern) mismatch(got byte) error {
	return fmt.Errorf("byte %d of stream %d is %#02x, want %#02x", p.offset, p.base>>48, got, p.byteAt(p.offset))
}
