package access

import (
	"strings"
	"testing"
)

func TestNewToken(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		token, e, err := NewToken("alice")
		if err != nil {
			t.Fatal(err)
		}
		if seen[token] || !strings.HasPrefix(token, TokenPrefix) || len(token) != len(TokenPrefix)+43 {
			t.Fatalf("token %q", token)
		}
		seen[token] = true
		if e.Name != "alice" || e.SHA256 != HashToken(token) || strings.Contains(e.YAML(), token) {
			t.Fatalf("entry %+v", e)
		}
		if got, err := ParseToken([]byte("  " + token + "\r\n")); err != nil || got != token {
			t.Fatalf("ParseToken: %q, %v", got, err)
		}
		if d, err := ParseDigest(e.SHA256.String()); err != nil || d != e.SHA256 {
			t.Fatalf("ParseDigest: %v, %v", d, err)
		}
	}
	if _, _, err := NewToken("a b"); err == nil || !strings.Contains(err.Error(), "identity name") {
		t.Errorf("name with a space: %v", err)
	}
}

func TestHashTokenIsSHA256(t *testing.T) {
	// printf %s abc | sha256sum
	const want = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
	if got := HashToken("abc").String(); got != want {
		t.Errorf("got %s", got)
	}
}

func TestTokenErrorsKeepTheSecret(t *testing.T) {
	const secret = "hunter2hunter2hunter2"
	for content, want := range map[string]string{
		"":                        "empty",
		" \n":                     "empty",
		"hunter2":                 "less than 16",
		secret + "\n" + secret:    "one token and nothing else",
		"token: " + secret:        "one token and nothing else",
		secret + "\x00":           "don't fit in a header",
		secret + "ü":              "don't fit in a header",
		"====================":    "don't fit in a header",
		strings.Repeat("a", 5000): "more than 4096",
	} {
		_, err := ParseToken([]byte(content))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("ParseToken(%q): %v, want %s", content, err, want)
		}
	}
	for _, s := range []string{secret, strings.Repeat("hunter2x", 8), strings.Repeat("0", 64)} {
		_, err := ParseDigest(s)
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("ParseDigest(%q): %v", s, err)
		}
	}
}

func TestCheckName(t *testing.T) {
	for name, ok := range map[string]bool{
		"alice": true, "team-a.ci_1@example.com": true, strings.Repeat("a", 64): true,
		"": false, strings.Repeat("a", 65): false, "-a": false, ".a": false, "a b": false, "ä": false, "a\n": false, "a/b": false, `a"`: false,
	} {
		if err := checkName(name); (err == nil) != ok {
			t.Errorf("checkName(%q): %v", name, err)
		}
	}
}
