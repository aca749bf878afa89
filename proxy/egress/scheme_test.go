package egress

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// puzzle is a scheme of several legs bound to one connection, as NTLM is: what later schemes need from the handshake.
type puzzle struct {
	opens    bool  // sends its first leg before being asked
	endless  bool  // answers for ever
	gaveUp   error // what answer returns instead of a second value
	unusable error
}

func (puzzle) name() string                     { return "Puzzle" }
func (puzzle) bound() bool                      { return true }
func (p puzzle) usable(*proxy, challenge) error { return p.unusable }
func (p puzzle) start(*proxy, string) exchange  { return &puzzling{puzzle: p} }

type puzzling struct {
	puzzle
	leg int
}

func (x *puzzling) opening(context.Context) string {
	if !x.opens {
		return ""
	}
	x.leg++
	return "Puzzle leg1"
}

func (x *puzzling) answer(_ context.Context, ch challenge) (string, error) {
	switch {
	case ch.token68 == "" && x.leg > 0 && !x.endless:
		return "", errRefused
	case x.leg > 0 && x.gaveUp != nil:
		return "", x.gaveUp
	}
	x.leg++
	return fmt.Sprintf("Puzzle leg%d%s", x.leg, ch.token68), nil
}

func (x *puzzling) shown() bool { return x.leg > 1 }
func (x *puzzling) end()        {}

func TestSchemesOfSeveralLegs(t *testing.T) {
	ask := status(407, "Proxy-Authenticate: Puzzle, Basic realm=x\r\n", "who?")
	token := status(407, "Proxy-Authenticate: Puzzle 2345=\r\n", "prove it")
	tokenAndBasic := status(407, "Proxy-Authenticate: Puzzle 2345=\r\nProxy-Authenticate: Basic realm=x\r\n", "")
	closing := strings.Replace(ask, "Content-Length", "Connection: close\r\nContent-Length", 1)
	for _, c := range []struct {
		name        string
		puzzle      puzzle
		scripts     []conversation
		requests    []string
		connections int
		want        error
		offered     []string
	}{
		{"to the end", puzzle{}, []conversation{replies(ask, token, ok200)}, []string{"", "Puzzle leg1", "Puzzle leg22345="}, 1, nil, nil},
		{"first reply closes", puzzle{}, []conversation{replies(closing), replies(token, ok200)}, []string{"", "Puzzle leg1", "Puzzle leg22345="}, 2, nil, nil},
		{"bare challenge at the end means refused", puzzle{}, []conversation{replies(ask, token, ask)}, []string{"", "Puzzle leg1", "Puzzle leg22345="}, 1, ErrCredentialsRefused, []string{"Puzzle", "Basic"}},
		{"unusable falls back", puzzle{unusable: errors.New("no ticket")}, []conversation{replies(ask, ok200)}, []string{"", wantBasic}, 1, nil, nil},
		{"giving up falls back", puzzle{gaveUp: errors.New("odd token")}, []conversation{replies(ask, tokenAndBasic), replies(ok200)}, []string{"", "Puzzle leg1", wantBasic}, 2, nil, nil},
		{"giving up with nothing to fall back to", puzzle{gaveUp: errors.New("odd token")}, []conversation{replies(ask, token)}, []string{"", "Puzzle leg1"}, 1, ErrSchemeUnsupported, []string{"Puzzle"}},
		{"refused never falls back", puzzle{gaveUp: errRefused}, []conversation{replies(ask, tokenAndBasic, ok200)}, []string{"", "Puzzle leg1"}, 1, ErrCredentialsRefused, []string{"Puzzle", "Basic"}},
		{
			"legs are bounded",
			puzzle{endless: true},
			[]conversation{replies(slices.Repeat([]string{ask}, 20)...)},
			[]string{"", "Puzzle leg1", "Puzzle leg2", "Puzzle leg3", "Puzzle leg4", "Puzzle leg5"},
			1, ErrBadReply,
			[]string{"Puzzle", "Basic"},
		},
		{"connections are bounded", puzzle{endless: true}, []conversation{replies(closing)}, []string{"", "Puzzle leg1", "Puzzle leg1", "Puzzle leg1", "Puzzle leg1"}, 5, errUsedUp, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newFaultyProxy(t, c.scripts...)
			d := mustNew(t, withCredentials(testOptions(p.url())))
			d.schemes = []scheme{c.puzzle, basic{}}
			conn, e := dial(t, d, testTarget)
			switch {
			case c.want == nil:
				if e != nil {
					t.Fatal(e)
				}
				checkEcho(t, conn)
			case e == nil || !errors.Is(e, c.want) || !slices.Equal(e.Offered, c.offered):
				t.Fatalf("%v %v", e, e.Offered)
			}
			if got := p.authorizations(); !slices.Equal(got, c.requests) || p.connections() != c.connections {
				t.Errorf("requests %q on %d connections", got, p.connections())
			}
		})
	}
}

// What was accepted opens the next connection, with a fresh exchange.
func TestWinnerOpensTheNextConnection(t *testing.T) {
	ask := status(407, "Proxy-Authenticate: Puzzle\r\n", "")
	token := status(407, "Proxy-Authenticate: Puzzle 2345=\r\n", "")
	p := newFaultyProxy(t, replies(ask, token, ok200), replies(token, ok200))
	d := mustNew(t, withCredentials(testOptions(p.url())))
	d.schemes = []scheme{puzzle{opens: true}, basic{}}
	for range 2 {
		conn, e := dial(t, d, testTarget)
		if e != nil {
			t.Fatal(e)
		}
		checkEcho(t, conn)
	}
	want := []string{"", "Puzzle leg1", "Puzzle leg22345=", "Puzzle leg1", "Puzzle leg22345="}
	if got := p.authorizations(); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}
