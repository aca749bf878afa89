package egress

import (
	"html"
	"net/url"
	"slices"
	"strings"
	"unicode"
)

// clean makes text of a peer fit for one line of a message: no control or invisible characters (they move cursors and
// reorder text), white space collapsed, at most limit characters.
func clean(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r), unicode.IsControl(r):
			return ' '
		case r == unicode.ReplacementChar, !unicode.IsGraphic(r):
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	s = strings.Join(strings.Fields(s), " ")
	n := 0
	for i := range s {
		if n++; n == limit {
			if len([]rune(s[i:])) > 1 {
				return strings.TrimSpace(s[:i]) + "…"
			}
			break
		}
	}
	return s
}

// stripTags returns the text of an HTML page: no tags, comments, scripts and styles, nor what is in the elements named;
// entities resolved. Text that is not HTML passes through.
func stripTags(s string, without ...string) string {
	without = append(without, "script", "style")
	var b strings.Builder
	for {
		open := strings.IndexByte(s, '<')
		if open < 0 || open+1 == len(s) {
			break
		}
		b.WriteString(s[:open])
		s = s[open:]
		c := s[1]
		switch {
		case strings.HasPrefix(s, "<!--"):
			s = after(s[4:], "-->")
		case c == '/' || c == '!' || c == '?' || 'a' <= c|0x20 && c|0x20 <= 'z':
			name := strings.ToLower(s[1:min(len(s), 7)])
			s = after(s, ">")
			for _, silent := range without {
				if strings.HasPrefix(name, silent) {
					s = after(afterFold(s, "</"+silent), ">")
				}
			}
		default: // a lone less-than sign
			b.WriteByte('<')
			s = s[1:]
			continue
		}
		b.WriteByte(' ')
	}
	b.WriteString(s)
	return html.UnescapeString(b.String())
}

// after returns what follows mark, nothing if it is missing.
func after(s, mark string) string {
	_, rest, _ := strings.Cut(s, mark)
	return rest
}

// afterFold is after for an ASCII mark in lower case, in any case in s.
func afterFold(s, mark string) string {
	for i := 0; i+len(mark) <= len(s); i++ {
		if strings.EqualFold(s[i:i+len(mark)], mark) {
			return s[i+len(mark):]
		}
	}
	return ""
}

// scrubber keeps our own secrets out of text that a peer sent: some proxies echo the request in their error page.
type scrubber []string

func newScrubber(c *credential) scrubber {
	if c == nil {
		return nil
	}
	var s scrubber
	for _, secret := range []string{c.password, url.QueryEscape(c.password), url.PathEscape(c.password), basicToken(*c)} {
		if secret = squeeze(clean(secret, len(secret)+1)); secret != "" {
			s = append(s, secret)
		}
	}
	return s
}

// with adds what an authorization header shows: some proxies echo it.
func (secrets scrubber) with(header string) scrubber {
	_, value, ok := strings.Cut(header, " ")
	if !ok {
		return secrets
	}
	if i := strings.Index(value, `response="`); i >= 0 { // Digest: the hash
		value, _, _ = strings.Cut(value[i+len(`response="`):], `"`)
	}
	if slices.Contains(secrets, value) || value == "" {
		return secrets
	}
	return append(slices.Clip(secrets), value)
}

// in reports whether a secret is in s, also one torn apart by white space.
func (secrets scrubber) in(s string) bool {
	if len(secrets) == 0 {
		return false
	}
	s = squeeze(clean(s, len(s)+1))
	return slices.ContainsFunc(secrets, func(secret string) bool { return strings.Contains(s, secret) })
}

// text is clean, but "" when a secret is in s, even if the limit would cut it short.
func (secrets scrubber) text(s string, limit int) string {
	if secrets.in(s) {
		return ""
	}
	return clean(s, limit)
}

func squeeze(s string) string { return strings.ReplaceAll(s, " ", "") }
