package tunnel

import "time"

// flight limits the unacked bytes of one carrier to W, so that bulk waits in
// our scheduler, where interactive data overtakes it, and not in the network.
//
// W is what the path holds by itself, the highest delivery rate of late times
// the smallest delay, plus a little to find out whether there is more to have.
// A delay is a round trip less what the peer says it held the ack back. Rates
// are measured as in BBR (draft-cardwell-iccrg-bbr-congestion-control §4.1):
// bytes acked between two acks, over the longer of the time that took and the
// time it took to send them.
//
// Rounds are round trips: one ends when the last message sent at its start is
// acked. docs/PERFORMANCE.md has the measurements, and what did not do.
type flight struct {
	path *path

	limit   int // W: bulk waits while unacked + its message would exceed it
	unacked int

	delivered   int       // bytes acked, ever
	deliveredAt time.Time // when the newest of them arrived
	firstSent   time.Time // when the newest acked message was sent
	blocked     bool      // a write took long: the network is the limit, whatever W says
	limited     bool      // bulk had to wait for W in the last round

	startup  bool
	startMax float64 // the highest rate when it last grew by a quarter
	flat     int     // rounds since

	rates  [rateRounds]float64 // the highest of each of the last rounds that were not limited by the source; bytes a second
	newest int                 // index in rates
	cuts   int                 // in a row
	clear  int                 // rounds in a row that were limited by W and met no queue
	drain  bool                // this round makes room to see the path without a queue

	jitter time.Duration // how far delays lie above their round's smallest, smoothed
	round  round
}

// round is what is measured in a round trip.
type round struct {
	end     uint64 // over when this many messages are acked
	started time.Time
	most    int           // most unacked
	min     time.Duration // smallest delay; 0: none yet
	sum     time.Duration // of all delays
	samples int
	rate    float64 // highest
	full    bool    // the rate says what the path gives, not what the source gave
	binding bool    // bulk had to wait for W
}

// delay takes in one message's.
func (r *round) delay(d time.Duration) {
	if r.min == 0 || d < r.min {
		r.min = d
	}
	r.sum += d
	r.samples++
}

// sample is what a message in flight remembers for measuring the rate.
type sample struct {
	delivered   int
	deliveredAt time.Time
	firstSent   time.Time
	full        bool // sent while W, or a blocked socket, was the limit
}

// Parameters of the in-flight limit.
const (
	firstFlight = 256 << 10 // W at the start
	minFlight   = 64 << 10
	maxFlight   = 64 << 20

	minBulk  = 16 << 10         // least size of a bulk message
	bulkTime = time.Millisecond // what a bulk message takes on the path, if it is not smaller then

	rateRounds = 10
	// spareTime (and the path's own jitter) at the highest rate is how much W exceeds what the path holds,
	// and so the queue that bulk leaves standing. It must exceed the quanta of
	// acks (1 ms) and messages (1 ms), or W decays.
	spareTime  = 1500 * time.Microsecond
	spareBytes = 32 << 10
	// queueTime, and an eighth of the round trip, is a queue that calls for a cut.
	queueTime = 6 * time.Millisecond
	// clearTime is how far above the smallest a round's delay may be without meaning a queue.
	clearTime = 600 * time.Microsecond
	// maxJitter is how much of a path's jitter W makes up for.
	maxJitter = time.Millisecond
	// clearRounds without a queue, and W is raised by a quarter, then more, up to twice.
	clearRounds = 3
	// blockedTime is how long a write takes when the socket's buffer is full.
	blockedTime = 2 * time.Millisecond
	// fewSamples is too few for a round's smallest delay to mean a queue rather than jitter.
	fewSamples = 2
)

func newFlight(p *path) flight { return flight{path: p, limit: firstFlight, startup: true} }

// allows reports whether a bulk message of n bytes may be sent now.
func (f *flight) allows(n int) bool { return f.unacked == 0 || f.unacked+n <= f.limit }

// bulkSize is how many bytes a bulk message should have: what the path moves
// in bulkTime, so that an interactive one behind it does not wait longer.
func (f *flight) bulkSize(largest int) int {
	return min(max(int(f.maxRate()*bulkTime.Seconds()), minBulk), largest)
}

// sent takes note of message seq, of n bytes, and returns what to remember.
func (f *flight) sent(now time.Time, seq uint64, n int) sample {
	if f.unacked == 0 {
		f.deliveredAt, f.firstSent = now, now
		if seq >= f.round.end {
			f.round = round{end: seq + 1, started: now}
		}
	}
	f.unacked += n
	f.round.most = max(f.round.most, f.unacked)
	full := f.blocked || f.limited || f.round.binding
	return sample{f.delivered, f.deliveredAt, f.firstSent, full}
}

