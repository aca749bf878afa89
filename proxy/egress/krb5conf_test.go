package egress

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestKrb5Config(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	put("d/10-first.conf", "[realms]\nTWO.TEST = {\n kdc = two.test:750*\n kdc = tcp/three.test\n kdc = https://four.test/kkdcp\n}\n")
	put("d/20_second", "[libdefaults]\ndefault_realm = LATER.TEST\n")
	put("d/.hidden.conf", "[libdefaults]\ndefault_ccache_name = KCM:\n")
	put("d/backup.conf~", "[libdefaults]\ndefault_ccache_name = KCM:\n")
	main := put("krb5.conf", `# comment
[libdefaults]
	default_realm = ONE.TEST ; the first counts
	dns_lookup_kdc = no
	block = {
		inner = 1
	}
	a line without a sign
[logging]
	kdc = FILE:/dev/null
[realms]
	ONE.TEST = {
		kdc = [2001:db8::1]
		auth_to_local_names = {
			kdc = nobody
		}
		kdc = one.test
	}
	EMPTY.TEST = {}
include`+"dir\t"+filepath.Join(dir, "d")+`
included = nothing
includedir /nonexistent
[domain_realm]
	.One.test = ONE.TEST
`)
	c, err := readKrb5([]string{"/nonexistent/krb5.conf", main}, true)
	if err != nil {
		t.Fatal(err)
	}
	want := &krb5Config{
		libdefaults: map[string]string{"default_realm": "ONE.TEST", "dns_lookup_kdc": "no"},
		kdcs:        map[string][]string{"ONE.TEST": {"[2001:db8::1]:88", "one.test:88"}, "TWO.TEST": {"two.test:750", "three.test:88"}},
		domains:     [][2]string{{".one.test", "ONE.TEST"}},
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("%+v", c)
	}
	library, err := c.library("TWO.TEST")
	if err != nil {
		t.Fatal(err)
	}
	if library.ResolveRealm("proxy.one.test") != "ONE.TEST" {
		t.Errorf("%+v", library)
	}
	servers, err := c.servers(t.Context(), "TWO.TEST")
	if err != nil || !slices.Equal(servers, []string{"two.test:750", "three.test:88"}) {
		t.Errorf("%v %v", servers, err)
	}
	if _, err := c.servers(t.Context(), "X.TEST"); !errors.Is(err, ErrNoKDC) || !strings.Contains(err.Error(), "of X.TEST is known") {
		t.Errorf("without DNS: %v", err)
	}

	loop := put("loop.conf", "include "+filepath.Join(dir, "loop.conf")+"\n")
	big := put("big.conf", "#"+strings.Repeat("x", maxKrb5Config))
	for _, path := range []string{loop, big} {
		if _, err := readKrb5([]string{path}, true); err == nil {
			t.Errorf("%s accepted", path)
		}
	}
	if _, err := readKrb5([]string{"/nonexistent/krb5.conf"}, true); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if _, err := readKrb5([]string{"/nonexistent/krb5.conf"}, false); err != nil {
		t.Errorf("%v", err)
	}
	paths, explicit := krb5Paths("", environment("KRB5_CONFIG", "a"+string(filepath.ListSeparator)+"b"))
	if len(paths) != 2 || !explicit {
		t.Errorf("%v", paths)
	}
}

func FuzzKrb5Config(f *testing.F) {
	f.Add("[libdefaults]\ndefault_realm = A\n[realms]\nA = {\n kdc = a\n}\n}\n[domain_realm]\n.a = A\n")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "include") {
			return // no files of this machine
		}
		path := filepath.Join(dir, "krb5.conf")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := readKrb5([]string{path}, true)
		if err != nil {
			return
		}
		c.library("A") // may refuse, not panic
	})
}

func TestCachePath(t *testing.T) {
	dir := t.TempDir()
	named := filepath.Join(dir, "named")
	if err := os.MkdirAll(named, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(named, "primary"), []byte("tktABC\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ setting, env, conf, want string }{
		{"/a/b", "FILE:/c", "", "/a/b"},
		{"", "FILE:/c", "FILE:/d", "/c"},
		{"", "", "FILE:/d/%{uid}", "/d/" + uid()},
		{"", "", "", "/tmp/krb5cc_" + uid()},
		{"DIR:" + dir, "", "", filepath.Join(dir, "tkt")},
		{"DIR:" + named, "", "", filepath.Join(named, "tktABC")},
		{"DIR::/x/tktDEF", "", "", "/x/tktDEF"},
		{"KEYRING:persistent:1", "", "", ""},
	} {
		s := &ticketSource{config: &krb5Config{libdefaults: map[string]string{}}}
		if c.conf != "" {
			s.config.libdefaults["default_ccache_name"] = c.conf
		}
		got, err := s.cachePath(c.setting, environment("KRB5CCNAME", c.env))
		if got != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%+v: %s %v", c, got, err)
		}
	}
}

func TestSplitRealm(t *testing.T) {
	for name, want := range map[string][2]string{
		"jane": {"jane", ""}, "jane@corp.example": {"jane", "CORP.EXAMPLE"}, `CORP\jane`: {"jane", ""},
		`corp.example\jane`: {"jane", "CORP.EXAMPLE"}, "a@b@C": {"a@b", "C"}, "@x": {"@x", ""},
	} {
		if user, realm := splitRealm(name); [2]string{user, realm} != want {
			t.Errorf("%s: %s %s", name, user, realm)
		}
	}
}
