package config

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestValues(t *testing.T) {
	type test struct {
		in, want string // want is how it reads back, or "error: ..."
	}
	var (
		c Config
		n int
		d time.Duration
	)
	for name, group := range map[string]struct {
		v     value
		tests []test
	}{
		"duration": {durationValue(&d, time.Second, time.Hour), []test{
			{"90s", "1m30s"},
			{"2m", "2m"},
			{"1h", "1h"},
			{"60m0s", "1h"},
			{"1m30.5s", "1m30.5s"},
			{"2", "error: is not a duration"},
			{"2 m", "error: is not a duration"},
			{"", "error: is not a duration"},
			{"-1s", "error: write 1s to 1h"},
			{"1ms", "error: write 1s to 1h"},
			{"61m", "error: write 1s to 1h"},
			{"9999999h", "error: is not a duration"},
		}},
		"size": {sizeValue(&n, 1<<20, 1<<30), []test{
			{"1MiB", "1MiB"},
			{"1024KiB", "1MiB"},
			{"1048576", "1MiB"},
			{"1GiB", "1GiB"},
			{"1048577", "1048577"},
			{"1KiB", "error: write 1MiB to 1GiB"},
			{"2GiB", "error: is not a size"},
			{"64MB", "error: is not a size"},
			{"64 MiB", "error: is not a size"},
			{"-1", "error: is not a size"},
			{"99999999999GiB", "error: is not a size"},
			{"MiB", "error: is not a size"},
			{"", "error: is not a size"},
		}},
		"count": {intValue(&n, 1, 4), []test{
			{"1", "1"}, {"4", "4"}, {"0", "error: from 1 to 4"}, {"5", "error: from 1 to 4"}, {"1.0", "error: from 1 to 4"}, {"", "error: from 1 to 4"},
		}},
		"bool": {boolValue(&c.Server.Plaintext), []test{
			{"true", "true"}, {"false", "false"}, {"1", "true"}, {"0", "false"}, {"True", "error: neither true nor false"}, {"on", "error: neither"},
		}},
		"address": {textValue(&c.Server.Listen, address), []test{
			{":8443", ":8443"},
			{"127.0.0.1:0", "127.0.0.1:0"},
			{"[::1]:8443", "[::1]:8443"},
			{"[fe80::1%eth0]:1", "[fe80::1%eth0]:1"},
			{"gate.example.com:443", "gate.example.com:443"},
			{"8443", "error: is not an address"},
			{"::1:8443", "error: is not an address"},
			{"h:http", "error: is not a port"},
			{"h:65536", "error: is not a port"},
			{"h:-1", "error: is not a port"},
			{"h:", "error: is not a port"},
			{"h:01", "error: is not a port"},
			{"a b:1", "error: is not a host"},
			{"wss://h:1", "error: is not an address"},
			{"", "error: it is empty"},
			{" h:1", "error: spaces or line breaks"},
			{"h:1\n", "error: spaces or line breaks"},
		}},
		"path": {textValue(&c.Server.Path, urlPath), []test{
			{"/", "/"},
			{"/a/b", "/a/b"},
			{"/.well-known/x", "/.well-known/x"},
			{"tunnel", "error: not a plain URL path"},
			{"/a?b", "error: not a plain"},
			{"/a#b", "error: not a plain"},
			{"/a b", "error: not a plain"},
			{"/{x}", "error: not a plain"},
			{"//a", "error: not a plain"},
			{"/a/../b", "error: not a plain"},
			{"/..", "error: not a plain"},
			{"/a%2fb", "error: not a plain"},
		}},
		"level": {textValue(&c.Log.Level, oneOf("debug", "info")), []test{
			{"debug", "debug"}, {"DEBUG", "error: write debug, info"}, {"trace", "error: write debug, info"},
		}},
		"proxy": {proxyValue{&c.Client.Proxy}, []test{
			{"http://p:1", "http://p:1"}, {"http://u:hunter2@p:1", "http://(hidden)@p:1"}, {"http://u:hunter2 @p", "error: spaces or line breaks"},
		}},
	} {
		for _, tt := range group.tests {
			group.v.reset()
			err := group.v.set(tt.in)
			problem, isError := strings.CutPrefix(tt.want, "error: ")
			switch {
			case isError && (err == nil || !strings.Contains(err.Error(), problem) || strings.Contains(err.Error(), "hunter2")):
				t.Errorf("%s %q: %v, want %s", name, tt.in, err, problem)
			case !isError && (err != nil || group.v.String() != tt.want):
				t.Errorf("%s %q: reads %q, %v, want %q", name, tt.in, group.v, err, tt.want)
			}
		}
	}
}

func TestHeaders(t *testing.T) {
	var headers []Header
	v := headerValue{&headers}
	for in, want := range map[string]string{
		"X-A: b":                        "X-A: b",
		"x-a:b: c ":                     "X-A: b: c",
		"Host: front.example.com":       "Host: front.example.com",
		"Cookie: a=b; c=d":              "Cookie: a=b; c=d",
		"X-A":                           "error: it has no colon",
		"X A: b":                        "error: is not a header name",
		": b":                           "error: is not a header name",
		"X-Ä: b":                        "error: is not a header name",
		"X-A:":                          "error: has no value",
		"X-A: hunter2\r\nX-B: c":        "error: control characters",
		"X-A: hunter2\x00":              "error: control characters",
		"authorization: Bearer hunter2": "error: write token_file",
		"sec-websocket-key: hunter2":    "error: set by the handshake",
		"Upgrade: hunter2":              "error: set by the handshake",
	} {
		v.reset()
		err := v.set(in)
		problem, isError := strings.CutPrefix(want, "error: ")
		switch {
		case isError && (err == nil || !strings.Contains(err.Error(), problem) || strings.Contains(err.Error(), "hunter2")):
			t.Errorf("%q: %v, want %s", in, err, problem)
		case !isError && (err != nil || v.raw()[0] != want):
			t.Errorf("%q: %q, %v", in, v.raw(), err)
		}
	}
}

func TestSizeRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 1<<30).Draw(t, "n") << rapid.IntRange(0, 1).Draw(t, "shift") >> 1
		if got, err := parseSize(formatSize(n)); err != nil || got != n {
			t.Fatalf("%d is %s is %d, %v", n, formatSize(n), got, err)
		}
	})
}

func TestDurationRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(0, int64(100*time.Hour)).Draw(t, "d"))
		d = d.Truncate(rapid.SampledFrom([]time.Duration{1, time.Second, time.Minute, time.Hour}).Draw(t, "unit"))
		if got, err := time.ParseDuration(shortDuration(d)); err != nil || got != d {
			t.Fatalf("%v is %s is %v, %v", d, shortDuration(d), got, err)
		}
	})
}
