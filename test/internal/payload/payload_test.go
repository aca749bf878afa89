package payload

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// However the bytes are cut into reads and writes, they are the same bytes.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		data, err := io.ReadAll(New(seed, rapid.Int64Range(0, 200_000).Draw(t, "size")))
		if err != nil {
			t.Fatal(err)
		}
		size := int64(len(data))
		c := NewChecker(seed, size)
		for rest := data; len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "piece")
			if k, err := c.Write(rest[:n]); k != n || err != nil {
				t.Fatalf("wrote %d of %d: %v", k, n, err)
			}
			rest = rest[n:]
		}
		if err := c.Done(); err != nil || c.Received() != size || c.Sum() != Sum(seed, size) {
			t.Fatalf("%v, %d of %d, %s", err, c.Received(), size, c.Sum())
		}
	})
}

func TestDifferences(t *testing.T) {
	data, _ := io.ReadAll(New(7, 100_000))
	flipped := bytes.Clone(data)
	flipped[70_000] ^= 1
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"wrong byte": {flipped, "byte 70000 is"},
		"surplus":    {append(bytes.Clone(data), 0), "1 bytes more"},
		"short":      {data[:99_999], "only 99999 of 100000"},
		"repeated":   {append(bytes.Clone(data[:10]), data[5:99_995]...), "byte 10 is"},
	} {
		check := NewChecker(7, 100_000)
		_, err := check.Write(c.data)
		if err == nil {
			err = check.Done()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
	if Sum(1, 1000) == Sum(2, 1000) {
		t.Error("two seeds give the same bytes")
	}
}
