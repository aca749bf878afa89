package egress

import (
	"slices"
	"strings"
)

// challenge is one scheme that a proxy offers (RFC 9110 §11.6.1). It has a token68 or parameters or neither.
type challenge struct {
	scheme  string // as sent; compare with strings.EqualFold
	token68 string
	params  []param
}

type param struct{ name, value string } // name in lower case, value unquoted

// param returns the first parameter of that (lower-case) name.
func (c challenge) param(name string) (string, bool) {
	i := slices.IndexFunc(c.params, func(p param) bool { return p.name == name })
	if i < 0 {
		return "", false
	}
	return c.params[i].value, true
}

// parseChallenges reads the values of all Proxy-Authenticate fields. One field may hold several challenges, and commas
// separate them as well as their parameters, so what a word is shows only behind it. What makes no sense is skipped up
// to the next comma: one odd challenge must not hide a good one.
func parseChallenges(fields []string) []challenge {
	var all []challenge
	for _, field := range fields {
		s := scanner{field}
		current := -1 // parameters before any scheme in this field belong to nobody
		for s.more() {
			word := s.span(isTokenByte)
			if word == "" {
				s.skipItem()
				continue
			}
			if value, ok := s.paramValue(); ok {
				if current >= 0 && len(all[current].params) < maxParams {
					all[current].params = append(all[current].params, param{strings.ToLower(word), value})
				}
				s.skipItem()
				continue
			}
			if len(all) == maxChallenges {
				return all
			}
			current = len(all)
			all = append(all, challenge{scheme: word, token68: s.token68()})
		}
	}
	return all
}

type scanner struct{ rest string }

// more skips white space and empty list elements and reports whether anything is left.
func (s *scanner) more() bool {
	s.rest = strings.TrimLeft(s.rest, " \t,")
	return s.rest != ""
}

func (s *scanner) span(in func(byte) bool) string {
	n := 0
	for n < len(s.rest) && in(s.rest[n]) {
		n++
	}
	word := s.rest[:n]
	s.rest = s.rest[n:]
	return word
}

// paramValue reads `= value` behind a name; otherwise it consumes nothing.
func (s *scanner) paramValue() (string, bool) {
	behind := strings.TrimLeft(s.rest, " \t")
	if !strings.HasPrefix(behind, "=") {
		return "", false
	}
	s.rest = strings.TrimLeft(behind[1:], " \t")
	if strings.HasPrefix(s.rest, `"`) {
		return s.quoted(), true
	}
	return strings.TrimRight(s.span(func(c byte) bool { return c != ',' }), " \t"), true
}

// quoted reads a quoted-string (RFC 9110 §5.6.4); a missing end quote ends with the field.
func (s *scanner) quoted() string {
	var b strings.Builder
	for i := 1; i < len(s.rest); i++ {
		switch c := s.rest[i]; {
		case c == '"':
			s.rest = s.rest[i+1:]
			return b.String()
		case c == '\\' && i+1 < len(s.rest):
			i++
			b.WriteByte(s.rest[i])
		default:
			b.WriteByte(c)
		}
	}
	s.rest = ""
	return b.String()
}

// token68 reads the token behind a scheme's name; when parameters follow instead, it consumes nothing.
func (s *scanner) token68() string {
	before := s.rest
	s.rest = strings.TrimLeft(s.rest, " \t")
	if len(s.rest) == len(before) {
		return ""
	}
	token := s.span(isToken68Byte) + s.span(func(c byte) bool { return c == '=' })
	if s.rest = strings.TrimLeft(s.rest, " \t"); s.rest == "" || s.rest[0] == ',' {
		return token
	}
	s.rest = before
	return ""
}

// skipItem drops what is left before the next comma.
func (s *scanner) skipItem() {
	_, s.rest, _ = strings.Cut(s.rest, ",")
}

func isAlnum(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z'
}

// isTokenByte: tchar of RFC 9110 §5.6.2.
func isTokenByte(c byte) bool { return isAlnum(c) || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0 }

func isToken68Byte(c byte) bool { return isAlnum(c) || strings.IndexByte("-._~+/", c) >= 0 }
