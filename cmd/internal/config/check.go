package config

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
)

// Checks are grammars that other packages own, by the setting's name: each gets one element, as it was written, and says what is
// wrong with it. Settings with secrets in them are passed too, so a check must not repeat those.
type Checks map[string]func(string) error

// Check decides between settings that exclude each other, and tells what is missing, doesn't fit together, or fails one of
// checks. The error joins an *Error for each mistake. Call it last, once.
func (c *Config) Check(role Role, checks Checks) error {
	var errs []error
	if role == Server {
		errs = c.checkServer()
	} else {
		errs = c.checkClient()
	}
	places := c.places()
	for name := range checks {
		if places[name] == nil {
			errs = append(errs, &Error{Name: name, Err: errors.New("there is a check for it, but no such setting")})
		}
	}
	for _, s := range Settings(role) {
		check := checks[s.Name()]
		if check == nil {
			continue
		}
		for i, text := range places[s.Name()].raw() {
			if err := check(text); err != nil {
				errs = append(errs, c.wrong(s.Name(), i, "%w", err))
			}
		}
	}
	return errors.Join(errs...)
}

// exclusive leaves of two settings the one from the higher layer.
func (c *Config) exclusive(a, b, why string) error {
	la, lb := c.layerOf(a), c.layerOf(b)
	switch {
	case la == fromDefault || lb == fromDefault:
	case la == lb:
		return c.wrong(b, 0, "excludes %s: %s; remove one of them", a, why)
	case la < lb:
		c.drop(a)
	default:
		c.drop(b)
	}
	return nil
}

func (c *Config) isSet(name string) bool { return c.layerOf(name) != fromDefault }

// missing makes an *Error about something that must be set.
func (c *Config) missing(name, why string) error {
	return &Error{Origin: c.file, Name: name, Err: fmt.Errorf("missing: %s; set %s", why, ways(name))}
}

// ways tells how a setting can be set.
func ways(name string) string {
	for _, s := range settings() {
		if s.Name() == name {
			return fmt.Sprintf("--%s, %s or %s in the file", s.Flag, s.Env, name)
		}
	}
	return name
}

// pair wants both settings or none.
func (c *Config) pair(a, b string) error {
	for _, x := range [][2]string{{a, b}, {b, a}} {
		if c.isSet(x[0]) && !c.isSet(x[1]) {
			return c.wrong(x[0], 0, "goes with %s, which is missing; set %s", x[1], ways(x[1]))
		}
	}
	return nil
}

// collect drops nils.
func collect(errs ...error) []error {
	var out []error
	for _, err := range errs {
		if err != nil {
			out = append(out, err)
		}
	}
	return out
}

func (c *Config) checkServer() []error {
	const noTLS = "without TLS there are no certificates"
	errs := collect(
		c.exclusive("server.tls_cert", "server.plaintext", noTLS),
		c.exclusive("server.tls_key", "server.plaintext", noTLS),
		c.exclusive("server.client_ca", "server.plaintext", noTLS),
		c.exclusive("server.tokens", "server.token_file", "each is a source of identities"),
		c.exclusive("server.tokens", "server.insecure_no_auth", "either identities are asked for or not"),
		c.exclusive("server.token_file", "server.insecure_no_auth", "either a token is asked for or not"),
		c.exclusive("server.client_ca", "server.insecure_no_auth", "either a certificate is asked for or not"),
		c.exclusive("server.tokens", "server.allow", "a tokens file has its own rules"),
		c.exclusive("server.tokens", "server.allow_listen", "a tokens file has its own rules"),
	)
	if len(errs) > 0 {
		return errs // what follows would only repeat it
	}
	s := &c.Server
	switch {
	case s.Plaintext:
	case s.TLSCert == "" && s.TLSKey == "":
		errs = append(errs, c.missing("server.tls_cert", "the server needs a certificate (for a first try: sallyport cert dev), or plaintext behind a load balancer that has one"))
	default:
		errs = append(errs, collect(c.pair("server.tls_cert", "server.tls_key"))...)
	}
	return append(errs, collect(c.checkIdentities())...)
}