// acked takes note that count messages have arrived in all, n bytes of them
// newly. m is the newest of them, which arrived at the time at, after a delay
// of d; next is the number of the next message.
func (f *flight) acked(at time.Time, count uint64, n int, m message, d time.Duration, next uint64) {
	f.unacked -= n
	f.delivered += n
	f.deliveredAt, f.firstSent = at, m.sent
	took := max(at.Sub(m.sample.deliveredAt), m.sent.Sub(m.sample.firstSent))
	if took > 0 {
		f.round.rate = max(f.round.rate, float64(f.delivered-m.sample.delivered)/took.Seconds())
		f.round.full = f.round.full || m.sample.full
	}
	if m.bytes >= minBulk/2 { // a small message takes less time by itself
		f.round.delay(max(d, time.Microsecond))
	}
	if f.startup && m.sample.full {
		f.limit = min(f.limit+n, maxFlight)
	}
	if count >= f.round.end {
		f.endRound(at)
		f.round = round{end: next, started: at, most: f.unacked}
	}
}

func (f *flight) endRound(now time.Time) {
	r := &f.round
	f.limited = r.binding
	f.noteRate()
	if r.samples == 0 {
		return
	}
	f.path.bulk.observe(now, r.min)
	if r.samples >= fewSamples && !f.startup {
		f.jitter += (min(r.sum/time.Duration(r.samples)-r.min, maxJitter) - f.jitter) / 8
	}
	queue := r.min - f.path.bulk.delay
	switch {
	case f.startup:
		f.leaveStartup(queue)
	case f.drain:
		f.drain = false
		f.path.bulk = minimum{r.min, now}
	case f.path.bulk.old(now):
		f.drain = true
	case queue > f.tolerable() && r.samples >= fewSamples && r.most > minFlight:
		f.cut(now)
	default:
		f.cuts = 0
		f.probe()
	}
	if !f.startup {
		f.limit = f.target()
	}
}

// noteRate keeps the round's rate. That of a round in which the source was the
// limit counts only if it is higher than all.
func (f *flight) noteRate() {
	switch r := &f.round; {
	case r.full:
		f.newest = (f.newest + 1) % rateRounds
		f.rates[f.newest] = r.rate
	case r.rate > f.maxRate():
		f.rates[f.newest] = r.rate
	}
}

func (f *flight) maxRate() (m float64) {
	for _, r := range f.rates {
		m = max(m, r)
	}
	return m
}

// leaveStartup ends the doubling once there is a queue, or the rate has
// stopped growing.
func (f *flight) leaveStartup(queue time.Duration) {
	if m := f.maxRate(); m >= 1.25*f.startMax {
		f.startMax, f.flat = m, 0
	} else if f.round.binding {
		f.flat++
	}
	f.startup = f.flat < 3 && (queue <= f.tolerable() || f.round.samples < fewSamples)
}

// tolerable is how long a queue may be without a cut.
func (f *flight) tolerable() time.Duration {
	messages := time.Duration(0)
	if m := f.maxRate(); m > 0 {
		messages = time.Duration(2 * spareBytes / m * float64(time.Second))
	}
	return max(queueTime, messages) + f.path.bulk.delay/8
}

// cut forgets older rates: the path gives less than it did. If that has not
// helped three times in a row, the queue is a rival's or the path has become
// longer: its delay is then the new normal, and W grows again until a queue
// above that shows or there is no more to have.
func (f *flight) cut(now time.Time) {
	f.clear = 0
	if f.cuts++; f.cuts == 3 {
		f.cuts = 0
		f.path.bulk = minimum{f.round.min, now}
		f.startup, f.startMax, f.flat = true, f.round.rate, 0
	}
	f.rates = [rateRounds]float64{f.round.rate}
	f.newest = 0
}

// probe counts the rounds in which W held bulk back although some message met
// no queue.
func (f *flight) probe() {
	switch {
	case f.round.min-f.path.bulk.delay >= clearTime:
		f.clear = 0
	case f.round.binding:
		f.clear++
	}
}

// target is W: what the path holds, and some to spare.
func (f *flight) target() int {
	m := f.maxRate()
	holds := m * f.path.bulk.delay.Seconds()
	if f.drain {
		return max(int(0.75*holds), minFlight)
	}
	w := holds + max(m*(spareTime+f.jitter).Seconds(), spareBytes)
	for range max(0, min(f.clear-clearRounds+1, 3)) {
		w *= 1.25
	}
	return min(max(int(w), minFlight), maxFlight)
}

// path holds the smallest delays that the carriers of a session have seen
// lately, which they share: of any message, and of bulk ones, which take
// longer by themselves.
type path struct {
	any, bulk minimum
}

// minimum is the smallest delay seen, and when.
type minimum struct {
	delay time.Duration // 0: none was seen
	at    time.Time
}

// pathAge is how long a smallest delay is believed without being seen again.
const pathAge = 10 * time.Second

func (m *minimum) observe(now time.Time, d time.Duration) {
	if m.delay == 0 || d <= m.delay {
		*m = minimum{d, now}
	}
}

func (m *minimum) old(now time.Time) bool { return now.Sub(m.at) > pathAge }

// min returns the smallest delay of any message, 0 if none was seen.
func (p *path) min() time.Duration { return p.any.delay }

// observe takes in the delay of any message.
func (p *path) observe(now time.Time, d time.Duration) {
	if p.any.old(now) {
		p.any = minimum{}
	}
	p.any.observe(now, max(d, time.Microsecond))
}
