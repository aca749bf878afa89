package egress

import (
	"strings"
	"testing"
	"unicode"

	"pgregory.net/rapid"
)

func TestClean(t *testing.T) {
	for _, c := range []struct {
		in    string
		limit int
		want  string
	}{
		{"", 5, ""},
		{"abcde", 5, "abcde"},
		{"abcdef", 5, "abcd…"},
		{"abc def", 5, "abc…"},
		{"äöüßé", 5, "äöüßé"},
		{"äöüßéx", 5, "äöüß…"},
		{" a \r\n\t b\u00a0\u2028c ", 50, "a b c"},
		{"a\x00b\x1b[31mc\x7f", 50, "a b [31mc"},
		{"a\u202eb\u200bc\ufeff", 50, "abc"},
		{"a\xff\xfeb\ufffd", 50, "ab"},
	} {
		if got := clean(c.in, c.limit); got != c.want {
			t.Errorf("%q: %q", c.in, got)
		}
	}
}

func TestStripTags(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"plain text", "plain text"},
		{"1 < 2 and 3 > 2", "1 < 2 and 3 > 2"},
		{"<p>a</p><P class='x'>b", "a b"},
		{"a<!-- <b>c</b> -->d", "a d"},
		{"a<!-- no end", "a"},
		{"a<script>var x = '<p>';</SCRIPT >b", "a b"},
		{"a<STYLE type=x>p{}</style>b", "a b"},
		{"a<script>no end", "a"},
		{"a<b no end", "a"},
		{"&lt;b&gt; &amp; &quot;&#101;", `<b> & "e`},
		{"<?xml x?><!DOCTYPE html>a", "a"},
		{"a<", "a<"},
		{"<", "<"},
		{"<styled>a</styled>", ""},
	} {
		if got := clean(stripTags(c.in), 100); got != c.want {
			t.Errorf("%q: %q", c.in, got)
		}
	}
}

// Peer text is one line of visible characters within its limit, and free of our secrets, whatever is in it.
func TestPeerTextIsHarmless(t *testing.T) {
	secrets := newScrubber(&credential{user: testUser, password: testPassword})
	rapid.Check(t, func(t *rapid.T) {
		parts := rapid.SliceOf(rapid.OneOf(
			rapid.String(), rapid.StringOf(rapid.Rune()), rapid.SampledFrom(append(secretForms, "<script>", "</script", "<!--", "<p>", "&amp;", "\x1b", "\xff")),
		)).Draw(t, "parts")
		limit := rapid.IntRange(1, 300).Draw(t, "limit")
		got := secrets.text(stripTags(strings.Join(parts, "")), limit)
		if n := len([]rune(got)); n > limit {
			t.Fatalf("%d characters", n)
		}
		if strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsGraphic(r) }) {
			t.Fatalf("%q", got)
		}
		for _, secret := range secretForms[:4] {
			if strings.Contains(got, secret) {
				t.Fatalf("%q", got)
			}
		}
	})
}
