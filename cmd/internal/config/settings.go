package config

import (
	"math"
	"slices"
	"time"
)

// Role is a command that has settings: each role has its own subset.
type Role string

// The roles. Client and Connect share a section of the file.
const (
	Server  Role = "server"
	Client  Role = "client"
	Connect Role = "connect"
)

// Kind tells how a setting is written, so that a command can make the flag.
type Kind uint8

// The kinds of settings.
const (
	Text Kind = iota // one word
	Bool             // true or false; a flag without a value is true
	List             // any number of words; the flag is repeated
)

// Setting is one thing that can be set.
type Setting struct {
	Section string // in the file: "log", "server" or "client"
	Key     string // in its section; "" if it can't be in a file
	Flag    string // without dashes; "" if it is no flag
	Alias   string // the flag's one-letter form; "" if none
	Env     string // the variable
	Kind    Kind
	Default string // as it would be written; "" if none
	Usage   string // one line

	roles []Role
	path  bool // a file's name: in the file relative to the file's directory
	lone  bool // in the file one word may stand for a list of it
	lines bool // in the variable elements are separated by line breaks, else by any space
}

// Name is section and key, such as "server.listen"; for what can't be in a file it is the variable.
func (s Setting) Name() string {
	if s.Key == "" {
		return s.Env
	}
	return s.Section + "." + s.Key
}

// Settings returns what can be set for a role, in the order of the example file.
func Settings(role Role) []Setting {
	return slices.DeleteFunc(settings(), func(s Setting) bool { return !slices.Contains(s.roles, role) })
}

// Bounds that values must keep, each with its reason.
const (
	minTimeout  = time.Second      // less can't be told from a busy machine
	maxTimeout  = 24 * time.Hour   // more is a typing mistake
	maxKeep     = 10 * time.Minute // no idle limit known is longer
	minDial     = 100 * time.Millisecond
	maxDial     = 10 * time.Minute
	maxCarriers = 4       // hedges come on top, of 8 at most
	minMemory   = 1 << 20 // less than one window can use
	maxMemory   = 1 << 30
	maxCount    = math.MaxInt32
)

// settings is the table. Flag and Env follow from the key unless given.
func settings() []Setting {
	return slices.Concat(logSettings(), serverSettings(), clientSettings())
}

func logSettings() []Setting {
	return section("log", []Role{Server, Client, Connect}, []Setting{
		{Key: "level", Flag: "log-level", Default: "info", Usage: "least level to log: debug, info, warn or error"},
		{Key: "format", Flag: "log-format", Default: "text", Usage: "log as text or json"},
	})
}

func serverSettings() []Setting {
	return section("server", []Role{Server}, []Setting{
		{Key: "listen", Default: "127.0.0.1:8443", Usage: "address to listen on for client agents"},
		{Key: "path", Default: "/tunnel", Usage: "URL path of the tunnel"},
		{Key: "tls_cert", path: true, Usage: "PEM file with the server's certificate and its chain"},
		{Key: "tls_key", path: true, Usage: "PEM file with the certificate's key"},
		{Key: "plaintext", Kind: Bool, Default: "false", Usage: "serve ws without TLS: for behind a load balancer that terminates it"},
		{Key: "client_ca", path: true, Usage: "PEM file with the CAs of client certificates, which are then required"},
		{Key: "tokens", path: true, Usage: "file of identities: names, token hashes, policies"},
		{Key: "token_file", path: true, Usage: "file with the one token that lets in, in place of tokens; use with allow"},
		{Key: "insecure_no_auth", Kind: Bool, Default: "false", Usage: "let everybody in, without token or certificate; use with allow"},
		{Key: "allow", Kind: List, Usage: "rule for targets that may be dialled, without a tokens file: host:ports or unix:path; repeatable"},
		{Key: "allow_listen", Kind: List, Usage: "rule for addresses where reverse forwards may listen, without a tokens file; repeatable"},
		{Key: "admin", Usage: "address to serve health, readiness and metrics on; none by default"},
		{Key: "resume_timeout", Default: "2m", Usage: "how long to keep a session without carrier"},
		{Key: "drain_timeout", Default: "30s", Usage: "how long streams may take to finish after SIGTERM"},
		{Key: "dial_timeout", Default: "10s", Usage: "how long resolving and dialling a target may take"},
		{Key: "max_sessions", Default: "4096", Usage: "sessions of all identities together"},
		{Key: "max_streams", Default: "32768", Usage: "streams that a session may have open"},
		{Key: "session_memory", Default: "64MiB", Usage: "buffers a session may use each way beyond 64KiB a stream"},
	})
}

