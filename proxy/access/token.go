package access

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

const (
	// TokenPrefix begins every token that NewToken makes, so that scanners for leaked secrets can find it.
	TokenPrefix = "spt_"
	// tokenBytes is a token's entropy: 256 bits can't be guessed, so a plain hash of it can be stored.
	tokenBytes = 32
	// minToken keeps passwords from being used as tokens: those could be found from their hash.
	minToken = 16
	// maxToken leaves room for tokens that other systems made.
	maxToken = 4096
)

// Digest is the SHA-256 of a token's bytes, prefix included. The zero Digest stands for no token.
type Digest [sha256.Size]byte

// HashToken returns the digest by which a token is known to a Store.
func HashToken(token string) Digest { return sha256.Sum256([]byte(token)) }

// String returns the digest in hex, as sha256sum prints it.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// IsZero tells whether d stands for no token.
func (d Digest) IsZero() bool { return d == Digest{} }

// ParseDigest reads 64 hex digits. It repeats nothing of what it was given, in case that is the token itself.
func ParseDigest(s string) (Digest, error) {
	var d Digest
	if len(s) != hex.EncodedLen(len(d)) {
		return Digest{}, fmt.Errorf("a SHA-256 has %d hex digits, not %d characters; write the hash of the token, not the token",
			hex.EncodedLen(len(d)), len(s))
	}
	if _, err := hex.Decode(d[:], []byte(s)); err != nil {
		return Digest{}, errors.New("a SHA-256 has hex digits only; write the hash of the token, not the token")
	}
	if d.IsZero() {
		return Digest{}, errors.New("the SHA-256 is all zeros; write the hash of a token")
	}
	return d, nil
}

// NewToken makes a token for the identity name, and the entry that lets it in. The token is shown once and can't be had from
// the entry. The entry's policy is empty: it allows nothing until rules are written into it.
func NewToken(name string) (token string, e Entry, err error) {
	if err := checkName(name); err != nil {
		return "", Entry{}, err
	}
	var b [tokenBytes]byte
	_, _ = rand.Read(b[:]) // never fails: it ends the program instead
	token = TokenPrefix + base64.RawURLEncoding.EncodeToString(b[:])
	return token, Entry{Name: name, SHA256: HashToken(token)}, nil
}

// ParseToken reads the content of a token file: the token, with white space around it ignored. The error never repeats any of it.
func ParseToken(content []byte) (string, error) {
	token := strings.TrimSpace(string(content))
	switch {
	case token == "":
		return "", errors.New("the token is empty")
	case !isToken(token):
		return "", errors.New("the token has characters that don't fit in a header; a token file holds one token and nothing else")
	case len(token) < minToken:
		return "", fmt.Errorf("the token has less than %d characters and could be guessed; make one with: sallyport token new NAME", minToken)
	case len(token) > maxToken:
		return "", fmt.Errorf("the token has more than %d characters", maxToken)
	}
	return token, nil
}

// isToken checks RFC 6750 §2.1's b64token.
func isToken(s string) bool {
	body := strings.TrimRight(s, "=")
	return body != "" && strings.Trim(body, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/") == ""
}

// checkName accepts names that are safe in logs, metrics and file names.
func checkName(name string) error {
	const most = 64
	ok := name != "" && len(name) <= most && name[0] != '-' && name[0] != '.'
	for _, c := range []byte(name) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-_.@", c) >= 0:
		default:
			ok = false
		}
	}
	if !ok {
		return fmt.Errorf("identity name %s: write 1 to %d of a-z A-Z 0-9 - _ . @, beginning with neither . nor -", quote(name), most)
	}
	return nil
}

// YAML returns the entry as it stands in a tokens file, ready to be pasted.
func (e Entry) YAML() string {
	var b strings.Builder
	fmt.Fprintf(&b, "- name: %s\n", strconv.Quote(e.Name))
	if !e.SHA256.IsZero() {
		fmt.Fprintf(&b, "  sha256: %q\n", e.SHA256.String())
	}
	if e.Certificate != "" {
		fmt.Fprintf(&b, "  certificate: %s\n", strconv.Quote(e.Certificate))
	}
	b.WriteString("  policy:\n")
	writeRules(&b, "connect", e.Policy.Connect, `what it may reach, such as "db.example.com:5432", "10.0.0.0/8:22,443" or "unix:/run/app.sock"`)
	writeRules(&b, "listen", e.Policy.Listen, `where it may listen for reverse forwards, such as "localhost:8000-8100"`)
	if e.Limits != (Limits{}) {
		fmt.Fprintf(&b, "  limits: {sessions: %d, streams: %d}\n", e.Limits.Sessions, e.Limits.Streams)
	}
	return b.String()
}

func writeRules(b *strings.Builder, key string, rules []Rule, comment string) {
	if len(rules) == 0 {
		fmt.Fprintf(b, "    %s: [] # %s\n", key, comment)
		return
	}
	fmt.Fprintf(b, "    %s:\n", key)
	for _, r := range rules {
		fmt.Fprintf(b, "      - %s\n", strconv.Quote(r.String()))
	}
}
