package proxy

import (
	"net"
	"runtime"
	"testing"
)

// TestIdleStreams: what an idle stream costs both agents together, goroutines' stacks included. A buffer held anywhere
// would show: the smallest that package tunnel takes for a read has 64 KiB.
func TestIdleStreams(t *testing.T) {
	const n = 200
	addr := target(t, "tcp", "127.0.0.1:0", echo)
	w := newWorld(t, worldOptions{client: withForwards(forward(t, "0:"+addr.String()))})
	w.run()
	w.ready()
	near := w.addr(0)
	open := func() {
		c := dialTest(t, "tcp", near)
		mustWrite(t, c, "x")
		mustRead(t, c, "x")
		t.Cleanup(func() { _ = c.(*net.TCPConn).SetLinger(0) })
	}
	open() // what is allocated once
	before, goroutines := inUse(), runtime.NumGoroutine()
	for range n {
		open()
	}
	perStream := (inUse() - before) / n
	t.Logf("%d bytes and %.1f goroutines a stream for both agents, origin and target", perStream,
		float64(runtime.NumGoroutine()-goroutines)/n)
	if perStream > 48<<10 {
		t.Errorf("an idle stream costs %d bytes", perStream)
	}
}

func inUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}
