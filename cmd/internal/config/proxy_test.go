package config

import (
	"slices"
	"strings"
	"testing"
)

// One proxy may stand alone, several are a list; a script excludes them unless it comes from nearer.
func TestProxySettings(t *testing.T) {
	for _, c := range []struct {
		name, file string
		env        map[string]string
		flags      map[string][]string
		proxy      []string
		pac, fail  string
	}{
		{name: "alone", file: "proxy: http://u:hunter2@a:1", proxy: []string{"http://u:hunter2@a:1"}},
		{name: "list", file: "proxy: [\"http://a:1\", \"socks5://b:2\"]", proxy: []string{"http://a:1", "socks5://b:2"}},
		{name: "variable", env: map[string]string{"SALLYPORT_PROXY": "a:1 b:2"}, proxy: []string{"a:1", "b:2"}},
		{name: "flags", file: "proxy: none", flags: map[string][]string{"proxy": {"a:1", "b:2"}}, proxy: []string{"a:1", "b:2"}},
		{name: "script beside the file", file: "pac: proxy.pac", pac: "proxy.pac"},
		{name: "script's URL", file: "pac: http://wpad/proxy.pac", pac: "http://wpad/proxy.pac"},
		{name: "script by flag over a proxy", file: "proxy: a:1", flags: map[string][]string{"pac": {"x.pac"}}, pac: "x.pac"},
		{name: "both", file: "proxy: a:1\n  pac: x.pac", fail: "excludes client.proxy"},
		{name: "scheme", file: "proxy_auth: [kerberos]", fail: "negotiate, ntlm, digest"},
		{name: "lone scheme", file: "proxy_auth: ntlm", fail: "expected a list"},
		{name: "spaces", file: "proxy: \"http://u:hunter2 @a:1\"", fail: "spaces or line breaks"},
	} {
		config, err := load(t, Client, "client:\n  server: wss://gate\n  "+c.file+"\n", c.env, c.flags)
		switch {
		case c.fail != "":
			if err == nil || !strings.Contains(err.Error(), c.fail) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s: %v", c.name, err)
			}
		case err != nil:
			t.Errorf("%s: %v", c.name, err)
		case !slices.Equal(config.Client.RevealProxy(), c.proxy) || config.Client.PAC != c.pac:
			t.Errorf("%s: %q, %q", c.name, config.Client.RevealProxy(), config.Client.PAC)
		}
	}
}
