//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "load: runs on Linux only: it reads processor time and memory of the agents from /proc")
	os.Exit(1)
}
