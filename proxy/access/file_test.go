package access

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

const digestA = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

func TestParseFile(t *testing.T) {
	entries, err := ParseFile("tokens.yaml", []byte(`
# who may come in
- name: alice
  sha256: `+digestA+`
  policy: &dev
    connect:
      - db.example.com:5432
      - "*.dev.example.com:22,443"
      - "[2001:db8::/32]:*"
      - unix:/run/app.sock
    listen: ["localhost:8000-8100"]
  limits: {sessions: 2, streams: 100}
- name: "bob"
  certificate: spiffe://example/bob
  policy: *dev
- {name: carol, certificate: "*"}
`))
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 3 {
		t.Fatalf("%d entries", len(entries))
	}
	a := entries[0]
	if a.Name != "alice" || a.SHA256 != HashToken("abc") || a.Limits != (Limits{2, 100}) || a.Certificate != "" {
		t.Errorf("alice: %+v", a)
	}
	want := "[db.example.com:5432 *.dev.example.com:22,443 [2001:db8::/32]:* unix:/run/app.sock] [localhost:8000-8100]"
	for _, e := range entries[:2] {
		if got := fmt.Sprint(e.Policy.Connect, " ", e.Policy.Listen); got != want {
			t.Errorf("%s: %s", e.Name, got)
		}
	}
	if entries[1].Certificate != "spiffe://example/bob" || entries[2].Certificate != "*" || len(entries[2].Policy.Connect) != 0 {
		t.Errorf("got %+v", entries[1:])
	}
}

// Each file in testdata/tokens has one mistake; the first lines of the file, after "# ", are the message.
func TestBadFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/tokens/*.yaml")
	if err != nil || len(files) < 15 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		data = []byte(strings.ReplaceAll(string(data), "\r\n", "\n"))
		var want []string
		for line := range strings.Lines(string(data)) {
			text, ok := strings.CutPrefix(strings.TrimSpace(line), "# ")
			if !ok {
				break
			}
			want = append(want, text)
		}
		name := filepath.Base(path)
		_, err = ParseFile(name, data)
		if err == nil || err.Error() != strings.Join(want, "\n") {
			t.Errorf("%s:\ngot  %v\nwant %s", path, err, strings.Join(want, "\n"))
			continue
		}
		var fe *FileError
		if !errors.As(err, &fe) || fe.File != name {
			t.Errorf("%s: %T", path, err)
		}
	}
}

func TestEmptyFiles(t *testing.T) {
	for _, text := range []string{"", "\n", "# nothing\n", "---\n", "null\n"} {
		if _, err := ParseFile("f", []byte(text)); err == nil {
			t.Errorf("accepted %q", text)
		}
	}
	if entries, err := ParseFile("f", []byte("[]\n")); err != nil || len(entries) != 0 {
		t.Errorf("the empty list: %v, %v", entries, err)
	}
	if _, err := ParseFile("f", []byte(strings.Repeat("#", maxFile+1))); err == nil || !strings.Contains(err.Error(), "larger") {
		t.Errorf("huge file: %v", err)
	}
}

func TestManyEntries(t *testing.T) {
	var b strings.Builder
	for i := range 2000 {
		e := Entry{Name: fmt.Sprintf("n%d", i), SHA256: HashToken(fmt.Sprint(i))}
		b.WriteString(e.YAML())
	}
	entries, err := ParseFile("f", []byte(b.String()))
	if err != nil || len(entries) != 2000 {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
}

func TestEntryYAMLRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := Entry{
			Name:        rapid.StringMatching(`[a-zA-Z0-9_@][a-zA-Z0-9_.@-]{0,20}`).Draw(t, "name"),
			SHA256:      HashToken(rapid.String().Draw(t, "token")),
			Certificate: rapid.StringMatching(`([a-zA-Z:/."'#*& ä-]{0,20}[a-z])?`).Draw(t, "certificate"),
			Limits:      Limits{rapid.IntRange(0, 9).Draw(t, "sessions"), rapid.IntRange(0, 9).Draw(t, "streams")},
		}
		e.Certificate = strings.TrimSpace(e.Certificate)
		for _, list := range []*[]Rule{&e.Policy.Connect, &e.Policy.Listen} {
			rules, err := ParseRules(rapid.SliceOf(ruleText()).Draw(t, "rules"))
			if err != nil {
				t.Fatal(err)
			}
			*list = rules
		}
		got, err := ParseFile("f", []byte(e.YAML()))
		if err != nil || len(got) != 1 || got[0].Name != e.Name || !equal(got[0], e) {
			t.Fatalf("%v\n%s\ngot %+v", err, e.YAML(), got)
		}
	})
}

func FuzzParseFile(f *testing.F) {
	seeds, _ := filepath.Glob("testdata/tokens/*.yaml")
	for _, path := range slices.Concat(seeds) {
		if data, err := os.ReadFile(path); err == nil {
			f.Add(data)
		}
	}
	f.Add([]byte("- {name: a, certificate: b, policy: {connect: [\"*:*\"]}}"))
	f.Add([]byte("- &a {name: a, policy: *a}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, err := ParseFile("f", data)
		if err != nil {
			return
		}
		if _, err := NewStore(entries); err != nil {
			t.Fatalf("the file was fine, its entries aren't: %v", err)
		}
		var b strings.Builder
		for _, e := range entries {
			b.WriteString(e.YAML())
		}
		if len(entries) > 0 {
			again, err := ParseFile("f", []byte(b.String()))
			if err != nil || !slices.EqualFunc(again, entries, func(a, b Entry) bool { return a.Name == b.Name && equal(a, b) }) {
				t.Fatalf("%v\n%s", err, b.String())
			}
		}
	})
}
