package tls

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParsePin(t *testing.T) {
	want := Pin(sha256.Sum256([]byte("key")))
	b64 := strings.TrimPrefix(want.String(), "sha256/")
	digits := hex.EncodeToString(want[:])
	for name, in := range map[string]string{
		"base64":     "sha256/" + b64,
		"no padding": "sha256/" + strings.TrimRight(b64, "="),
		"curl":       "sha256//" + b64,
		"hex":        "sha256:" + digits,
		"upper hex":  "sha256:" + strings.ToUpper(digits),
		"colons":     "sha256:" + withColons(digits),
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParsePin(in)
			if err != nil || got != want {
				t.Fatalf("ParsePin(%q) = %v, %v; want %v", in, got, err, want)
			}
		})
	}
}

func withColons(digits string) string {
	var parts []string
	for i := 0; i < len(digits); i += 2 {
		parts = append(parts, digits[i:i+2])
	}
	return strings.Join(parts, ":")
}

func TestParsePinRefuses(t *testing.T) {
	full := strings.Repeat("ab", 32)
	for _, tc := range []struct{ name, in, want string }{
		{"empty", "", "must begin with"},
		{"no prefix", full, "must begin with"},
		{"sha1", "sha1/2jmj7l5rSw0yVb/vlWAYkK/YBwk=", "must begin with"},
		{"only prefix", "sha256/", "0 bytes"},
		{"short base64", "sha256/AAAA", "3 bytes"},
		{"not base64", "sha256/!!!", "not BASE64"},
		{"line break", "sha256/" + strings.Repeat("A", 20) + "\n" + strings.Repeat("A", 23) + "=", "line break"},
		{"stray bits", "sha256/" + strings.Repeat("A", 42) + "B=", "not BASE64"},
		{"three slashes", "sha256///" + strings.Repeat("A", 43) + "=", "not BASE64"},
		{"long base64", "sha256/" + strings.Repeat("A", 44), "33 bytes"},
		{"short hex", "sha256:abcd", "2 bytes"},
		{"odd hex", "sha256:" + full[1:], "hex digits"},
		{"long hex", "sha256:" + full + "00", "33 bytes"},
		{"colon in a byte", "sha256:a:bcd", "single bytes"},
		{"space", " sha256:" + full, "must begin with"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, err := ParsePin(tc.in)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("ParsePin(%q) = %v, %v; want an error with %q", tc.in, p, err, tc.want)
			}
		})
	}
}

func TestPinPrintsAndReads(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// Among them pins whose BASE64 begins with a slash, as curl's spelling does.
		p := Pin(rapid.SliceOfN(rapid.Byte(), sha256.Size, sha256.Size).Draw(t, "pin"))
		for _, text := range []string{p.String(), "sha256/" + p.String()[len("sha256"):], "sha256:" + hex.EncodeToString(p[:])} {
			if got, err := ParsePin(text); err != nil || got != p {
				t.Fatalf("ParsePin(%q) = %v, %v", text, got, err)
			}
		}
	})
}

func TestFingerprintIsOfTheKey(t *testing.T) {
	ca := newCA(t)
	cert := serverCert(t, ca)
	// The pin as RFC 7469 has it, from the certificate's own encoding.
	if got, want := Fingerprint(cert.Leaf), Pin(sha256.Sum256(cert.Leaf.RawSubjectPublicKeyInfo)).String(); got != want {
		t.Errorf("Fingerprint = %s, want %s", got, want)
	}
	if Fingerprint(nil) != "" {
		t.Error("Fingerprint(nil) is not empty")
	}
	if Fingerprint(cert.Leaf) == Fingerprint(serverCert(t, ca).Leaf) {
		t.Error("two keys have the same pin")
	}
}

func FuzzParsePin(f *testing.F) {
	for _, s := range []string{
		"", "sha256/", "sha256//", "sha256:", "sha256:::", "sha256/AAAA",
		"sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
		"sha256//47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU",
		"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		"sha256:E3:B0:C4:42:98:FC:1C:14:9A:FB:F4:C8:99:6F:B9:24:27:AE:41:E4:64:9B:93:4C:A4:95:99:1B:78:52:B8:55",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePin(s)
		if err != nil {
			if p != (Pin{}) {
				t.Fatalf("a pin beside an error: %v", p)
			}
			return
		}
		again, err := ParsePin(p.String())
		if err != nil || again != p {
			t.Fatalf("%q: reads as %v, printed and read again as %v, %v", s, p, again, err)
		}
	})
}
