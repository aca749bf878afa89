package egress

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"time"
)

// None is the value of [Options.Proxy] that means: no proxy, whatever the environment says.
const None = "none"

// Options say how to get out. The zero value follows the environment, with default deadlines.
type Options struct {
	// Proxy is empty for what PAC, the environment or the system says, [None] alone, or the proxies to go through, one
	// through the other, the nearest first: http://, https://, socks5:// (names are resolved here) or socks5h:// (by
	// the proxy), each with user:password@ before the host if wanted (percent-encoded). A bare host:port means http://.
	// The ports are 80, 443 and 1080 when left out; a bare host is refused, since every program guesses another port.
	Proxy []string

	// PAC is a proxy auto-configuration script: a file's name, or an http://, https:// or file:// URL. "" means none.
	// It excludes Proxy.
	PAC string

	// Trust lists the proxies from PAC scripts, and from scripts that the system names, that may be shown
	// credentials: host, *.suffix or *, with :port if wanted. Other proxies named there are used without. Proxies from
	// Proxy, the environment and the system's fixed setting need no entry.
	Trust []string

	// Username and Password are for the proxy, whichever is chosen, as they are: not percent-encoded, any backslash
	// kept. Username replaces both parts of the URL's; Password alone joins the URL's user. Of several proxies in a row
	// they are for the first.
	Username, Password string

	// Schemes are the authentication schemes allowed: negotiate, ntlm, digest, basic. None means all.
	Schemes []string

	// Kerberos says where tickets come from.
	Kerberos Kerberos

	// TLS returns the configuration for the host of an https:// proxy or PAC script, not for the target's. Nil means the
	// system's roots. ServerName defaults to the host, MinVersion to TLS 1.2; NextProtos is set.
	TLS func(host string) *tls.Config

	// Scheme is the target URL's: "wss" or "https" (also the zero value's meaning), "ws" or "http". It selects between
	// HTTPS_PROXY and HTTP_PROXY, nothing else.
	Scheme string

	// UserAgent is told to the proxy. "" means "sallyport".
	UserAgent string

	// Deadline of each leg; 0 means 10 s. They add up at worst, the first two once for each connection made; bound
	// the whole with DialContext's context.
	ResolveTimeout, ConnectTimeout, TLSTimeout, ReplyTimeout time.Duration

	// KeepAlive is the TCP keep-alive's idle time and interval. 0 means 15 s, negative means off.
	KeepAlive time.Duration

	// Getenv reads the environment: New does, and for Kerberos whoever dials. Nil means os.Getenv.
	Getenv func(string) string

	// Logger gets a debug line a leg. Nil means none.
	Logger *slog.Logger
}

// Format prints no secret, whatever the verb.
func (o Options) Format(f fmt.State, _ rune) { fmt.Fprint(f, "egress.Options{…}") }

// LogValue logs no secret.
func (o Options) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(o)) }

// Dialer opens connections to targets. It is safe for concurrent use, holds no connection and no goroutine between
// calls, and remembers only what proxies accepted or refused, which of them are dead, and a PAC script with its answers.
type Dialer struct {
	find      finder
	dead      *deadList
	tls       func(host string) *tls.Config
	schemes   []scheme // the strongest first
	userAgent string
	log       *slog.Logger

	resolveTimeout, connectTimeout, tlsTimeout, replyTimeout time.Duration

	// The two doors to the network.
	lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)
	dial   func(ctx context.Context, network, addr string) (net.Conn, error)
}

// New checks the options. Its error is an [*Error] with [LegSetting]. A mistake in an environment variable is reported
// by Route and DialContext for the targets that it concerns, not here.
func New(o Options) (*Dialer, error) {
	find, err := newFinder(o)
	if err != nil {
		return nil, err
	}
	schemes, err := knownSchemes(o.Schemes)
	if err != nil {
		return nil, err
	}
	d := &Dialer{
		find:           find,
		dead:           newDeadList(),
		tls:            o.TLS,
		schemes:        schemes,
		userAgent:      o.UserAgent,
		log:            o.Logger,
		resolveTimeout: orDefault(o.ResolveTimeout),
		connectTimeout: orDefault(o.ConnectTimeout),
		tlsTimeout:     orDefault(o.TLSTimeout),
		replyTimeout:   orDefault(o.ReplyTimeout),
		lookup:         net.DefaultResolver.LookupNetIP,
	}
	if d.userAgent == "" {
		d.userAgent = "sallyport"
	}
	if hasControl(d.userAgent) {
		return nil, settingError("the user agent has control characters", "")
	}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	keepAlive := o.KeepAlive
	if keepAlive == 0 {
		keepAlive = defaultKeepAlive
	}
	tcp := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{
		Enable: keepAlive > 0, Idle: keepAlive, Interval: keepAlive,
	}}
	if keepAlive < 0 {
		tcp.KeepAlive = -1 // otherwise net turns a disabled config into its default
	}
	d.dial = tcp.DialContext
	return d, nil
}

func orDefault(t time.Duration) time.Duration {
	if t <= 0 {
		return defaultTimeout
	}
	return t
}

// tlsConfig makes the configuration for a proxy, or for who serves a PAC script. alpn says what may be spoken above.
func (d *Dialer) tlsConfig(host string, alpn ...string) *tls.Config {
	var c *tls.Config
	if d.tls != nil {
		c = d.tls(host)
	}
	if c == nil {
		c = &tls.Config{}
	}
	c = c.Clone()
	c.MinVersion = max(c.MinVersion, tls.VersionTLS12)
	c.NextProtos = alpn
	if c.ServerName == "" {
		c.ServerName = host
	}
	return c
}

func getenv(o Options) func(string) string {
	if o.Getenv != nil {
		return o.Getenv
	}
	return os.Getenv
}

func settingError(what, hint string) *Error {
	return &Error{Leg: LegSetting, Err: reason(ErrConfig, "%s", what), Hint: hint}
}
