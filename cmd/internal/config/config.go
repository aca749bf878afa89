package config

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Config is everything that can be set; Settings documents each field under the same name. Make one with Load or Parse.
type Config struct {
	Log    LogConfig
	Server ServerConfig
	Client ClientConfig

	file     string              // "" if there was none
	sections []string            // of the file
	origins  map[string][]origin // by setting, one for each element; none for a default
}

// LogConfig is the section "log".
type LogConfig struct {
	Level  string // debug, info, warn or error
	Format string // text or json
}

// SlogLevel returns Level as slog has it.
func (l LogConfig) SlogLevel() slog.Level {
	var level slog.Level
	_ = level.UnmarshalText([]byte(l.Level)) // the names were checked; the zero value is info
	return level
}

// ServerConfig is the section "server".
type ServerConfig struct {
	Listen, Path       string
	TLSCert, TLSKey    string // files
	Plaintext          bool
	ClientCA           string // file
	Tokens, TokenFile  string // files; at most one is set
	InsecureNoAuth     bool
	Allow, AllowListen []string // rules
	Admin              string   // "" is none
	ResumeTimeout      time.Duration
	DrainTimeout       time.Duration // 0 is not to wait
	DialTimeout        time.Duration
	MaxSessions        int
	MaxStreams         int
	SessionMemory      int // bytes
}

// ClientConfig is the section "client", for the roles Client and Connect.
type ClientConfig struct {
	Server                string // URL; see ServerURL
	TokenFile             string // at most one of the two is set; see ReadToken
	Token                 Secret
	CAFile                string
	Pin                   []string
	ClientCert, ClientKey string // files
	Plaintext             bool
	KeepAlive             time.Duration
	Proxy                 []ProxyURL
	PAC                   string // file or URL; excludes Proxy
	ProxyUser             string
	ProxyPasswordFile     string // at most one of the two is set; see ReadProxyPassword
	ProxyPassword         Secret
	ProxyAuth, ProxyTrust []string
	ProxyCAFile           string // CAFile if it is ""
	ProxyKeytab           string // file
	ProxyService          string
	Header                []Header
	Carriers, MaxCarriers int
	Admin                 string        // "" is none
	DrainTimeout          time.Duration // 0 is not to wait
	SessionMemory         int           // bytes
	Forward, Reverse      []string
}

// ReadToken returns the token, the zero Secret if none is set. The error is ReadSecret's.
func (c ClientConfig) ReadToken() (Secret, error) { return readUnless(c.Token, c.TokenFile) }

// ReadProxyPassword returns the password for the proxy, the zero Secret if none is set. The error is ReadSecret's.
func (c ClientConfig) ReadProxyPassword() (Secret, error) {
	return readUnless(c.ProxyPassword, c.ProxyPasswordFile)
}

// RevealProxy returns the proxies' URLs with what is secret in them.
func (c ClientConfig) RevealProxy() []string {
	var urls []string
	for _, p := range c.Proxy {
		urls = append(urls, p.Reveal())
	}
	return urls
}

func readUnless(s Secret, path string) (Secret, error) {
	if path == "" {
		return s, nil
	}
	return ReadSecret(path)
}

// layer orders where values come from: a higher one overrides.
type layer uint8

const (
	fromDefault layer = iota
	fromFile
	fromEnv
	fromFlag
)

// origin is where one value came from.
type origin struct {
	layer layer
	name  string // file:line, variable or flag: what messages begin with
}

// Error is one mistake in the configuration.
type Error struct {
	Origin string // file:line, file, "--flag" or "SALLYPORT_..."; "" if something is missing and there is no file
	Name   string // the setting's, such as "server.listen"; "" if it isn't about one
	Err    error  // what is wrong and what to write
}

// Error implements error.
func (e *Error) Error() string {
	switch {
	case e.Origin == "" && e.Name == "":
		return e.Err.Error()
	case e.Origin == "":
		return fmt.Sprintf("%s: %v", e.Name, e.Err)
	case e.Name == "" || strings.HasPrefix(e.Origin, "--") || strings.HasPrefix(e.Origin, envPrefix): // it says the name already
		return fmt.Sprintf("%s: %v", e.Origin, e.Err)
	}
	return fmt.Sprintf("%s: %s: %v", e.Origin, e.Name, e.Err)
}

// Unwrap returns what is wrong.
func (e *Error) Unwrap() error { return e.Err }

