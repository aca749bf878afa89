// Package payload is the data that the tests send: pseudo-random bytes made from a seed, and a
// [Checker] that takes them at the other end and names the first byte that is wrong. Both ends need
// the seed only, so a gigabyte costs no memory.
//
//	go io.Copy(conn, payload.New(seed, n))
//	check := payload.NewChecker(seed, n)
//	_, err := io.Copy(check, conn) // err: the first difference
//	err = check.Done()             // err: bytes are missing
package payload

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
)

// source returns the generator of a seed's bytes.
func source(seed uint64) *rand.ChaCha8 {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	return rand.NewChaCha8(key)
}

// New returns a reader of the first n bytes of the seed's sequence.
func New(seed uint64, n int64) io.Reader { return io.LimitReader(source(seed), n) }

// Checker is an io.Writer that compares what it is given with a seed's sequence. The zero value is
// of no use; see NewChecker.
type Checker struct {
	want *rand.ChaCha8
	sum  hash.Hash
	size int64
	done int64
	buf  []byte
}

// NewChecker returns a Checker of the first n bytes of the seed's sequence.
func NewChecker(seed uint64, n int64) *Checker {
	return &Checker{want: source(seed), sum: sha256.New(), size: n, buf: make([]byte, 32<<10)}
}

// Write returns an error that names the offset of the first wrong or surplus byte.
func (c *Checker) Write(p []byte) (int, error) {
	if surplus := c.done + int64(len(p)) - c.size; surplus > 0 {
		return 0, fmt.Errorf("%d bytes more than the %d sent", surplus, c.size)
	}
	written := 0
	for len(p) > 0 {
		part := p[:min(len(p), len(c.buf))]
		want := c.buf[:len(part)]
		c.want.Read(want)
		if !bytes.Equal(part, want) {
			i := 0
			for part[i] == want[i] {
				i++
			}
			return written, fmt.Errorf("byte %d is %#02x, want %#02x", c.done+int64(i), part[i], want[i])
		}
		c.sum.Write(part)
		c.done += int64(len(part))
		written += len(part)
		p = p[len(part):]
	}
	return written, nil
}

// Received returns how many right bytes came so far.
func (c *Checker) Received() int64 { return c.done }

// Done returns an error if bytes are missing.
func (c *Checker) Done() error {
	if c.done != c.size {
		return fmt.Errorf("only %d of %d bytes arrived", c.done, c.size)
	}
	return nil
}

// Sum returns the SHA-256 of the bytes received, in hex.
func (c *Checker) Sum() string { return hex.EncodeToString(c.sum.Sum(nil)) }

// Sum returns the SHA-256 of the first n bytes of the seed's sequence, in hex.
func Sum(seed uint64, n int64) string {
	sum := sha256.New()
	io.Copy(sum, New(seed, n)) // neither side ever fails
	return hex.EncodeToString(sum.Sum(nil))
}
