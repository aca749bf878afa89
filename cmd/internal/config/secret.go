package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"regexp"
)

// hidden stands where a secret would.
const hidden = "(hidden)"

// Secret is text that must not be seen. The zero Secret is the empty text. Only Reveal gives it out: formatting with any verb,
// marshalling and logging show that there is one and no more. Secrets are not comparable.
type Secret struct {
	_    [0]func()
	text *string // behind a pointer: reflection over an unexported field, as fmt does, finds an address
}

// NewSecret makes a Secret of text.
func NewSecret(text string) Secret {
	if text == "" {
		return Secret{}
	}
	return Secret{text: &text}
}

// Reveal returns the text.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// IsZero tells whether the text is empty.
func (s Secret) IsZero() bool { return s.text == nil }

// String returns "(hidden)", or "" for the zero Secret.
func (s Secret) String() string {
	if s.IsZero() {
		return ""
	}
	return hidden
}

// GoString implements fmt.GoStringer with String.
func (s Secret) GoString() string { return s.String() }

// Format implements fmt.Formatter with String for every verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// LogValue implements slog.LogValuer with String.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText implements encoding.TextMarshaler, and so JSON, with String.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalYAML implements yaml.Marshaler with String.
func (s Secret) MarshalYAML() (any, error) { return s.String(), nil }

// maxSecretFile bounds what ReadSecret reads; passwords and tokens are far smaller.
const maxSecretFile = 64 << 10

// ReadSecret reads a file that holds one secret. A single line break at its end is not part of it. The error is the file
// system's, or says that the file is empty, too large or has several lines; it never repeats any of the content.
func ReadSecret(path string) (Secret, error) {
	f, err := os.Open(path)
	if err != nil {
		return Secret{}, fmt.Errorf("read secret: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
	if err != nil {
		return Secret{}, fmt.Errorf("read secret: %w", err)
	}
	line := bytes.TrimSuffix(bytes.TrimSuffix(data, []byte("\n")), []byte("\r"))
	switch {
	case len(data) > maxSecretFile:
		err = fmt.Errorf("larger than %d KiB; is it the right file?", maxSecretFile>>10)
	case len(line) == 0:
		err = errors.New("the file is empty")
	case bytes.ContainsAny(line, "\r\n\x00"):
		err = errors.New("the file has more than one line; it must hold the secret and nothing else")
	}
	if err != nil {
		return Secret{}, fmt.Errorf("read secret: %s: %w", path, err)
	}
	return NewSecret(string(line)), nil
}

// ProxyURL is a proxy's URL, "none", or "" for the environment's. It may hold a password, so it prints without one.
type ProxyURL struct{ raw Secret }

// Reveal returns the URL as it was written.
func (p ProxyURL) Reveal() string { return p.raw.Reveal() }

// proxyShape finds scheme, user information, and host with port.
var proxyShape = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9+.-]*://)?(.*@)?((?:\[[0-9A-Fa-f:.]+\]|[\pL\pN._-]+)(?::[0-9]{1,5})?/?)$`)

// String returns the URL with user and password replaced, or "(hidden)" for what isn't a proxy's URL: there is no telling what
// it holds.
func (p ProxyURL) String() string {
	m := proxyShape.FindStringSubmatch(p.raw.Reveal())
	switch {
	case m == nil:
		return p.raw.String()
	case m[2] != "":
		return m[1] + hidden + "@" + m[3]
	}
	return m[1] + m[3]
}

// Format implements fmt.Formatter with String for every verb.
func (p ProxyURL) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, p.String()) }

// LogValue implements slog.LogValuer with String.
func (p ProxyURL) LogValue() slog.Value { return slog.StringValue(p.String()) }

// MarshalText implements encoding.TextMarshaler with String.
func (p ProxyURL) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// Header is one header field of the WebSocket handshake. Its value may be a secret.
type Header struct {
	Name  string
	Value Secret
}

// String returns the name and, in the value's place, "(hidden)".
func (h Header) String() string { return h.Name + ": " + h.Value.String() }
