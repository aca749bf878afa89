package config

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.yaml.in/yaml/v3"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const example = "../../../config.example.yaml"

func noEnv(string) (string, bool) { return "", false }

func envOf(m map[string]string) func(string) (string, bool) {
	return func(k string) (string, bool) {
		v, ok := m[k]
		return v, ok
	}
}

func flagsOf(m map[string][]string) func(Setting) ([]string, bool) {
	return func(s Setting) ([]string, bool) {
		v, ok := m[s.Flag]
		return v, ok
	}
}

// load runs all four steps.
func load(t *testing.T, role Role, file string, env map[string]string, flags map[string][]string) (*Config, error) {
	t.Helper()
	c, err := Parse("f.yaml", []byte(file))
	if err != nil {
		return nil, err
	}
	return c, errors.Join(c.ApplyEnv(role, envOf(env)), c.ApplyFlags(role, flagsOf(flags)), c.Check(role, nil))
}

func TestSettingsTable(t *testing.T) {
	c := defaults()
	places := c.places()
	seen, all := map[string]bool{}, settings()
	for _, s := range all {
		name := s.Name()
		if seen[name] || places[name] == nil || s.Usage == "" || !strings.HasPrefix(s.Env, envPrefix) {
			t.Errorf("%s: there twice, without a place, without usage, or variable %q", name, s.Env)
			continue
		}
		seen[name] = true
		if s.Key != "" && (s.Flag == "" || strings.Contains(s.Flag, "_")) {
			t.Errorf("%s: flag %q", name, s.Flag)
		}
		if s.Default != "" {
			if err := places[name].set(s.Default); err != nil || places[name].String() != s.Default {
				t.Errorf("%s: default %q reads %q, %v", name, s.Default, places[name], err)
			}
		}
	}
	if len(places) != len(all) {
		t.Errorf("%d settings have %d places", len(all), len(places))
	}
	for _, role := range []Role{Server, Client, Connect} {
		flags, env := map[string]bool{}, map[string]bool{}
		for _, s := range Settings(role) {
			if s.Flag != "" && flags[s.Flag] || env[s.Env] {
				t.Errorf("%s: --%s or %s is there twice", role, s.Flag, s.Env)
			}
			flags[s.Flag], env[s.Env] = true, true
		}
	}
}

// The flags that the commands promise.
func TestFlagNames(t *testing.T) {
	for role, want := range map[Role]string{
		Server: "log-level log-format listen path tls-cert tls-key plaintext client-ca tokens allow token-file admin " +
			"resume-timeout drain-timeout dial-timeout insecure-no-auth",
		Client: "log-level log-format server token-file ca-file pin client-cert client-key keepalive proxy proxy-user " +
			"proxy-password-file header carriers admin forward reverse",
		Connect: "log-level log-format server token-file ca-file pin client-cert client-key keepalive proxy proxy-user " +
			"proxy-password-file header carriers admin",
	} {
		var have []string
		for _, s := range Settings(role) {
			have = append(have, s.Flag)
		}
		for flag := range strings.FieldsSeq(want) {
			if !slices.Contains(have, flag) {
				t.Errorf("%s lacks --%s", role, flag)
			}
		}
		if role == Connect && (slices.Contains(have, "forward") || slices.Contains(have, "reverse")) {
			t.Error("connect has forwards")
		}
	}
}

func TestDefaults(t *testing.T) {
	c, err := Load("")
	if err != nil {
		t.Fatal(err)
	}
	s, k := c.Server, c.Client
	if s.Listen != "127.0.0.1:8443" || s.Path != "/tunnel" || s.ResumeTimeout != 2*time.Minute || s.DrainTimeout != 30*time.Second ||
		s.DialTimeout != 10*time.Second || s.Plaintext || s.InsecureNoAuth || s.MaxSessions != 4096 || s.SessionMemory != 64<<20 {
		t.Errorf("server: %+v", s)
	}
	if k.KeepAlive != 20*time.Second || k.Carriers != 1 || k.DrainTimeout != 30*time.Second || !k.Token.IsZero() || k.Admin != "" {
		t.Errorf("client: %+v", k)
	}
	if c.Log.SlogLevel() != slog.LevelInfo || c.Log.Format != "text" {
		t.Errorf("log: %+v", c.Log)
	}
}

