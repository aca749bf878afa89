package egress

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestRefusalIsRememberedForAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		if m.refused() != nil || m.winner() != nil {
			t.Fatal("knows before anything was tried")
		}
		m.accept(basic{})
		m.refuse()
		if m.winner() != nil || m.proven() {
			t.Error("a refusal leaves the acceptance standing")
		}
		time.Sleep(refusedFor - time.Nanosecond)
		err := m.refused()
		if !errors.Is(err, ErrCredentialsRefused) {
			t.Errorf("%v", err)
		}
		if _, _, err := m.admit(t.Context()); !errors.Is(err, ErrCredentialsRefused) {
			t.Errorf("admitted: %v", err)
		}
		time.Sleep(time.Nanosecond)
		if err := m.refused(); err != nil {
			t.Errorf("after a minute: %v", err)
		}
	})
}

// An agent that runs on with a password that has expired stays below what locks accounts: five within half an hour, say.
func TestRefusalsInARowGrow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		begin, tries := time.Now(), []time.Duration{}
		for time.Since(begin) < 6*time.Hour {
			if m.refused() == nil {
				tries = append(tries, time.Since(begin))
				m.refuse()
			}
			time.Sleep(time.Second)
		}
		want := []time.Duration{0, 1, 5, 21, 81, 141, 201, 261, 321}
		for i := range want {
			want[i] *= time.Minute
		}
		if !slices.Equal(tries, want) {
			t.Errorf("%v", tries)
		}
		time.Sleep(longestRefusal)
		m.accept(basic{})
		for range 3 { // of several connections at once
			m.refuse()
		}
		time.Sleep(refusedFor)
		if err := m.refused(); err != nil {
			t.Errorf("an acceptance does not begin anew: %v", err)
		}
	})
}

func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		release, waited, err := m.admit(t.Context())
		if waited || err != nil {
			t.Fatal(waited, err)
		}
		type outcome struct {
			waited bool
			err    error
		}
		results := make(chan outcome, 3)
		enter := func(ctx context.Context) {
			release, waited, err := m.admit(ctx)
			results <- outcome{waited, err}
			if err == nil {
				release()
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		go enter(ctx)
		synctest.Wait()
		cancel()
		if r := <-results; !r.waited || !errors.Is(r.err, context.Canceled) {
			t.Errorf("cancelled: %+v", r)
		}
		for range 2 {
			go enter(t.Context())
		}
		synctest.Wait()
		if len(results) != 0 {
			t.Fatal("somebody did not wait")
		}
		m.accept(basic{})
		release()
		for range 2 {
			if r := <-results; !r.waited || r.err != nil {
				t.Errorf("after acceptance: %+v", r)
			}
		}
		// Proven: two at once, neither waits.
		first, waited1, err1 := m.admit(t.Context())
		second, waited2, err2 := m.admit(t.Context())
		if waited1 || waited2 || err1 != nil || err2 != nil {
			t.Error(waited1, waited2, err1, err2)
		}
		first()
		second()
		// Not for ever: the password may change.
		time.Sleep(provenFor)
		release, _, err = m.admit(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		go enter(t.Context())
		synctest.Wait()
		m.refuse()
		release()
		if r := <-results; !r.waited || !errors.Is(r.err, ErrCredentialsRefused) {
			t.Errorf("after a refusal: %+v", r)
		}
		if m.winner() != nil {
			t.Error("winner after a refusal")
		}
	})
}
