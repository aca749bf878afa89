package sock

import (
	"errors"
	"syscall"
	"testing"
)

// A descriptor in blocking mode does not block: nobody would notice that its processor is lost.
func TestNeverBlocks(t *testing.T) {
	if !quick {
		t.Skip("not with the race detector: Read and Write are the ordinary calls")
	}
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fds[0])
	defer syscall.Close(fds[1])
	fd := uintptr(fds[0])
	if n, err := Read(fd, make([]byte, 1)); !errors.Is(err, syscall.EAGAIN) {
		t.Errorf("read %d, %v", n, err)
	}
	for range 1000 {
		if _, err = Write(fd, make([]byte, 1<<16)); err != nil {
			break
		}
	}
	if !errors.Is(err, syscall.EAGAIN) {
		t.Errorf("write: %v", err)
	}
}
