package access

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// Identity is who a peer is and what it may do, as it was when it authenticated. Ask Store.Lookup for the state of now.
type Identity struct {
	Name   string // stable; what sessions belong to
	Policy Policy
	Limits Limits
}

// Limits bound what one identity uses at a time. Zero in a field: no limit of its own; the agent's own bounds still hold.
type Limits struct {
	Sessions int // sessions, attached and detached
	Streams  int // open streams in all its sessions, reverse listeners included
}

// Entry is an identity and what proves it. With both SHA256 and Certificate, both are required.
type Entry struct {
	Name   string
	SHA256 Digest // of the bearer token; zero: no token
	// Certificate is the name in a client certificate: a URI, a DNS name or the common name; "*" is every certificate that the TLS
	// layer verified; "" is none.
	Certificate string
	// Anyone lets every peer in, with whatever credentials or none. It must be the only entry and have no other credential. It can't
	// be written in a tokens file.
	Anyone bool
	Policy Policy
	Limits Limits
}

// Store holds the identities of a server agent. It is safe for concurrent use; use NewStore.
type Store struct {
	replacing sync.Mutex
	current   atomic.Pointer[table]
}

// table is one list of entries, never changed.
type table struct {
	entries []Entry
	byName  map[string]int
}

// NewStore makes a Store of entries. An empty list is allowed and lets nobody in.
// The error joins one for each name or credential that is missing, malformed or used twice.
func NewStore(entries []Entry) (*Store, error) {
	t, err := newTable(entries)
	if err != nil {
		return nil, err
	}
	s := &Store{}
	s.current.Store(t)
	return s, nil
}

