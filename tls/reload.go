package tls

import (
	"context"
	"crypto/sha256"
	stdtls "crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// defaultPoll is quick enough for a person who waits for a renewal to show,
	// and costs three reads of small files.
	defaultPoll = 10 * time.Second
	// expiryNotice is when, at the latest, a certificate that nobody renewed is
	// warned of; one that lives shorter is warned of in its last tenth.
	expiryNotice = 14 * 24 * time.Hour
)

// state is what one reading of the files gave. It never changes; a new reading
// makes a new one.
type state struct {
	cert     *stdtls.Certificate // own certificate; nil: a client that has none
	config   *stdtls.Config      // server: what new handshakes use
	trust    *trust              // client: whom to accept
	warnings []string            // what was odd but no error
}

func (s *state) leaf() *x509.Certificate {
	if s.cert == nil {
		return nil
	}
	return s.cert.Leaf
}

// plan is how to get a state: which files to read and what to make of them.
type plan struct {
	src   sources
	build func(*contents) (*state, error)
}

// reloader holds the newest good state of a plan.
type reloader struct {
	what    string // "server" or "client", for the log
	log     *slog.Logger
	every   time.Duration
	current atomic.Pointer[state]

	mu       sync.Mutex // held while reading: one at a time
	plan     plan
	sum      [sha256.Size]byte // of the contents of current
	pending  string            // failure that one poll saw
	reported string            // failure that was told already
	noticed  [sha256.Size]byte // hash of the certificate whose nearing end was told
}

// newReloader reads everything for the first time.
func newReloader(what string, p plan, every time.Duration, log *slog.Logger) (*reloader, error) {
	if every <= 0 {
		every = defaultPoll
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	r := &reloader{what: what, log: log, every: every}
	if err := r.update(p); err != nil {
		return nil, err
	}
	return r, nil
}

// update reads with another plan; when that fails the old plan and state stay.
func (r *reloader) update(p plan) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := r.loadLocked(p, true); err != nil {
		return err
	}
	r.plan = p
	return nil
}

// reload reads again. The caller gets the failure and tells it, so that the
// next poll does not.
func (r *reloader) reload() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	changed, err := r.loadLocked(r.plan, false)
	if err != nil {
		r.reported = err.Error()
		return fmt.Errorf("reload %s certificates (the old ones stay in force): %w", r.what, err)
	}
	if changed {
		r.tellLocked()
	}
	return nil
}

// loadLocked puts a new state in force if the files differ from the current
// ones, or in any case if always is set.
func (r *reloader) loadLocked(p plan, always bool) (changed bool, err error) {
	c, err := p.src.read()
	if err != nil {
		return false, err
	}
	if !always && c.sum == r.sum {
		r.pending, r.reported = "", ""
		return false, nil
	}
	s, err := p.build(c)
	if err != nil {
		return false, err
	}
	r.sum, r.pending, r.reported = c.sum, "", ""
	r.current.Store(s)
	for _, w := range s.warnings {
		r.log.Warn("certificate file", "side", r.what, "problem", w)
	}
	return true, nil
}

// run polls until ctx ends.
func (r *reloader) run(ctx context.Context) error {
	t := time.NewTicker(r.every)
	defer t.Stop()
	r.notice()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
			r.poll()
			r.notice()
		}
	}
}

// poll reads again and logs what came of it. A failure is told when it is met
// twice in a row: certificate and key are two files, and one read between
// their writing is nothing to wake somebody for.
func (r *reloader) poll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	failing := r.reported != ""
	changed, err := r.loadLocked(r.plan, false)
	switch {
	case err == nil && changed:
		r.tellLocked()
	case err == nil && failing:
		r.log.Info("certificate files are good again", "side", r.what)
	case err == nil:
	case err.Error() == r.reported:
	case err.Error() != r.pending:
		r.pending = err.Error()
	default:
		r.pending, r.reported = "", err.Error()
		r.log.Warn("certificates not reloaded, the old ones stay in force", "side", r.what, "error", err)
	}
}

// tellLocked logs what is in force now.
func (r *reloader) tellLocked() {
	attrs := []any{"side", r.what}
	if leaf := r.current.Load().leaf(); leaf != nil {
		attrs = append(attrs, "subject", commonName(leaf.Subject), "issuer", commonName(leaf.Issuer),
			"not_after", leaf.NotAfter.UTC(), "pin", Fingerprint(leaf))
	}
	r.log.Info("certificates reloaded", attrs...)
}

// notice warns once of a certificate that is about to end.
func (r *reloader) notice() {
	r.mu.Lock()
	defer r.mu.Unlock()
	leaf := r.current.Load().leaf()
	if leaf == nil {
		return
	}
	ahead := min(expiryNotice, leaf.NotAfter.Sub(leaf.NotBefore)/10)
	// Of the whole certificate, not of its key: a renewed one may keep the key.
	id := sha256.Sum256(leaf.Raw)
	if time.Until(leaf.NotAfter) > ahead || r.noticed == id {
		return
	}
	r.noticed = id
	r.log.Warn("certificate is about to expire and was not renewed", "side", r.what, "file", r.plan.src.cert,
		"subject", commonName(leaf.Subject), "not_after", leaf.NotAfter.UTC())
}
