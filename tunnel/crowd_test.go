package tunnel

import (
	"context"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"
)

// TestCrowded checks when a session asks for another carrier: when more bulk
// streams than it has carriers, or bulk and something interactive, move more
// than a gigabit a second on each.
func TestCrowded(t *testing.T) {
	for name, tt := range map[string]struct {
		rate        int // of each wire, bytes a second
		wires, bulk int
		down        bool
		before      bool // something interactive was there long before
		interactive bool
		want        bool
	}{
		"nothing":                        {rate: 400_000_000, wires: 1},
		"one bulk stream":                {rate: 400_000_000, wires: 1, bulk: 1},
		"two":                            {rate: 400_000_000, wires: 1, bulk: 2, want: true},
		"two, down":                      {rate: 400_000_000, wires: 1, bulk: 2, down: true, want: true},
		"two, over a network":            {rate: 100_000_000, wires: 1, bulk: 2},
		"two, on a carrier each":         {rate: 400_000_000, wires: 2, bulk: 2},
		"three on two":                   {rate: 400_000_000, wires: 2, bulk: 3, want: true},
		"bulk and an interactive stream": {rate: 400_000_000, wires: 1, bulk: 1, interactive: true, want: true},
		"only an interactive stream":     {rate: 400_000_000, wires: 1, interactive: true},
		"bulk beside one that was":       {rate: 400_000_000, wires: 1, bulk: 1, before: true},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				p := newPair(t, Options{}, HostOptions{})
				p.start(newWire(100*time.Microsecond, tt.rate))
				for range tt.wires - 1 {
					p.join(newWire(100*time.Microsecond, tt.rate), "alice")
				}
				time.Sleep(time.Second)
				if tt.before {
					c, s := p.open()
					fmt.Fprint(c, "k")
					mustRead(t, s, "k")
					time.Sleep(time.Minute)
				}
				var flowing []*Stream
				for range tt.bulk {
					from, to := p.open()
					if tt.down {
						from, to = to, from
					}
					flowing = append(flowing, from)
					p.wg.Go(func() { from.ReadFrom(endless{}) })
					p.wg.Go(func() { io.Copy(io.Discard, to) })
				}
				ctx, cancel := context.WithTimeout(p.ctx, 2*time.Second)
				defer cancel()
				var typing sync.WaitGroup
				if tt.interactive {
					c, s := p.open()
					typing.Go(func() {
						for ctx.Err() == nil {
							fmt.Fprint(c, "k")
							mustRead(t, s, "k")
							time.Sleep(300 * time.Millisecond)
						}
					})
				}
				if err := p.client.Crowded(ctx); (err == nil) != tt.want {
					t.Errorf("Crowded: %v", err)
				}
				cancel()
				typing.Wait()
				for _, st := range flowing {
					st.Reset(1, "enough")
				}
			})
		})
	}
}