func newTable(entries []Entry) (*table, error) {
	t := &table{entries: slices.Clone(entries), byName: make(map[string]int, len(entries))}
	c := newChecker()
	var errs []error
	for i, e := range t.entries {
		if err := c.add(e); err != nil {
			errs = append(errs, err)
		}
		if e.Anyone && len(entries) > 1 {
			errs = append(errs, fmt.Errorf("entry %s lets everyone in and must be the only one", quote(e.Name)))
		}
		t.byName[e.Name] = i
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return t, nil
}

// checker checks entries by themselves and against those before.
type checker struct {
	names  map[string]bool
	tokens map[Digest]string // to the entry's name
	certs  map[string]string // of entries without token, to the entry's name
}

func newChecker() checker {
	return checker{map[string]bool{}, map[Digest]string{}, map[string]string{}}
}

func (c checker) add(e Entry) error {
	if err := checkName(e.Name); err != nil {
		return err
	}
	switch {
	case e.Anyone && (!e.SHA256.IsZero() || e.Certificate != ""):
		return fmt.Errorf("entry %s lets everyone in and also has a credential", quote(e.Name))
	case !e.Anyone && e.SHA256.IsZero() && e.Certificate == "":
		return fmt.Errorf("entry %s has no credential; give it sha256 or certificate", quote(e.Name))
	case len(e.Certificate) > maxToken || strings.TrimSpace(e.Certificate) != e.Certificate:
		return fmt.Errorf("entry %s has a certificate name with spaces around it or too long", quote(e.Name))
	case e.Limits.Sessions < 0 || e.Limits.Streams < 0:
		return fmt.Errorf("entry %s has a negative limit; write 0 for none", quote(e.Name))
	case c.names[e.Name]:
		return fmt.Errorf("entry %s is there twice", quote(e.Name))
	}
	c.names[e.Name] = true
	if !e.SHA256.IsZero() {
		if other, ok := c.tokens[e.SHA256]; ok {
			return fmt.Errorf("entries %s and %s have the same token", quote(other), quote(e.Name))
		}
		c.tokens[e.SHA256] = e.Name
	} else if !e.Anyone {
		if other, ok := c.certs[e.Certificate]; ok {
			return fmt.Errorf("entries %s and %s have the same certificate", quote(other), quote(e.Name))
		}
		c.certs[e.Certificate] = e.Name
	}
	return nil
}

func (e Entry) identity() Identity { return Identity{Name: e.Name, Policy: e.Policy, Limits: e.Limits} }

// Lookup returns the identity called name as it is now, false if there is none any more.
func (s *Store) Lookup(name string) (Identity, bool) {
	t := s.current.Load()
	i, ok := t.byName[name]
	if !ok {
		return Identity{}, false
	}
	return t.entries[i].identity(), true
}

// Len returns how many identities there are.
func (s *Store) Len() int { return len(s.current.Load().entries) }

// Changes tells what a replacement meant for identities that were there before and after it, by name, in order.
type Changes struct {
	Added   []string // new: nothing to do
	Removed []string // gone: close their sessions
	Shrunk  []string // lost a rule or got a lower limit: check their streams and listeners again
	Changed []string // any other difference, a new credential included: sessions go on
}

// Empty tells whether nothing changed.
func (c Changes) Empty() bool { return len(c.Added)+len(c.Removed)+len(c.Shrunk)+len(c.Changed) == 0 }

// String is a summary for a log line.
func (c Changes) String() string {
	if c.Empty() {
		return "no change"
	}
	var parts []string
	for _, p := range []struct {
		what  string
		names []string
	}{{"added", c.Added}, {"removed", c.Removed}, {"shrunk", c.Shrunk}, {"changed", c.Changed}} {
		if len(p.names) > 0 {
			parts = append(parts, p.what+" "+strings.Join(p.names, " "))
		}
	}
	return strings.Join(parts, ", ")
}

// Replace swaps all entries. On an error, which is as NewStore's, the old ones stay.
func (s *Store) Replace(entries []Entry) (Changes, error) {
	next, err := newTable(entries)
	if err != nil {
		return Changes{}, err
	}
	s.replacing.Lock()
	defer s.replacing.Unlock()
	old := s.current.Swap(next)
	return compare(old, next), nil
}

// Reload replaces all entries by those of the tokens file at path. On an error, which is as LoadFile's, the old ones stay.
func (s *Store) Reload(path string) (Changes, error) {
	entries, err := LoadFile(path)
	if err != nil {
		return Changes{}, err
	}
	return s.Replace(entries)
}

func compare(old, next *table) Changes {
	var c Changes
	for _, e := range old.entries {
		i, ok := next.byName[e.Name]
		switch {
		case !ok:
			c.Removed = append(c.Removed, e.Name)
		case shrunk(e, next.entries[i]):
			c.Shrunk = append(c.Shrunk, e.Name)
		case !equal(e, next.entries[i]):
			c.Changed = append(c.Changed, e.Name)
		}
	}
	for _, e := range next.entries {
		if _, ok := old.byName[e.Name]; !ok {
			c.Added = append(c.Added, e.Name)
		}
	}
	for _, names := range [][]string{c.Added, c.Removed, c.Shrunk, c.Changed} {
		slices.Sort(names)
	}
	return c
}

// shrunk is true as soon as a rule is gone, even if others make up for it: checking once more does no harm.
func shrunk(old, next Entry) bool {
	return lost(old.Policy.Connect, next.Policy.Connect) || lost(old.Policy.Listen, next.Policy.Listen) ||
		lower(old.Limits.Sessions, next.Limits.Sessions) || lower(old.Limits.Streams, next.Limits.Streams)
}

func lost(old, next []Rule) bool {
	kept := make(map[string]bool, len(next))
	for _, r := range next {
		kept[r.String()] = true
	}
	return slices.ContainsFunc(old, func(r Rule) bool { return !kept[r.String()] })
}

func lower(old, next int) bool { return next != 0 && (old == 0 || next < old) }

func equal(a, b Entry) bool {
	same := func(x, y Rule) bool { return x.String() == y.String() }
	return a.SHA256 == b.SHA256 && a.Certificate == b.Certificate && a.Anyone == b.Anyone && a.Limits == b.Limits &&
		slices.EqualFunc(a.Policy.Connect, b.Policy.Connect, same) && slices.EqualFunc(a.Policy.Listen, b.Policy.Listen, same)
}