func TestPrecedence(t *testing.T) {
	const file = "log: {level: warn}\n" +
		"client:\n  server: wss://file\n  carriers: 2\n  keepalive: 30s\n  pin: [file1, file2]\n  header: [\"A: file\"]\n  ca_file: ca.pem\n  plaintext: true\n"
	env := map[string]string{
		"SALLYPORT_CARRIERS": "3", "SALLYPORT_KEEPALIVE": "40s", "SALLYPORT_PIN": "env1 env2\nenv3", "SALLYPORT_SERVER": "",
		"SALLYPORT_HEADER": "A: env; b\n\nB: env", "SALLYPORT_LISTEN": "nonsense of another role", "SALLYPORT_CA_FILE": "env.pem",
	}
	flags := map[string][]string{"keepalive": {"50s"}, "header": {"C: flag"}, "plaintext": {"false"}}
	c, err := load(t, Client, file, env, flags)
	if err != nil {
		t.Fatal(err)
	}
	k := c.Client
	if k.Server != "wss://file" || k.Carriers != 3 || k.KeepAlive != 50*time.Second || k.CAFile != "env.pem" || k.Plaintext ||
		!slices.Equal(k.Pin, []string{"env1", "env2", "env3"}) || len(k.Header) != 1 || k.Header[0].Name != "C" || c.Log.SlogLevel() != slog.LevelWarn {
		t.Errorf("got %+v", k)
	}
	want := map[string]string{
		"client.server": "f.yaml:3", "client.carriers": "SALLYPORT_CARRIERS", "client.keepalive": "--keepalive", "client.proxy": "default",
		"log.level": "f.yaml:1", "client.plaintext": "--plaintext",
	}
	for _, e := range c.Effective(Client) {
		if want[e.Name] != "" && e.Origin != want[e.Name] {
			t.Errorf("%s = %q is from %s, want %s", e.Name, e.Value, e.Origin, want[e.Name])
		}
		delete(want, e.Name)
	}
	if len(want) > 0 {
		t.Errorf("Effective lacks %v", want)
	}

	c, err = load(t, Client, file, env, nil)
	if err != nil || len(c.Client.Header) != 2 || c.Client.Header[0].Value.Reveal() != "env; b" {
		t.Errorf("headers from the environment: %+v, %v", c.Client.Header, err)
	}
}

