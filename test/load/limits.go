//go:build linux

package main

import "syscall"

// wantedFiles is how many file descriptors a process needs for the largest row: a relay holds two
// for each of 20,000 streams.
const wantedFiles = 2*20_000 + spareFiles

// spareFiles is what a process needs beside its idle streams: some are opened, and some are being
// closed, beside them.
const spareFiles = 600

// raiseFiles lifts the limit on file descriptors, for this process and those that it starts, and
// returns where it is then.
func raiseFiles() (int, error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, err
	}
	if limit.Max < wantedFiles {
		// Only the privileged may; the rest goes as far as the hard limit.
		raised := syscall.Rlimit{Cur: wantedFiles, Max: wantedFiles}
		if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &raised) == nil {
			return wantedFiles, nil
		}
	}
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, err
	}
	return int(min(limit.Max, 1<<30)), nil
}

// affordable returns how many of the wanted streams fit when each takes so many file descriptors
// of a process that may have limit.
func affordable(wanted, each, limit int) int {
	return min(wanted, max(0, limit-spareFiles)/max(1, each))
}
