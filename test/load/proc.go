//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"
)

// clockTick is the unit of the times in /proc/PID/stat: USER_HZ is 100 on every Linux.
const clockTick = 10 * time.Millisecond

// cpuTime returns the processor time that a process has used so far, user and system. The
// scheduler's account of each thread is the finest there is but forgets threads that have ended;
// the clock ticks in stat forget nothing. So the larger one is right.
func cpuTime(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	ticks, err := parseStat(string(stat))
	if err != nil {
		return 0, err
	}
	tasks := fmt.Sprintf("/proc/%d/task", pid)
	entries, err := os.ReadDir(tasks)
	if err != nil {
		return 0, err
	}
	var threads time.Duration
	for _, e := range entries {
		line, err := os.ReadFile(tasks + "/" + e.Name() + "/schedstat")
		if errors.Is(err, fs.ErrNotExist) {
			continue // the thread has just ended, or the kernel keeps no such account
		}
		if err != nil {
			return 0, err
		}
		d, err := parseSchedstat(string(line))
		if err != nil {
			return 0, err
		}
		threads += d
	}
	return max(ticks, threads), nil
}

// parseStat returns utime and stime of a line of /proc/PID/stat. The command's name in it is in
// parentheses and may hold any byte.
func parseStat(line string) (time.Duration, error) {
	_, rest, ok := cutLast(line, ")")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 13 {
		return 0, fmt.Errorf("no processor times in stat line %q", line)
	}
	var sum time.Duration
	for _, field := range fields[11:13] { // fields 14 and 15, counted from 1 with pid and name
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("processor times in stat line %q: %w", line, err)
		}
		sum += time.Duration(n) * clockTick
	}
	return sum, nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// parseSchedstat returns the time on a processor of a line of /proc/PID/task/TID/schedstat.
func parseSchedstat(line string) (time.Duration, error) {
	first, _, _ := strings.Cut(strings.TrimSpace(line), " ")
	n, err := strconv.ParseInt(first, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("schedstat line %q: %w", line, err)
	}
	return time.Duration(n), nil
}

// rss returns the bytes of memory that a process has resident, now and at its peak.
func rss(pid int) (now, peak int64, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	return parseStatus(string(status))
}

// parseStatus returns VmRSS and VmHWM of /proc/PID/status, in bytes.
func parseStatus(status string) (now, peak int64, err error) {
	for line := range strings.Lines(status) {
		key, value, _ := strings.Cut(line, ":")
		var into *int64
		switch key {
		case "VmRSS":
			into = &now
		case "VmHWM":
			into = &peak
		default:
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("status line %q: %w", line, err)
		}
		*into = kib << 10
	}
	if now == 0 || peak == 0 {
		return 0, 0, errors.New("no memory in the process's status: it has ended")
	}
	return now, peak, nil
}

// usage is what the agents of one contender use, the client agent first.
type usage []int64

// sum returns what they use together.
func (u usage) sum() int64 {
	var n int64
	for _, v := range u {
		n += v
	}
	return n
}

// settled returns a reading that has stopped changing: two in a row that are within 1 % or 256 KiB for
// every agent, so far apart that garbage collected meanwhile shows; after 10 s, the last one.
func settled(ctx context.Context, read func() (usage, error)) (usage, error) {
	const (
		pause = 2500 * time.Millisecond
		tries = 4
		small = 256 << 10
	)
	last, err := read()
	if err != nil {
		return nil, err
	}
	for range tries {
		if err := sleep(ctx, pause); err != nil {
			return nil, err
		}
		now, err := read()
		if err != nil {
			return nil, err
		}
		calm := true
		for i := range now {
			diff := max(now[i]-last[i], last[i]-now[i])
			calm = calm && diff <= max(small, now[i]/100)
		}
		if calm {
			return now, nil
		}
		last = now
	}
	return last, nil
}

// sleep waits for d, or returns the context's error as soon as it ends.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
