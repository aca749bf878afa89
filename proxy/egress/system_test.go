package egress

import (
	"errors"
	"reflect"
	"testing"
)

const scutil = `<dictionary> {
  ExceptionsList : <array> {
    0 : *.local
    1 : 169.254.0.0/16
  }
  ExcludeSimpleHostnames : 1
  HTTPEnable : 1
  HTTPPort : 8080
  HTTPProxy : proxy.example.com
  HTTPSEnable : 1
  HTTPSPort : 8443
  HTTPSProxy : 2001:db8::1
  ProxyAutoConfigEnable : 0
  ProxyAutoConfigURLString : http://pac.example.com/proxy.pac
  SOCKSEnable : 0
  SOCKSPort : 1080
  SOCKSProxy : socks.example.com
}
`

func TestSystemSettings(t *testing.T) {
	mac := macSetting(scutil)
	if want := (systemSetting{
		https: "[2001:db8::1]:8443", http: "proxy.example.com:8080",
		bypass: []string{"*.local", "169.254.0.0/16"}, bypassPlain: true,
	}); !reflect.DeepEqual(mac, want) {
		t.Errorf("%+v", mac)
	}
	if got := macSetting("<dictionary> {\n  ProxyAutoConfigEnable : 1\n  ProxyAutoConfigURLString : http://a/b\n}"); got.pac != "http://a/b" {
		t.Errorf("%+v", got)
	}
	windows := windowsSetting(true, "http=a:1; https=b:2;socks=c:3", "*.corp.example;<local>;10.*", "http://x/y.pac")
	if want := (systemSetting{
		pac: "http://x/y.pac", http: "a:1", https: "b:2", socks: "c:3",
		bypass: []string{"*.corp.example", "10.*"}, bypassPlain: true,
	}); !reflect.DeepEqual(windows, want) {
		t.Errorf("%+v", windows)
	}
	if got := windowsSetting(false, "a:1", "x", ""); !reflect.DeepEqual(got, systemSetting{}) {
		t.Errorf("%+v", got)
	}
	one := windowsSetting(true, "proxy:8080", "", "")
	for _, c := range []struct {
		setting              systemSetting
		scheme, target, want string
	}{
		{mac, "https", testTarget, "via http://[2001:db8::1]:8443 (the system's setting)"},
		{mac, "http", testTarget, "via http://proxy.example.com:8080 (the system's setting)"},
		{mac, "https", "printer.local:443", "direct (the system's setting: exception)"},
		{mac, "https", "169.254.7.8:443", "direct (the system's setting: exception)"},
		{mac, "https", "intranet:443", "direct (the system's setting: exception)"},
		{mac, "https", "127.0.0.1:443", "direct (loopback target)"},
		{one, "https", testTarget, "via http://proxy:8080 (the system's setting)"},
		{one, "https", "intranet:443", "via http://proxy:8080 (the system's setting)"},
		{windows, "https", testTarget, "as the PAC script says (the system's setting http://x/y.pac)"},
		{windows, "https", "x.corp.example:443", "direct (the system's setting: exception)"},
		{windowsSetting(true, "socks=c:3", "", ""), "https", testTarget, "via socks5h://c:3 (the system's setting)"},
		{systemSetting{}, "https", testTarget, "direct (no proxy set)"},
	} {
		o := withCredentials(testOptions(""))
		tr, err := newTrust(o)
		if err != nil {
			t.Fatal(err)
		}
		f, err := bySystem(c.setting, o, c.scheme, tr)
		if err != nil {
			t.Fatal(err)
		}
		if r, err := f.route(c.target); err != nil || r.String() != c.want {
			t.Errorf("%s: %v %v, want %s", c.target, r, err, c.want)
		}
		d := mustNew(t, o)
		if f, ok := f.(*systemFinder); ok && f.pac == nil {
			ways, err := f.ways(t.Context(), d, testTarget)
			if err != nil || len(ways) != 1 || len(ways[0].hops) == 1 && ways[0].hops[0].cred == nil {
				t.Errorf("%v %v", ways, err)
			}
		}
	}
	tr, _ := newTrust(testOptions(""))
	if _, err := bySystem(windowsSetting(true, "a b:1", "", ""), testOptions(""), "https", tr); !errors.Is(err, ErrConfig) {
		t.Errorf("%v", err)
	}
}
