package egress

import (
	"testing"
)

func TestBasicOnOneConnection(t *testing.T) {
	p := newFaultyProxy(t, replies(ask407, ok200), replies(ok200))
	d := mustNew(t, withCredentials(testOptions(p.url())))
	for range 2 { // the second time it is sent at once
		conn, err := dial(t, d, testTarget)
		if err != nil {
			t.Fatal(err)
		}
		checkEcho(t, conn)
	}
	if got := p.authorizations(); len(got) != 3 || got[0] != "" || got[1] != wantBasic || got[2] != wantBasic || p.connections() != 2 {
		t.Errorf("%q on %d connections", got, p.connections())
	}
}
