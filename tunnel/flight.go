package tunnel

import "time"

// Limits of what one carrier may have in flight, in bytes.
const (
	firstFlight = 256 << 10
	minFlight   = 64 << 10
	maxFlight   = 64 << 20
)

// flight limits the unacked bytes of one carrier, so that bulk waits in our
// scheduler, where interactive data overtakes it, and not in the network.
//
// Once a round (when the last byte sent at its start is acked) it compares the
// round's smallest delay D, which is the round trip less what the peer says it
// held the ack back, with the smallest of the last 10 s. Above that plus a
// tolerance there is a queue of our making, and the limit is cut in
// proportion. Below, and if the limit was binding, it grows. DESIGN: rule A.
type flight struct {
	path *path

	limit   int // W: bulk waits while unacked + its message would exceed it
	unacked int
	startup bool // no cut yet: double each round

	// The round under way.
	roundEnd   uint64 // ends when this many messages are acked
	roundStart time.Time
	roundBytes int           // acked in it
	most       int           // most unacked in it
	minDelay   time.Duration // smallest D in it; 0: none yet
	binding    bool          // bulk had to wait in it

	skip      bool          // the last cut's effect does not show yet
	cuts      int           // in a row
	cutDelay  time.Duration // D at the latest cut
	beforeCut int           // W before the first cut in a row
	stuck     int           // further cuts in a row that did not lower D

	rate int // bytes a second acked in the latest round; 0: not measured
}

func newFlight(p *path) flight { return flight{path: p, limit: firstFlight, startup: true} }

// allows reports whether a bulk message of n bytes may be sent now.
func (f *flight) allows(n int) bool {
	return f.unacked == 0 || f.unacked+n <= f.limit
}

// bulkSize is how many bytes a bulk message should have: what the carrier
// moves in about a millisecond, so that an interactive one behind it does not
// wait longer than that.
func (f *flight) bulkSize(largest int) int {
	if f.rate == 0 {
		return largest
	}
	return min(max(f.rate/1000, minBulk), largest)
}

const minBulk = 16 << 10

// sent takes note of a message; seq is its number.
func (f *flight) sent(now time.Time, seq uint64, n int) {
	if f.unacked == 0 && seq >= f.roundEnd {
		f.startRound(now, seq+1)
	}
	f.unacked += n
	f.most = max(f.most, f.unacked)
}

// acked takes note that count messages have arrived in all, n bytes of them
// newly; delay is the newest one's D. next is the number of the next message.
func (f *flight) acked(now time.Time, count uint64, n int, delay time.Duration, next uint64) {
	f.unacked -= n
	f.roundBytes += n
	delay = max(delay, time.Microsecond)
	if f.minDelay == 0 || delay < f.minDelay {
		f.minDelay = delay
	}
	if count < f.roundEnd {
		return
	}
	if took := now.Sub(f.roundStart); took > 0 && f.roundBytes >= minBulk {
		f.rate = int(float64(f.roundBytes) / took.Seconds())
	}
	f.endRound(now)
	f.startRound(now, next)
}

func (f *flight) startRound(now time.Time, end uint64) {
	f.roundEnd, f.roundStart = end, now
	f.roundBytes, f.most, f.minDelay, f.binding = 0, f.unacked, 0, false
}

func (f *flight) endRound(now time.Time) {
	f.path.observe(now, f.minDelay)
	if f.skip {
		f.skip = false
		return
	}
	floor := f.path.min()
	target := floor + max(2*time.Millisecond, floor/20)
	if f.minDelay > target && f.most > minFlight { // with less of ours in flight, the queue is not ours
		f.cut(now, target)
		return
	}
	f.cuts, f.stuck = 0, 0
	switch {
	case !f.binding:
	case f.startup:
		f.limit = min(2*f.limit, maxFlight)
	default:
		f.limit = min(int(float64(f.limit)*min(2, float64(target)/float64(f.minDelay))), maxFlight)
	}
}

// cut lowers the limit in proportion to the queue. If that does not lower the
// delay twice in a row, the queue is a rival's or the path has changed: the
// delay is then the new normal.
func (f *flight) cut(now time.Time, target time.Duration) {
	if f.cuts == 0 {
		f.beforeCut = f.limit
	} else if float64(f.minDelay) >= 0.9*float64(f.cutDelay) {
		if f.stuck++; f.stuck == 2 {
			f.path.reset(now, f.minDelay)
			f.limit, f.startup = f.beforeCut, true
			f.cuts, f.stuck = 0, 0
			return
		}
	} else {
		f.stuck = 0
	}
	f.cuts++
	f.cutDelay = f.minDelay
	f.startup = false
	factor := max(0.5, float64(target)/float64(f.minDelay))
	cut := max(int(float64(min(f.limit, f.most))*factor), minFlight)
	f.skip = float64(cut) < 0.9*float64(f.limit)
	f.limit = cut
}

// path holds the smallest delay of the last 5 to 10 s, which all carriers of a
// session share.
type path struct {
	since             time.Time // when recent began
	recent, before    time.Duration
	haveRecent, haveB bool
}

const pathPeriod = 5 * time.Second

func (p *path) observe(now time.Time, d time.Duration) {
	if now.Sub(p.since) >= pathPeriod {
		p.before, p.haveB = p.recent, p.haveRecent && now.Sub(p.since) < 2*pathPeriod
		p.haveRecent, p.since = false, now
	}
	if !p.haveRecent || d < p.recent {
		p.recent, p.haveRecent = d, true
	}
}

// min returns the smallest delay, 0 if none was seen.
func (p *path) min() time.Duration {
	switch {
	case p.haveRecent && p.haveB:
		return min(p.recent, p.before)
	case p.haveRecent:
		return p.recent
	case p.haveB:
		return p.before
	}
	return 0
}

// reset makes d the smallest delay, whatever was seen before.
func (p *path) reset(now time.Time, d time.Duration) {
	*p = path{since: now, recent: d, haveRecent: true}
}
