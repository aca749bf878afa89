package config

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/textproto"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// value is a place in a Config that text can be written to.
type value interface {
	// set parses text; a list gets one more element.
	set(text string) error
	// reset makes it empty.
	reset()
	// raw returns what was set, secrets included, one element for each set; none if empty.
	raw() []string
	// String is for people: no secrets; "" if empty.
	String() string
}

// scalar is a value of one element: parse and format say how it reads.
type scalar[T comparable] struct {
	p      *T
	parse  func(string) (T, error)
	format func(T) string
}

func (v scalar[T]) set(text string) (err error) {
	parsed, err := v.parse(text)
	if err == nil {
		*v.p = parsed
	}
	return err
}

func (v scalar[T]) reset() { *v.p = *new(T) }

func (v scalar[T]) raw() []string {
	if *v.p == *new(T) {
		return nil
	}
	return []string{v.format(*v.p)}
}

func (v scalar[T]) String() string { return v.format(*v.p) }

func textValue(p *string, check func(string) error) value {
	return scalar[string]{p, func(s string) (string, error) {
		if strings.TrimSpace(s) != s || strings.ContainsAny(s, "\x00\r\n") {
			return "", errors.New("it has spaces or line breaks around it; remove them")
		}
		if s == "" {
			return "", errors.New("it is empty; write a value or remove it")
		}
		return s, check(s)
	}, func(s string) string { return s }}
}

func anyText(string) error { return nil }

func oneOf(choices ...string) func(string) error {
	return func(s string) error {
		if !slices.Contains(choices, s) {
			return fmt.Errorf("%s is not known; write %s", quote(s), strings.Join(choices, ", "))
		}
		return nil
	}
}

func boolValue(p *bool) value {
	return scalar[bool]{p, func(s string) (bool, error) {
		switch s {
		case "true", "1":
			return true, nil
		case "false", "0":
			return false, nil
		}
		return false, fmt.Errorf("%s is neither true nor false; write one of them", quote(s))
	}, strconv.FormatBool}
}

func intValue(p *int, least, most int) value {
	return scalar[int]{p, func(s string) (int, error) {
		n, err := strconv.Atoi(s)
		if err != nil || n < least || n > most {
			return 0, fmt.Errorf("%s is not a number from %d to %d", quote(s), least, most)
		}
		return n, nil
	}, strconv.Itoa}
}

func durationValue(p *time.Duration, least, most time.Duration) value {
	return scalar[time.Duration]{p, func(s string) (time.Duration, error) {
		d, err := time.ParseDuration(s)
		if err != nil {
			return 0, fmt.Errorf("%s is not a duration; write 500ms, 30s, 2m or 1h30m", quote(s))
		}
		if d < least || d > most {
			return 0, fmt.Errorf("%s is out of range; write %s to %s", quote(s), shortDuration(least), shortDuration(most))
		}
		return d, nil
	}, shortDuration}
}

// shortDuration writes 2m, not 2m0s.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

var sizeUnits = []struct {
	suffix string
	bytes  int
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}

func sizeValue(p *int, least, most int) value {
	return scalar[int]{p, func(s string) (int, error) {
		n, err := parseSize(s)
		if err != nil {
			return 0, err
		}
		if n < least || n > most {
			return 0, fmt.Errorf("%s is out of range; write %s to %s", quote(s), formatSize(least), formatSize(most))
		}
		return n, nil
	}, formatSize}
}

func parseSize(s string) (int, error) {
	digits, unit := s, 1
	for _, u := range sizeUnits {
		if d, ok := strings.CutSuffix(s, u.suffix); ok {
			digits, unit = d, u.bytes
		}
	}
	n, err := strconv.ParseUint(digits, 10, 31)
	if err != nil || n > math.MaxInt32/uint64(unit) {
		return 0, fmt.Errorf("%s is not a size; write bytes, or 512KiB, 64MiB, 1GiB", quote(s))
	}
	return int(n) * unit, nil
}

func formatSize(n int) string {
	for _, u := range sizeUnits {
		if n != 0 && n%u.bytes == 0 {
			return strconv.Itoa(n/u.bytes) + u.suffix
		}
	}
	return strconv.Itoa(n)
}

// listValue collects elements that check accepts.
type listValue struct {
	p     *[]string
	check func(string) error
}

func (v listValue) set(text string) error {
	var element string
	if err := textValue(&element, v.check).set(text); err != nil {
		return err
	}
	*v.p = append(*v.p, element)
	return nil
}

