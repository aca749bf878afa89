package egress

import (
	"context"
	"sync"
	"time"
)

// memory is what one proxy is known to think of one set of credentials.
type memory struct {
	turn chan struct{} // holds a token while unproven credentials are being tried

	mu           sync.Mutex
	scheme       scheme // accepted last; nil when unknown
	provenUntil  time.Time
	refusedUntil time.Time
}

func newMemory() *memory { return &memory{turn: make(chan struct{}, 1)} }

// winner returns the scheme to open with, or nil when the proxy must be asked first.
func (m *memory) winner() scheme {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.scheme
}

// refused returns an error while refused credentials may not be sent again.
func (m *memory) refused() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if left := time.Until(m.refusedUntil); left > 0 {
		return reason(ErrCredentialsRefused,
			"the proxy refused the credentials less than a minute ago; they are not sent again for %v, so that no account gets locked",
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
	m.mu.Lock()
	defer m.mu.Unlock()
	m.scheme, m.provenUntil, m.refusedUntil = s, time.Now().Add(provenFor), time.Time{}
}

// refuse records that the proxy did not.
func (m *memory) refuse() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.scheme, m.provenUntil, m.refusedUntil = nil, time.Time{}, time.Now().Add(refusedFor)
}
