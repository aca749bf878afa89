package config

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Each file in testdata/bad has one mistake, or a few; its first lines, after "# ", are the messages. A file that loads is
// checked for the roles whose sections it has.
func TestBadFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil || len(files) < 30 {
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
		err = parseAndCheck(filepath.Base(path), data)
		if err == nil || err.Error() != strings.Join(want, "\n") {
			t.Errorf("%s:\ngot  %v\nwant %s", path, err, strings.Join(want, "\n"))
			continue
		}
		var e *Error
		if !errors.As(err, &e) {
			t.Errorf("%s: %T", path, err)
		}
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the message has the secret", path)
		}
	}
}

func parseAndCheck(name string, data []byte) error {
	c, err := Parse(name, data)
	if err != nil {
		return err
	}
	var errs []error
	for _, role := range []Role{Server, Client} {
		if slices.Contains(c.Sections(), string(role)) {
			errs = append(errs, c.Check(role, nil))
		}
	}
	return errors.Join(errs...)
}

func TestEmptyFilesAreDefaults(t *testing.T) {
	for _, text := range []string{"", "# nothing\n", "---\n", "server:\nclient:\n  # carriers: 2\n", "{}"} {
		c, err := Parse("f", []byte(text))
		if err != nil || c.Server.Listen == "" {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := Parse("f", []byte(strings.Repeat("#", maxFile+1))); err == nil || !strings.Contains(err.Error(), "f: larger than 1 MiB") {
		t.Errorf("huge file: %v", err)
	}
}

func TestAliases(t *testing.T) {
	c, err := Parse("f", []byte("server: &s\n  dial_timeout: &d 7s\n  resume_timeout: *d\nclient:\n  pin: &p [a, b]\n  forward: *p\n"))
	if err != nil || c.Server.ResumeTimeout != c.Server.DialTimeout || !slices.Equal(c.Client.Forward, []string{"a", "b"}) {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestNearest(t *testing.T) {
	words := []string{"tls_cert", "tls_key", "tokens", "token_file"}
	for key, want := range map[string]string{
		"tls-cert": "tls_cert", "TLS_KEY": "tls_key", "token": "tokens", "tokenfile": "token_file", "tlscert": "tls_cert",
		"whatever": "", "": "", strings.Repeat("x", 1000): "",
	} {
		if got := nearest(key, words); got != want {
			t.Errorf("nearest to %.20q: %q, want %q", key, got, want)
		}
	}
	if distance("kitten", "sitting") != 3 || distance("", "abc") != 3 || distance("abc", "abc") != 0 {
		t.Error("distance is off")
	}
}

func FuzzParse(f *testing.F) {
	files, _ := filepath.Glob("testdata/bad/*.yaml")
	for _, path := range append(files, example) {
		if data, err := os.ReadFile(path); err == nil {
			f.Add(data)
		}
	}
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("f", data)
		if err != nil {
			if err.Error() == "" {
				t.Fatal("an error without text")
			}
			return
		}
		for _, role := range []Role{Server, Client, Connect} {
			_ = c.Check(role, nil)
			c.Effective(role)
		}
		_, _ = c.Client.ServerURL()
	})
}