// defaults returns a Config in which every setting has its default.
func defaults() *Config {
	c := &Config{origins: map[string][]origin{}}
	places := c.places()
	for _, s := range settings() {
		if s.Default != "" {
			_ = places[s.Name()].set(s.Default) // a test sets them all
		}
	}
	return c
}

// apply sets a setting to values, all of them from layer l; name(i) tells where the i-th stands.
func (c *Config) apply(s Setting, l layer, values []string, name func(i int) string) (errs []error) {
	v := c.places()[s.Name()]
	v.reset()
	c.origins[s.Name()] = nil
	for i, text := range values {
		o := origin{l, name(i)}
		if err := v.set(text); err != nil {
			errs = append(errs, &Error{o.name, s.Name(), err})
			continue
		}
		c.origins[s.Name()] = append(c.origins[s.Name()], o)
	}
	return errs
}

// drop puts a setting back to its default.
func (c *Config) drop(name string) {
	v := c.places()[name]
	v.reset()
	delete(c.origins, name)
	for _, s := range settings() {
		if s.Name() == name && s.Default != "" {
			_ = v.set(s.Default)
		}
	}
}

// ApplyEnv sets what the environment has for a role; lookup is os.LookupEnv. An empty variable counts as not there.
// The elements of a list are separated by spaces or line breaks, headers by line breaks only. The error joins an *Error for each
// variable that is wrong.
func (c *Config) ApplyEnv(role Role, lookup func(string) (string, bool)) error {
	var errs []error
	for _, s := range Settings(role) {
		text, ok := lookup(s.Env)
		if !ok || text == "" {
			continue
		}
		values := []string{text}
		if s.Kind == List {
			values = s.split(text)
		}
		errs = append(errs, c.apply(s, fromEnv, values, func(int) string { return s.Env })...)
	}
	return errors.Join(errs...)
}

// split takes a variable's text apart.
func (s Setting) split(text string) []string {
	if !s.lines {
		return strings.Fields(text)
	}
	lines := strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' })
	return slices.DeleteFunc(lines, func(l string) bool { return strings.TrimSpace(l) == "" })
}

// ApplyFlags sets what the command line has for a role. For each setting that has a flag, get returns its values and whether it
// was given. The error joins an *Error for each flag that is wrong.
func (c *Config) ApplyFlags(role Role, get func(Setting) ([]string, bool)) error {
	var errs []error
	for _, s := range Settings(role) {
		if s.Flag == "" {
			continue
		}
		if values, ok := get(s); ok {
			errs = append(errs, c.apply(s, fromFlag, values, func(int) string { return "--" + s.Flag })...)
		}
	}
	return errors.Join(errs...)
}

// Sections returns which sections the file had, so that a check can tell which roles it is for.
func (c *Config) Sections() []string { return slices.Clone(c.sections) }

// Effective is a setting's value as it was decided.
type Effective struct {
	Name   string // "server.listen"
	Value  string // without secrets; "" if there is none
	Origin string // file:line, flag or variable of its first element; "default"
}

// Effective returns the values of a role's settings.
func (c *Config) Effective(role Role) []Effective {
	places := c.places()
	var out []Effective
	for _, s := range Settings(role) {
		e := Effective{Name: s.Name(), Value: places[s.Name()].String(), Origin: "default"}
		if o := c.origins[s.Name()]; len(o) > 0 {
			e.Origin = o[0].name
		}
		out = append(out, e)
	}
	return out
}

// layerOf tells where a setting's value comes from; fromDefault if it isn't set or says no.
func (c *Config) layerOf(name string) layer {
	raw, o := c.places()[name].raw(), c.origins[name]
	if len(raw) == 0 || len(o) == 0 {
		return fromDefault
	}
	return slices.MaxFunc(o, func(a, b origin) int { return cmp.Compare(a.layer, b.layer) }).layer
}

// wrong makes an *Error about the i-th element of a setting.
func (c *Config) wrong(name string, i int, format string, args ...any) error {
	e := &Error{Name: name, Err: fmt.Errorf(format, args...)}
	if o := c.origins[name]; i < len(o) {
		e.Origin = o[i].name
	}
	return e
}

// resolvePath makes a file's name that stands in a configuration file relative to that file.
func resolvePath(configFile, path string) string {
	if filepath.IsAbs(path) || strings.Contains(path, "://") {
		return path
	}
	return filepath.Join(filepath.Dir(configFile), path)
}

// envPrefix begins every variable.
const envPrefix = "SALLYPORT_"

func dashes(key string) string { return strings.ReplaceAll(key, "_", "-") }

func variable(flag string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}