func TestHigherLayerWinsBetweenExclusives(t *testing.T) {
	tests := []struct {
		name  string
		role  Role
		file  string
		env   map[string]string
		flags map[string][]string
		want  string // of wanted values, or of an error
	}{
		{"token file over variable", Client, "", map[string]string{"SALLYPORT_TOKEN": "e"}, map[string][]string{"token-file": {"f"}}, "token_file=f token="},
		{"variable over file", Client, "client: {token_file: /f}", map[string]string{"SALLYPORT_TOKEN": "e"}, nil, "token_file= token=e"},
		{"both variables", Client, "", map[string]string{"SALLYPORT_TOKEN": "e", "SALLYPORT_TOKEN_FILE": "f"}, nil, "SALLYPORT_TOKEN: excludes client.token_file: each is a token; remove one of them"},
		{"no TLS by flag", Server, "server: {tls_cert: /c, tls_key: /k, tokens: /t}", nil, map[string][]string{"plaintext": {"true"}}, "cert= plain=true tokens=/t allow=[]"},
		{"no plaintext by flag", Server, "server: {tls_cert: /c, tls_key: /k, tokens: /t}", map[string]string{"SALLYPORT_PLAINTEXT": "true"}, map[string][]string{"plaintext": {"false"}}, "cert=/c plain=false tokens=/t allow=[]"},
		{"TLS by flag", Server, "server: {plaintext: true, tokens: /t}", nil, map[string][]string{"tls-cert": {"c"}, "tls-key": {"k"}}, "cert=c plain=false tokens=/t allow=[]"},
		{"one token by flag", Server, "server: {plaintext: true, tokens: /t}", nil, map[string][]string{"token-file": {"f"}, "allow": {"a:1"}}, "cert= plain=true tokens= allow=[a:1]"},
		{"tokens by flag", Server, "server: {plaintext: true, token_file: /f, allow: [\"a:1\"]}", nil, map[string][]string{"tokens": {"t"}}, "cert= plain=true tokens=t allow=[]"},
		{"two flags", Server, "", nil, map[string][]string{"plaintext": {"true"}, "tls-cert": {"c"}}, "--plaintext: excludes server.tls_cert"},
	}
	for _, tt := range tests {
		if tt.role == Client {
			tt.env["SALLYPORT_SERVER"] = "wss://h"
		}
		c, err := load(t, tt.role, tt.file, tt.env, tt.flags)
		var got string
		switch {
		case err != nil:
			got = err.Error()
		case tt.role == Client:
			got = "token_file=" + c.Client.TokenFile + " token=" + c.Client.Token.Reveal()
		default:
			s := c.Server
			got = "cert=" + s.TLSCert + " plain=" + boolValue(&s.Plaintext).String() + " tokens=" + s.Tokens + " allow=[" + strings.Join(s.Allow, " ") + "]"
		}
		if err == nil && got != tt.want || err != nil && !strings.HasPrefix(got, tt.want) {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestErrorsOfEnvAndFlagsNameThem(t *testing.T) {
	c := defaults()
	err := errors.Join(
		c.ApplyEnv(Server, envOf(map[string]string{"SALLYPORT_DIAL_TIMEOUT": "10", "SALLYPORT_PLAINTEXT": "yes"})),
		c.ApplyFlags(Server, flagsOf(map[string][]string{"listen": {"8443"}, "max-streams": {"-1"}})),
	)
	want := `SALLYPORT_PLAINTEXT: "yes" is neither true nor false; write one of them
SALLYPORT_DIAL_TIMEOUT: "10" is not a duration; write 500ms, 30s, 2m or 1h30m
--listen: "8443" is not an address; write 127.0.0.1:8443, [::1]:8443, or :8443 for all interfaces
--max-streams: "-1" is not a number from 1 to 2147483647`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
	if err := c.ApplyEnv(Server, noEnv); err != nil {
		t.Error(err)
	}
}

func TestPathsAreRelativeToTheFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "c.yaml")
	abs := filepath.Join(dir, "x", "key.pem")
	text := "server: {tls_cert: certs/a.pem, tls_key: '" + abs + "', path: /p}\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(dir, "certs", "a.pem"); c.Server.TLSCert != want || c.Server.TLSKey != abs || c.Server.Path != "/p" {
		t.Errorf("got %q, %q, %q", c.Server.TLSCert, c.Server.TLSKey, c.Server.Path)
	}
	if err := c.ApplyFlags(Server, flagsOf(map[string][]string{"tls-cert": {"b.pem"}})); err != nil || c.Server.TLSCert != "b.pem" {
		t.Errorf("a flag's path: %q, %v", c.Server.TLSCert, err)
	}
	if _, err := Load(filepath.Join(dir, "none.yaml")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}

func TestChecks(t *testing.T) {
	c, err := Parse("f.yaml", []byte("client:\n  server: wss://h\n  forward:\n    - 1:a:1\n    - bad\n    - 2:a:1\n    - bad\n"))
	if err != nil {
		t.Fatal(err)
	}
	cause := errors.New("not a forward")
	err = c.Check(Client, Checks{"client.forward": func(s string) error {
		if s == "bad" {
			return cause
		}
		return nil
	}})
	if want := "f.yaml:5: client.forward: not a forward\nf.yaml:7: client.forward: not a forward"; err == nil || err.Error() != want || !errors.Is(err, cause) {
		t.Errorf("got %v", err)
	}
	if err := c.Check(Connect, Checks{"client.forward": func(string) error { return cause }}); err != nil {
		t.Errorf("connect has no forwards: %v", err)
	}
	if err := c.Check(Client, Checks{"client.forwards": func(string) error { return nil }}); err == nil {
		t.Error("a check for no setting goes unnoticed")
	}
}

func TestServerURL(t *testing.T) {
	for in, want := range map[string]string{
		"wss://h": "wss://h/tunnel", "wss://h/": "wss://h/", "wss://h:1/x?y=z": "wss://h:1/x?y=z", "ws://[::1]:80": "ws://[::1]:80/tunnel",
		"WSS://H": "wss://H/tunnel",
	} {
		u, err := ClientConfig{Server: in}.ServerURL()
		if err != nil || u.String() != want {
			t.Errorf("%s: %v, %v", in, u, err)
		}
	}
	for in, ok := range map[string]bool{
		"ws://localhost": true, "ws://LOCALHOST.:80": true, "ws://127.9.9.9": true, "ws://[::1]": true, "ws://[::ffff:127.0.0.1]": true,
		"ws://10.0.0.1": false, "ws://localhost.example.com": false, "ws://0.0.0.0": false,
	} {
		_, err := load(t, Client, "client: {server: '"+in+"'}", nil, nil)
		if (err == nil) != ok {
			t.Errorf("%s: %v", in, err)
		}
		if _, err = load(t, Client, "client: {plaintext: true, server: '"+in+"'}", nil, nil); err != nil {
			t.Errorf("%s with plaintext: %v", in, err)
		}
	}
}

var offSetting = regexp.MustCompile(`(?m)^  #([a-z_]+:)`)

// The example has every key, each with its default if it has one, loads as it is, and loads with all that is off turned on.
func TestExample(t *testing.T) {
	c, err := Load(example)
	if err != nil {
		t.Fatal(err)
	}
	for _, role := range []Role{Server, Client, Connect} {
		if err := c.Check(role, nil); err != nil {
			t.Error(err)
		}
	}
	data, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	data = offSetting.ReplaceAll(data, []byte("  $1"))
	if _, err := Parse("example", data); err != nil {
		t.Errorf("with everything on: %v", err)
	}
	var tree map[string]map[string]any
	if err := yaml.Unmarshal(data, &tree); err != nil {
		t.Fatal(err)
	}
	for _, s := range settings() {
		if s.Key == "" {
			if !strings.Contains(string(data), s.Env) {
				t.Errorf("the example doesn't mention %s", s.Env)
			}
			continue
		}
		v, ok := tree[s.Section][s.Key]
		if !ok {
			t.Errorf("the example lacks %s", s.Name())
			continue
		}
		if text, err := yaml.Marshal(v); s.Default != "" && (err != nil || strings.Trim(string(text), "\"'\n") != s.Default) {
			t.Errorf("the example has %s: %s the default is %s", s.Name(), text, s.Default)
		}
		delete(tree[s.Section], s.Key)
	}
	for section, left := range tree {
		if len(left) > 0 {
			t.Errorf("the example has %v in %s, which nothing reads", left, section)
		}
	}
}