func (v listValue) reset()         { *v.p = nil }
func (v listValue) raw() []string  { return *v.p }
func (v listValue) String() string { return strings.Join(*v.p, " ") }

type secretValue struct{ p *Secret }

func (v secretValue) set(text string) error {
	*v.p = NewSecret(text)
	return nil
}

func (v secretValue) reset() { *v.p = Secret{} }

func (v secretValue) raw() []string {
	if v.p.IsZero() {
		return nil
	}
	return []string{v.p.Reveal()}
}

func (v secretValue) String() string { return v.p.String() }

type proxyValue struct{ p *[]ProxyURL }

func (v proxyValue) set(text string) error {
	if strings.ContainsAny(text, " \t\r\n\x00") {
		return errors.New("the URL has spaces or line breaks; remove them or write %20") // not quoted: it may hold a password
	}
	*v.p = append(*v.p, ProxyURL{NewSecret(text)})
	return nil
}

func (v proxyValue) reset() { *v.p = nil }

func (v proxyValue) raw() []string {
	var out []string
	for _, p := range *v.p {
		out = append(out, p.Reveal())
	}
	return out
}

func (v proxyValue) String() string {
	var out []string
	for _, p := range *v.p {
		out = append(out, p.String())
	}
	return strings.Join(out, " ")
}

type headerValue struct{ p *[]Header }

// ownHeaders are set by the WebSocket handshake or by other settings.
var ownHeaders = []string{"Authorization", "Connection", "Content-Length", "Transfer-Encoding", "Upgrade"}

func (v headerValue) set(text string) error {
	name, content, ok := strings.Cut(text, ":")
	name, content = textproto.CanonicalMIMEHeaderKey(name), strings.Trim(content, " \t")
	switch {
	case !ok:
		return errors.New("it has no colon; write \"Name: value\"")
	case !isHeaderName(name):
		return fmt.Errorf("%s is not a header name; write \"Name: value\"", quote(name))
	case strings.ContainsFunc(content, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }):
		return fmt.Errorf("the value of %s has control characters", name)
	case content == "":
		return fmt.Errorf("%s has no value; write \"%s: value\"", name, name)
	case name == "Authorization":
		return errors.New("the Authorization header carries the token; write token_file")
	case slices.Contains(ownHeaders, name) || strings.HasPrefix(name, "Sec-Websocket-"):
		return fmt.Errorf("%s is set by the handshake and can't be replaced", name)
	}
	*v.p = append(*v.p, Header{name, NewSecret(content)})
	return nil
}

// isHeaderName checks RFC 9110 §5.6.2's token.
func isHeaderName(s string) bool {
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0:
		default:
			return false
		}
	}
	return s != ""
}

func (v headerValue) reset() { *v.p = nil }

func (v headerValue) raw() []string {
	var out []string
	for _, h := range *v.p {
		out = append(out, h.Name+": "+h.Value.Reveal())
	}
	return out
}

func (v headerValue) String() string {
	var out []string
	for _, h := range *v.p {
		out = append(out, h.String())
	}
	return strings.Join(out, ", ")
}

// notToken catches a token in the place of its file's name, before it ends up in a message about a file that isn't there.
func notToken(path string) error {
	if strings.HasPrefix(filepath.Base(path), "spt_") {
		return errors.New("it is a token, not a file's name; write the token into a file and name that")
	}
	return nil
}

// address accepts host:port for a listener; an empty host is all interfaces.
func address(s string) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Errorf("%s is not an address; write 127.0.0.1:8443, [::1]:8443, or :8443 for all interfaces", quote(s))
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
		return fmt.Errorf("%s is not a port; write 1 to 65535, or 0 for any free one", quote(port))
	}
	if strings.ContainsAny(host, " /@") {
		return fmt.Errorf("%s is not a host; write a name or an IP address", quote(host))
	}
	return nil
}

// urlPath accepts an absolute path without anything that a server or a proxy would take apart.
func urlPath(s string) error {
	if s[0] != '/' || strings.ContainsAny(s, "?#%{} \\") || strings.Contains(s, "//") || strings.Contains(s+"/", "/../") || strings.Contains(s+"/", "/./") {
		return fmt.Errorf("%s is not a plain URL path; write /tunnel", quote(s))
	}
	return nil
}

// quote is strconv.Quote, shortened so that a message stays a message.
func quote(s string) string {
	const most = 80
	if len(s) > most {
		return strconv.Quote(strings.ToValidUTF8(s[:most], "")) + "..."
	}
	return strconv.Quote(s)
}
