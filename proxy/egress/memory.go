package egress

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// account is what is known about credentials whichever proxy they are for: a directory behind all of them counts the
// refusals.
type account struct {
	mu           sync.Mutex
	refusedUntil time.Time
	refusals     int // in a row
}

// memory is what one proxy is known to think of one set of credentials.
type memory struct {
	turn    chan struct{} // holds a token while unproven credentials are being tried
	account *account

	mu          sync.Mutex
	scheme      scheme // accepted last; nil when unknown
	provenUntil time.Time
	nonce       challenge // Digest's last, if it has parameters
	nonceCount  int       // uses of it so far
	ticket      *ticket   // Kerberos's last; nil when none

	smallHello atomic.Bool // TLS hellos with ML-KEM get no answer
}

func newMemory() *memory { return &memory{turn: make(chan struct{}, 1), account: &account{}} }

// winner returns the scheme to open with, or nil when the proxy must be asked first.
func (m *memory) winner() scheme {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.scheme
}

// refused returns an error while refused credentials may not be sent again.
func (m *memory) refused() error {
	m.account.mu.Lock()
	defer m.account.mu.Unlock()
	if left := time.Until(m.account.refusedUntil); left > 0 {
		return reason(ErrCredentialsRefused,
			"the proxy has just refused the credentials; they are not sent again for %v, so that no account gets locked (a reload or a restart forgets that)",
			max(left.Round(time.Second), time.Second))
	}
	return nil
}

// admit waits for the turn to send credentials, unless they are proven. waited says that others went first. Call
// release once the proxy has answered.
func (m *memory) admit(ctx context.Context) (release func(), waited bool, err error) {
	if err := m.refused(); err != nil {
		return nil, false, err
	}
	if m.proven() {
		return func() {}, false, nil
	}
	release = func() { <-m.turn }
	select {
	case m.turn <- struct{}{}:
		return release, false, nil
	default:
	}
	select {
	case m.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, true, context.Cause(ctx)
	}
	if err := m.refused(); err != nil {
		release()
		return nil, true, err
	}
	if m.proven() { // let the others go too
		release()
		return func() {}, true, nil
	}
	return release, true, nil
}

func (m *memory) proven() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Now().Before(m.provenUntil)
}

// accept records that the proxy took the credentials by this scheme.
func (m *memory) accept(s scheme) {
	m.account.mu.Lock()
	m.account.refusals = 0
	m.account.mu.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.scheme, m.provenUntil = s, time.Now().Add(provenFor)
}

// refuse records that the proxy did not. Each refusal in a row counts for four times as long as the one before.
func (m *memory) refuse() {
	m.account.mu.Lock()
	if now := time.Now(); !now.Before(m.account.refusedUntil) { // several connections may find out at once
		m.account.refusedUntil = now.Add(min(refusedFor<<min(2*m.account.refusals, 16), longestRefusal))
		m.account.refusals++
	}
	m.account.mu.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.scheme, m.provenUntil, m.ticket = nil, time.Time{}, nil
}

// newNonce begins to count the uses of a Digest nonce and returns the first count.
func (m *memory) newNonce(ch challenge) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.nonce, m.nonceCount = ch, 1
	return 1
}

// recallNonce returns the nonce to use without being asked, and the count for this use.
func (m *memory) recallNonce() (challenge, int, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.nonce.params) == 0 {
		return challenge{}, 0, false
	}
	m.nonceCount++
	return m.nonce, m.nonceCount, true
}

// forgetNonce has the next connection wait for a challenge.
func (m *memory) forgetNonce() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.nonce = challenge{}
}

// recallTicket returns the Kerberos ticket to use again, nil when there is none or it ends soon.
func (m *memory) recallTicket() *ticket {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ticket != nil && time.Until(m.ticket.end) < ticketMargin {
		m.ticket = nil
	}
	return m.ticket
}

// keepTicket remembers a ticket; nil forgets it.
func (m *memory) keepTicket(t *ticket) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ticket = t
}