func clientSettings() []Setting {
	client := []Role{Client}
	return section("client", []Role{Client, Connect}, []Setting{
		{Key: "server", Usage: "URL of the server agent: wss://host[:port][/path]; the path is /tunnel if left out"},
		{Key: "token_file", path: true, Usage: "file with the token; or set SALLYPORT_TOKEN"},
		{Env: "SALLYPORT_TOKEN", Usage: "the token itself"},
		{Key: "ca_file", path: true, Usage: "PEM file with CAs to trust beside the system's"},
		{Key: "pin", Kind: List, Usage: "public key that the server must have: sha256/BASE64; repeatable"},
		{Key: "client_cert", path: true, Usage: "PEM file with the client certificate and its chain"},
		{Key: "client_key", path: true, Usage: "PEM file with the client certificate's key"},
		{Key: "plaintext", Kind: Bool, Default: "false", Usage: "allow a ws:// server that isn't on loopback: token and data can be read on the way"},
		{Key: "keepalive", Default: "20s", Usage: "how long a carrier may be idle before it is pinged"},
		{Key: "proxy", Kind: List, lone: true, Usage: "proxy to go through: URL, or none; repeat it for several, one through the other; by default what HTTPS_PROXY, ALL_PROXY and NO_PROXY say, or the system"},
		{Key: "pac", path: true, Usage: "proxy auto-configuration script, in place of proxy: file or URL"},
		{Key: "proxy_user", Usage: "user name for the proxy, as it is: DOM\\user"},
		{Key: "proxy_password_file", path: true, Usage: "file with the password for the proxy; or set SALLYPORT_PROXY_PASSWORD"},
		{Env: "SALLYPORT_PROXY_PASSWORD", Usage: "the password for the proxy itself"},
		{Key: "proxy_auth", Kind: List, Usage: "scheme to authenticate with to the proxy: negotiate, ntlm, digest or basic; repeatable; all by default, the strongest first"},
		{Key: "proxy_trust", Kind: List, Usage: "proxy that a PAC script may name and that may see credentials: host, *.suffix or *, with :port if wanted; repeatable"},
		{Key: "proxy_ca_file", path: true, Usage: "PEM file with CAs of https:// proxies beside the system's; ca_file if not set"},
		{Key: "proxy_keytab", path: true, Usage: "file with the Kerberos key of proxy_user; by default the ticket cache is used"},
		{Key: "proxy_service", Usage: "the proxy's Kerberos service; HTTP/host by default"},
		{Key: "header", Kind: List, lines: true, Usage: "header for the WebSocket handshake: \"Name: value\"; repeatable"},
		{Key: "carriers", Default: "1", Usage: "WebSockets to keep for a session; one of several is kept clear of bulk for what is interactive"},
		{Key: "max_carriers", Default: "4", Usage: "WebSockets to have while those are crowded: by several streams, at more than a gigabit a second each"},
		{Key: "admin", Usage: "address to serve health, readiness and metrics on; none by default"},
		{Key: "drain_timeout", roles: client, Default: "30s", Usage: "how long streams may take to finish after SIGTERM"},
		{Key: "session_memory", Default: "64MiB", Usage: "buffers a session may use each way beyond 64KiB a stream"},
		{Key: "forward", roles: client, Alias: "L", Kind: List, Usage: "listen here, dial there: [bind:]port:host:hostport, or socket paths on either side; repeatable"},
		{Key: "reverse", roles: client, Alias: "R", Kind: List, Usage: "listen there, dial here: [bind:]port:host:hostport, or socket paths on either side; repeatable"},
	})
}