// checkCarriers wants room for those that are kept.
func (c *Config) checkCarriers() error {
	if k := &c.Client; k.Carriers > k.MaxCarriers {
		return c.wrong("client.max_carriers", 0, "is less than carriers, %d", k.Carriers)
	}
	return nil
}

// checkIdentities wants a source of identities, and rules unless a tokens file has them.
func (c *Config) checkIdentities() error {
	for _, source := range []string{"server.tokens", "server.token_file", "server.insecure_no_auth", "server.client_ca"} {
		switch {
		case !c.isSet(source):
			continue
		case source == "server.tokens" || len(c.Server.Allow)+len(c.Server.AllowListen) > 0:
			return nil
		}
		return c.wrong(source, 0, "goes with server.allow, and nothing is allowed without it; set %s to rules such as \"db.example.com:5432\", or \"*:*\" for all but loopback and the like", ways("server.allow"))
	}
	return c.missing("server.tokens", "the server must know whom to let in: by tokens, or by token_file, client_ca or insecure_no_auth together with allow")
}

func (c *Config) checkClient() []error {
	errs := collect(
		c.exclusive("client.token_file", "SALLYPORT_TOKEN", "each is a token"),
		c.exclusive("client.proxy_password_file", "SALLYPORT_PROXY_PASSWORD", "each is a password"),
		c.exclusive("client.proxy", "client.pac", "each tells the proxy"),
		c.pair("client.client_cert", "client.client_key"),
		c.checkCarriers(),
	)
	if c.Client.Server == "" {
		return append(errs, c.missing("client.server", "the client needs the server agent's URL, such as wss://gate.example.com"))
	}
	u, err := parseServer(c.Client.Server)
	if err != nil {
		return append(errs, c.wrong("client.server", 0, "%w", err))
	}
	if u.Scheme == "wss" {
		return errs
	}
	if !c.Client.Plaintext && !isLoopback(u.Hostname()) {
		errs = append(errs, c.wrong("client.server", 0, "ws:// to %s would send token and data readable by anyone on the way; write wss://, or set plaintext if something else protects it", u.Hostname()))
	}
	for _, name := range []string{"client.ca_file", "client.pin", "client.client_cert"} {
		if c.isSet(name) {
			errs = append(errs, c.wrong(name, 0, "has no effect on a ws:// server; write wss:// or remove it"))
		}
	}
	return errs
}

// ServerURL returns the server agent's URL, with the path /tunnel if none was written. Valid after Check.
func (c ClientConfig) ServerURL() (*url.URL, error) { return parseServer(c.Server) }

// parseServer never repeats the text: it may hold a password.
func parseServer(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return nil, errors.New("not a URL; write wss://gate.example.com or wss://gate.example.com:8443/tunnel")
	case u.User != nil:
		return nil, errors.New("user and password don't belong into the URL; use token_file")
	case u.Scheme == "https" || u.Scheme == "http":
		return nil, fmt.Errorf("the scheme is %s; write %s://%s", u.Scheme, strings.Replace(u.Scheme, "http", "ws", 1), u.Host)
	case u.Scheme != "wss" && u.Scheme != "ws":
		return nil, errors.New("the scheme is neither wss nor ws; write wss://gate.example.com")
	case u.Hostname() == "":
		return nil, errors.New("the host is missing; write wss://gate.example.com")
	case u.Fragment != "" || strings.HasSuffix(text, "#"):
		return nil, errors.New("it has a fragment; remove # and what follows")
	}
	if port := u.Port(); port != "" || strings.HasSuffix(u.Host, ":") {
		if err := address(u.Host); err != nil || port == "0" {
			return nil, fmt.Errorf("%s is not a port; write 1 to 65535 or leave it out", quote(port))
		}
	}
	if u.Path == "" {
		u.Path = "/tunnel"
	}
	return u, nil
}

func isLoopback(host string) bool {
	if strings.EqualFold(strings.TrimSuffix(host, "."), "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}
