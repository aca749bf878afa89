package egress

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"testing"
)

var secretForms = []string{
	testPassword, url.QueryEscape(testPassword), url.PathEscape(testPassword),
	base64.StdEncoding.EncodeToString([]byte(testUser + ":" + testPassword)),
	"s3cr&amp;t", "s3cr",
}

// noSecrets searches everything that anybody might print of an error.
func noSecrets(t *testing.T, e *Error) {
	t.Helper()
	for _, text := range []string{e.Error(), fmt.Sprintf("%+v %#v", e, e), e.Hint, e.Excerpt, strings.Join(e.Offered, " ")} {
		leaks(t, text)
	}
	var walk func(error)
	walk = func(err error) {
		if err == nil {
			return
		}
		leaks(t, fmt.Sprintf("%v %+v %#v", err, err, err))
		walk(errors.Unwrap(err))
		if many, ok := err.(interface{ Unwrap() []error }); ok {
			for _, err := range many.Unwrap() {
				walk(err)
			}
		}
	}
	walk(e.Err)
}

func leaks(t *testing.T, text string) {
	t.Helper()
	for _, secret := range secretForms {
		if strings.Contains(text, secret) {
			t.Errorf("%q is in %q", secret, text)
		}
	}
}

func TestNoSecretInPrintedValues(t *testing.T) {
	o := withCredentials(testOptions("http://" + url.UserPassword(testUser, testPassword).String() + "@proxy:3128"))
	d := mustNew(t, o)
	var b bytes.Buffer
	slog.New(slog.NewJSONHandler(&b, nil)).Info("x", "options", o, "pointer", &o, "cred", firstProxy(d).cred)
	slog.New(slog.NewTextHandler(&b, nil)).Info("x", "options", o, "pointer", &o, "cred", firstProxy(d).cred)
	for _, v := range []any{o, &o, d, *d, firstProxy(d), *firstProxy(d).cred} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
			fmt.Fprintf(&b, verb+"\n", v)
		}
	}
	leaks(t, b.String())
}

// A proxy that shows the request in its error page shows our password.
func TestEchoedSecretsAreDropped(t *testing.T) {
	for _, form := range secretForms[:4] {
		for _, page := range []string{
			"<p>You sent " + form + "</p>", "text " + form, "<pre>" + strings.ReplaceAll(form, "&", "&amp;") + "</pre>",
			strings.Repeat("long ", 38) + form, form[:3] + "\r\n\t" + form[3:], form[:3] + "<wbr>" + form[3:],
		} {
			p := newFaultyProxy(t, replies(ask407, "HTTP/1.1 403 "+form+"\r\nConnection: close\r\n\r\n"+page))
			_, e := dial(t, mustNew(t, withCredentials(testOptions(p.url()))), testTarget)
			if !errors.Is(e, ErrForbidden) || e.Status != 403 || e.Excerpt != "" {
				t.Errorf("%q: %+v", page, e)
			}
		}
		p := newFaultyProxy(t, replies(ask407, "HTTP/1.1 302 x\r\nLocation: http://portal/"+url.PathEscape(form)+"\r\n\r\n"),
			replies("garbage "+form+"\r\n"))
		d := mustNew(t, withCredentials(testOptions(p.url())))
		for range 2 {
			dial(t, d, testTarget)
		}
		p = newFaultyProxy(t, replies("HTTP/1.1 407 x\r\nProxy-Authenticate: "+form+"\r\nConnection: close\r\n\r\n"))
		dial(t, mustNew(t, withCredentials(testOptions(p.url()))), testTarget)
	}
}

// Nothing of an address that does not parse is repeated: any part may be the password.
func TestNoSecretInAddressErrors(t *testing.T) {
	for _, raw := range []string{
		"http://DOM\\jane:s3cr&t p@ss@proxy:3128",
		"http://jane:12/s3cr@proxy:3128", "http://jane:s3cr/x@proxy:3128", "http://jane:12#s3cr@proxy:3128",
		"http://jane:12?s3cr@proxy:3128", "http://jane:%zs3cr@proxy:3128", "http://jane:s3cr", "jane:s3cr@proxy:99999",
		"s3cr://jane@proxy", "http://[s3cr]:80", "http://s3cr%20x@proxy y/", "http://jane:x@s3cr!:80", "http://s3cr\x01",
		"http://jane:s3cr%0a@proxy", "jane:s3cr@", "socks4://jane:s3cr@proxy",
	} {
		_, err := New(testOptions(raw))
		if err == nil {
			t.Errorf("%q accepted", raw)
			continue
		}
		if e := asError(t, err); e.Leg != LegSetting || !errors.Is(e, ErrConfig) || !e.Permanent() {
			t.Errorf("%q: %+v", raw, e)
		}
		o := testOptions("")
		o.Getenv = environment("HTTPS_PROXY", raw)
		if _, err := New(o); err == nil {
			_, e := dial(t, mustNew(t, o), testTarget)
			if e == nil || !errors.Is(e, ErrConfig) || !strings.Contains(e.Error(), "HTTPS_PROXY") {
				t.Errorf("%q in the environment: %v", raw, e)
			}
		} else {
			asError(t, err)
		}
	}
}

// environment makes a Getenv of name, value pairs.
func environment(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}