// section fills in what follows from section and key.
func section(name string, roles []Role, list []Setting) []Setting {
	for i := range list {
		s := &list[i]
		s.Section = name
		if s.roles == nil {
			s.roles = roles
		}
		if s.Key == "" {
			continue
		}
		if s.Flag == "" {
			s.Flag = dashes(s.Key)
		}
		if s.Env == "" {
			s.Env = variable(s.Flag)
		}
	}
	return list
}

// places returns where each setting's value is, by Name.
func (c *Config) places() map[string]value {
	l, s, k := &c.Log, &c.Server, &c.Client
	return map[string]value{
		"log.level":                  textValue(&l.Level, oneOf("debug", "info", "warn", "error")),
		"log.format":                 textValue(&l.Format, oneOf("text", "json")),
		"server.listen":              textValue(&s.Listen, address),
		"server.path":                textValue(&s.Path, urlPath),
		"server.tls_cert":            textValue(&s.TLSCert, anyText),
		"server.tls_key":             textValue(&s.TLSKey, anyText),
		"server.plaintext":           boolValue(&s.Plaintext),
		"server.client_ca":           textValue(&s.ClientCA, anyText),
		"server.tokens":              textValue(&s.Tokens, anyText),
		"server.token_file":          textValue(&s.TokenFile, notToken),
		"server.insecure_no_auth":    boolValue(&s.InsecureNoAuth),
		"server.allow":               listValue{&s.Allow, anyText},
		"server.allow_listen":        listValue{&s.AllowListen, anyText},
		"server.admin":               textValue(&s.Admin, address),
		"server.resume_timeout":      durationValue(&s.ResumeTimeout, minTimeout, maxTimeout),
		"server.drain_timeout":       durationValue(&s.DrainTimeout, 0, maxTimeout),
		"server.dial_timeout":        durationValue(&s.DialTimeout, minDial, maxDial),
		"server.max_sessions":        intValue(&s.MaxSessions, 1, maxCount),
		"server.max_streams":         intValue(&s.MaxStreams, 1, maxCount),
		"server.session_memory":      sizeValue(&s.SessionMemory, minMemory, maxMemory),
		"client.server":              textValue(&k.Server, anyText),
		"client.token_file":          textValue(&k.TokenFile, notToken),
		"SALLYPORT_TOKEN":            secretValue{&k.Token},
		"client.ca_file":             textValue(&k.CAFile, anyText),
		"client.pin":                 listValue{&k.Pin, anyText},
		"client.client_cert":         textValue(&k.ClientCert, anyText),
		"client.client_key":          textValue(&k.ClientKey, anyText),
		"client.plaintext":           boolValue(&k.Plaintext),
		"client.keepalive":           durationValue(&k.KeepAlive, minTimeout, maxKeep),
		"client.proxy":               proxyValue{&k.Proxy},
		"client.pac":                 textValue(&k.PAC, anyText),
		"client.proxy_auth":          listValue{&k.ProxyAuth, oneOf("negotiate", "ntlm", "digest", "basic")},
		"client.proxy_trust":         listValue{&k.ProxyTrust, anyText},
		"client.proxy_ca_file":       textValue(&k.ProxyCAFile, anyText),
		"client.proxy_keytab":        textValue(&k.ProxyKeytab, anyText),
		"client.proxy_service":       textValue(&k.ProxyService, anyText),
		"client.proxy_user":          textValue(&k.ProxyUser, anyText),
		"client.proxy_password_file": textValue(&k.ProxyPasswordFile, anyText),
		"SALLYPORT_PROXY_PASSWORD":   secretValue{&k.ProxyPassword},
		"client.header":              headerValue{&k.Header},
		"client.carriers":            intValue(&k.Carriers, 1, maxCarriers),
		"client.max_carriers":        intValue(&k.MaxCarriers, 1, maxCarriers),
		"client.admin":               textValue(&k.Admin, address),
		"client.drain_timeout":       durationValue(&k.DrainTimeout, 0, maxTimeout),
		"client.session_memory":      sizeValue(&k.SessionMemory, minMemory, maxMemory),
		"client.forward":             listValue{&k.Forward, anyText},
		"client.reverse":             listValue{&k.Reverse, anyText},
	}
}
