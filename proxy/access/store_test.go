package access

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

func TestNewStoreErrors(t *testing.T) {
	d, d2 := HashToken("one"), HashToken("two")
	tests := []struct {
		entries []Entry
		want    string
	}{
		{[]Entry{{Name: "", SHA256: d}}, "identity name"},
		{[]Entry{{Name: "a"}}, "no credential"},
		{[]Entry{{Name: "a", SHA256: d}, {Name: "a", SHA256: d2}}, `"a" is there twice`},
		{[]Entry{{Name: "a", SHA256: d}, {Name: "b", SHA256: d}}, `"a" and "b" have the same token`},
		{[]Entry{{Name: "a", Certificate: "c"}, {Name: "b", Certificate: "c"}}, "the same certificate"},
		{[]Entry{{Name: "a", Certificate: " c"}}, "spaces"},
		{[]Entry{{Name: "a", SHA256: d, Limits: Limits{Sessions: -1}}}, "negative"},
		{[]Entry{{Name: "a", Anyone: true, SHA256: d}}, "also has a credential"},
		{[]Entry{{Name: "a", Anyone: true}, {Name: "b", SHA256: d}}, "must be the only one"},
	}
	for _, tt := range tests {
		if _, err := NewStore(tt.entries); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("NewStore(%+v): %v, want %s", tt.entries, err, tt.want)
		}
	}
	// One certificate with and without a token are two ways in.
	if _, err := NewStore([]Entry{{Name: "a", Certificate: "c"}, {Name: "b", Certificate: "c", SHA256: d}}); err != nil {
		t.Error(err)
	}
}

func TestReplace(t *testing.T) {
	entry := func(name string, l Limits, rules ...string) Entry {
		return Entry{Name: name, SHA256: HashToken(name), Limits: l, Policy: Policy{Connect: mustRules(t, rules...)}}
	}
	s, err := NewStore([]Entry{
		entry("gone", Limits{}), entry("same", Limits{Streams: 5}, "a:1"), entry("wider", Limits{Streams: 5}, "a:1"),
		entry("narrower", Limits{}, "a:1", "b:1"), entry("swapped", Limits{}, "a:1"), entry("less", Limits{Streams: 5}),
		entry("limited", Limits{}), entry("unlimited", Limits{Sessions: 1}), entry("rotated", Limits{}, "a:1"),
	})
	if err != nil {
		t.Fatal(err)
	}
	rotated := entry("rotated", Limits{}, "a:1")
	rotated.SHA256 = HashToken("rotated-2")
	c, err := s.Replace([]Entry{
		entry("new", Limits{}), entry("same", Limits{Streams: 5}, "a:1"), entry("wider", Limits{Streams: 5}, "a:1", "b:1"),
		entry("narrower", Limits{}, "b:1"), entry("swapped", Limits{}, "b:1"), entry("less", Limits{Streams: 4}),
		entry("limited", Limits{Sessions: 9}), entry("unlimited", Limits{}), rotated,
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		what      string
		got, want []string
	}{
		{"added", c.Added, []string{"new"}},
		{"removed", c.Removed, []string{"gone"}},
		{"shrunk", c.Shrunk, []string{"less", "limited", "narrower", "swapped"}},
		{"changed", c.Changed, []string{"rotated", "unlimited", "wider"}},
	} {
		if !slices.Equal(tt.got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.what, tt.got, tt.want)
		}
	}
	if want := "added new, removed gone, shrunk less limited narrower swapped, changed rotated unlimited wider"; c.String() != want {
		t.Errorf("String: %s", c)
	}
	if _, ok := s.Lookup("gone"); ok {
		t.Error("a removed identity is still there")
	}
	if id, ok := s.Lookup("narrower"); !ok || id.Policy.Connect[0].String() != "b:1" {
		t.Errorf("Lookup: %+v, %v", id, ok)
	}
	if s.Len() != 9 {
		t.Errorf("Len: %d", s.Len())
	}
}

func TestReloadRefusesBadFileWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a, b := Entry{Name: "a", SHA256: HashToken("a")}, Entry{Name: "b", SHA256: HashToken("b")}
	write(a.YAML())
	entries, err := LoadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewStore(entries)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", b.YAML() + "- name: c\n", b.YAML() + b.YAML(), b.YAML() + "\t"} {
		write(bad)
		if _, err := s.Reload(path); err == nil {
			t.Errorf("accepted %q", bad)
		}
		if _, ok := s.Lookup("a"); !ok || s.Len() != 1 {
			t.Fatalf("after %q the old list is gone", bad)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Reload(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	write(a.YAML() + b.YAML())
	if c, err := s.Reload(path); err != nil || !slices.Equal(c.Added, []string{"b"}) || len(c.Removed) != 0 {
		t.Errorf("good file: %v, %v", c, err)
	}
	if c, err := s.Reload(path); err != nil || !c.Empty() || c.String() != "no change" {
		t.Errorf("same file: %v, %v", c, err)
	}
	write("[]")
	if c, err := s.Reload(path); err != nil || !slices.Equal(c.Removed, []string{"a", "b"}) {
		t.Errorf("empty list: %v, %v", c, err)
	}
}

func TestReloadWhileAuthenticating(t *testing.T) {
	a := Entry{Name: "a", SHA256: HashToken("token-a")}
	b := Entry{Name: "b", SHA256: HashToken("token-b")}
	s, err := NewStore([]Entry{a})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 200 {
				if id, err := s.Authenticate(request("Bearer token-a")); err != nil || id.Name != "a" {
					t.Errorf("got %v, %v", id.Name, err)
					return
				}
			}
		})
	}
	wg.Go(func() {
		for i := range 200 {
			if _, err := s.Replace([]Entry{a, b}[:1+i%2]); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
}
