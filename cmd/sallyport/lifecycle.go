package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"sync"
	"time"
)

// lifecycle runs an agent from its start to its end: signals drain it, reload it, or end it at once.
type lifecycle struct {
	log *slog.Logger
	// run serves until its context ends, or fails.
	run func(context.Context) error
	// beside holds what runs for as long as the agent does, such as the admin listener. An error of one ends the agent.
	beside []func(context.Context) error
	// drain stops taking what is new and returns when all streams have finished, or its context has ended.
	drain func(context.Context) error
	// drainTimeout is how long drain may take; 0 is not to wait.
	drainTimeout time.Duration
	// reload puts a changed configuration in force, whole, or returns an error and leaves everything as it was.
	reload func() error
}

// serve returns nil after a drain, whether or not it was in time; *interrupted if a second signal cut it short; else
// why the agent ended.
func (l *lifecycle) serve(ctx context.Context) error {
	stop := make(chan os.Signal, 2)
	signal.Notify(stop, stopSignals()...)
	defer signal.Stop(stop)
	hangup := make(chan os.Signal, 1)
	if signals := reloadSignals(); len(signals) > 0 {
		signal.Notify(hangup, signals...)
		defer signal.Stop(hangup)
	}

	ctx, end := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer end(nil)
	ended := make(chan error, 1)
	wg.Go(func() { ended <- l.runAll(ctx) })

	draining := false
	for {
		select {
		case err := <-ended:
			if cut, ok := errors.AsType[*interrupted](context.Cause(ctx)); ok {
				return cut
			}
			return err
		case sig := <-stop:
			if draining {
				signal.Stop(stop) // a third one ends the process, whatever is in the way
				end(&interrupted{sig})
				continue
			}
			draining = true
			wg.Go(func() {
				l.drainInTime(ctx)
				end(nil)
			})
		case <-hangup:
			if draining {
				l.log.Warn("reload refused: the agent is draining")
				continue
			}
			l.reloadNow()
		}
	}
}

// runAll runs the agent and what goes beside it, and returns when all have ended.
func (l *lifecycle) runAll(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	beside := append([]func(context.Context) error{returnMemory}, l.beside...)
	errs := make([]error, len(beside))
	for i, f := range beside {
		wg.Go(func() {
			if err := f(ctx); err != nil && ctx.Err() == nil {
				errs[i] = err
				cancel()
			}
		})
	}
	err := l.run(ctx)
	cancel()
	wg.Wait()
	return errors.Join(append(errs, err)...)
}

func (l *lifecycle) drainInTime(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, l.drainTimeout)
	defer cancel()
	begin := time.Now()
	if err := l.drain(ctx); err != nil {
		l.log.Warn("drain timeout: the streams that are left are cut", "timeout", l.drainTimeout)
		return
	}
	l.log.Info("drained", "duration", time.Since(begin).Round(time.Millisecond))
}

// reloadNow logs each mistake of a bad configuration on a line of its own, as the start would have printed it.
func (l *lifecycle) reloadNow() {
	err := l.reload()
	if err == nil {
		l.log.Info("configuration reloaded")
		return
	}
	text, hint := explain(err)
	for line := range strings.Lines(text) {
		attrs := []any{"error", strings.TrimRight(line, "\n")}
		if hint != "" {
			attrs = append(attrs, "hint", hint)
		}
		l.log.Error("reload refused: the old configuration stays in force", attrs...)
	}
}
