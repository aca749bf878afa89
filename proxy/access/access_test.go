package access

import (
	"context"
	"net/netip"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// names is a Resolver of fixed answers that counts what it was asked.
type names struct {
	answers map[string][]string
	err     error
	asked   []string
}

func (n *names) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	n.asked = append(n.asked, host)
	if n.err != nil {
		return nil, n.err
	}
	var addrs []netip.Addr
	for _, s := range n.answers[host] {
		addrs = append(addrs, netip.MustParseAddr(s))
	}
	return addrs, nil
}

func mustRules(t testing.TB, texts ...string) []Rule {
	t.Helper()
	rules, err := ParseRules(texts)
	if err != nil {
		t.Fatal(err)
	}
	return rules
}
