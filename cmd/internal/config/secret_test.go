package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

const password = "hunter2-hunter2"

// printed is x in every way that I know of to print something.
func printed(t *testing.T, x any) string {
	t.Helper()
	var b bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T", "%p", "%5.3s"} {
		fmt.Fprintf(&b, verb+"\n", x)
	}
	fmt.Fprintln(&b, x, fmt.Errorf("%v", x))
	j, err := json.Marshal(x)
	if err != nil {
		t.Fatal(err)
	}
	y, err := yaml.Marshal(x)
	if err != nil {
		t.Fatal(err)
	}
	b.Write(j)
	b.Write(y)
	for _, h := range []slog.Handler{slog.NewTextHandler(&b, nil), slog.NewJSONHandler(&b, nil)} {
		slog.New(h).Info("message", "x", x, slog.Group("g", "x", x))
	}
	return b.String()
}

func TestSecretsDoNotPrint(t *testing.T) {
	s := NewSecret(password)
	var list []ProxyURL
	if err := (proxyValue{&list}).set("http://user:" + password + "@proxy:3128"); err != nil {
		t.Fatal(err)
	}
	c := defaults()
	p := list[0]
	c.Client.Token, c.Client.ProxyPassword, c.Client.Proxy = s, s, list
	c.Client.Header = []Header{{"X-Key", s}}
	for name, x := range map[string]any{
		"secret": s, "pointer": &s, "slice": []Secret{s}, "map": map[string]Secret{"k": s}, "proxy": p, "config": c, "client": c.Client,
		"header": c.Client.Header[0], "unexported": struct{ s Secret }{s}, "unexported proxy": struct{ p ProxyURL }{p},
		"effective": c.Effective(Client),
	} {
		text := printed(t, x)
		for _, leak := range []string{password, fmt.Sprintf("%x", password), fmt.Sprintf("%X", password), fmt.Sprint([]byte(password))} {
			if strings.Contains(text, leak) {
				t.Errorf("%s: prints the secret:\n%s", name, text)
			}
		}
	}
	if s.Reveal() != password || p.Reveal() != "http://user:"+password+"@proxy:3128" {
		t.Error("Reveal doesn't")
	}
	if (Secret{}).Reveal() != "" || (Secret{}).String() != "" || !NewSecret("").IsZero() || fmt.Sprint(s) != hidden {
		t.Error("the zero Secret isn't the empty text")
	}
}

func TestProxyURLString(t *testing.T) {
	for in, want := range map[string]string{
		"":                            "",
		"none":                        "none",
		"http://proxy:3128":           "http://proxy:3128",
		"https://[::1]:3128/":         "https://[::1]:3128/",
		"proxy.example.com:8080":      "proxy.example.com:8080",
		"http://u:p@proxy:3128":       "http://(hidden)@proxy:3128",
		"http://u:p@ss@proxy:3128":    "http://(hidden)@proxy:3128",
		"u:p@proxy:3128":              "(hidden)@proxy:3128",
		"http://u:p/w#?@proxy":        "http://(hidden)@proxy",
		"http://user:" + password:     hidden,
		"user:" + password:            hidden,
		"http://proxy/?p=" + password: hidden,
		"http://proxy/" + password:    hidden,
	} {
		p := ProxyURL{NewSecret(in)}
		if p.String() != want {
			t.Errorf("%q prints %q, want %q", in, p, want)
		}
	}
}

func TestReadSecret(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	for content, want := range map[string]string{
		password:                          password,
		password + "\n":                   password,
		password + "\r\n":                 password,
		" pass word \n":                   " pass word ",
		"":                                "error: the file is empty",
		"\n":                              "error: the file is empty",
		password + "\n\n":                 "error: the file has more than one line",
		"user\n" + password:               "error: the file has more than one line",
		password + "\x00":                 "error: the file has more than one line",
		strings.Repeat("hunter2", 10<<10): "error: larger than 64 KiB",
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, read := range []func() (Secret, error){
			func() (Secret, error) { return ReadSecret(path) },
			ClientConfig{TokenFile: path}.ReadToken,
			ClientConfig{ProxyPasswordFile: path}.ReadProxyPassword,
		} {
			s, err := read()
			problem, isError := strings.CutPrefix(want, "error: ")
			switch {
			case isError && (err == nil || !strings.Contains(err.Error(), problem) || !strings.Contains(err.Error(), path)):
				t.Errorf("%.30q: %v, want %s", content, err, problem)
			case isError && strings.Contains(err.Error(), "hunter2"):
				t.Errorf("the error has the secret: %v", err)
			case !isError && (err != nil || s.Reveal() != want):
				t.Errorf("%.30q: %q, %v", content, s.Reveal(), err)
			}
		}
	}
	if _, err := ReadSecret(path + "-none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	s, err := ClientConfig{Token: NewSecret("from env")}.ReadToken()
	if err != nil || s.Reveal() != "from env" {
		t.Errorf("token from the environment: %v", err)
	}
	if s, err := (ClientConfig{}).ReadProxyPassword(); err != nil || !s.IsZero() {
		t.Errorf("no password: %v", err)
	}
}
