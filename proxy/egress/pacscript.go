package egress

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sallyport/proxy/egress/pac"
)

// pacScript is where a script is, and what was there last. Its methods are called by one goroutine at a time.
type pacScript struct {
	name string // for messages: without what may be secret in a URL
	file string
	url  string

	text  string
	until time.Time // when a URL is to be read again
}

func newPACScript(where, source string) (*pacScript, error) {
	bad := func(what string) (*pacScript, error) {
		return nil, settingError(source+": "+what, "name a file, or write http://host/proxy.pac, https://… or file://…")
	}
	if !strings.Contains(where, "://") {
		if path := where[len(filepath.VolumeName(where)):]; strings.Contains(path, "@") && strings.Contains(path, ":") {
			return bad("user and password cannot stand in the script's name") // as in a URL whose scheme was forgotten
		}
		return &pacScript{name: where, file: where}, nil
	}
	u, err := url.Parse(where)
	switch {
	case err != nil:
		return bad("the script's URL cannot be parsed")
	case u.User != nil:
		return bad("user and password cannot stand in the script's URL")
	case u.Scheme == "file":
		path := filepath.FromSlash(u.Path)
		if len(path) > 2 && path[2] == ':' { // the file of a Windows drive
			path = path[1:]
		}
		return &pacScript{name: path, file: path}, nil
	case u.Scheme != "http" && u.Scheme != "https":
		return bad("the script's URL is neither http, https nor file")
	case u.Host == "":
		return bad("the script's URL has no host")
	}
	return &pacScript{name: u.Scheme + "://" + u.Host + u.EscapedPath(), url: where}, nil
}

// load returns the script. A file is read each time; a URL again after a while, or if asked to, and when that fails, the
// script that was there before stays.
func (s *pacScript) load(ctx context.Context, d *Dialer, again bool) (string, error) {
	if s.url == "" {
		b, err := os.ReadFile(s.file)
		switch {
		case err != nil:
			return "", reason(ErrConfig, "%w", err)
		case len(b) > pac.MaxScript:
			return "", reason(ErrConfig, "%s: it is larger than %d KiB", s.name, pac.MaxScript>>10)
		}
		return string(b), nil
	}
	if !again && time.Now().Before(s.until) {
		return s.text, nil
	}
	text, err := s.fetch(ctx, d)
	if err != nil {
		if s.text == "" || ctx.Err() != nil {
			return "", err
		}
		d.log.Warn("the PAC script cannot be read again; the one from before stays", "script", s.name, "error", err)
		s.until = time.Now().Add(pacRetry)
		return s.text, nil
	}
	s.text, s.until = text, time.Now().Add(pacReload)
	return text, nil
}

// fetch reads the script directly: it is what tells of proxies.
func (s *pacScript) fetch(ctx context.Context, d *Dialer) (string, error) {
	legCtx, cancel := context.WithTimeoutCause(ctx, d.connectTimeout+d.replyTimeout, noAnswer(d.connectTimeout+d.replyTimeout))
	defer cancel()
	req, err := http.NewRequestWithContext(legCtx, http.MethodGet, s.url, nil)
	if err != nil {
		return "", reason(ErrConfig, "the script's URL is not valid")
	}
	req.Header.Set("User-Agent", d.userAgent)
	transport := &http.Transport{
		DialContext: d.dial, DialTLSContext: d.dialPACServer, DisableKeepAlives: true, MaxResponseHeaderBytes: maxHeader,
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, CheckRedirect: func(_ *http.Request, via []*http.Request) error {
		if len(via) > 3 {
			return errors.New("too many redirects")
		}
		return nil
	}}
	resp, err := client.Do(req)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok { // its text has the URL, query and all
			err = u.Err
		}
		return "", fmt.Errorf("reading %s: %w", s.name, ended(legCtx, err))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", reason(ErrPAC, "reading %s: the server answered %d %s", s.name, resp.StatusCode, http.StatusText(resp.StatusCode))
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, pac.MaxScript+1))
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", s.name, ended(legCtx, err))
	}
	if len(b) > pac.MaxScript {
		return "", reason(ErrPAC, "%s: it is larger than %d KiB", s.name, pac.MaxScript>>10)
	}
	if page := bytes.TrimSpace(b); bytes.HasPrefix(page, []byte("<")) && !bytes.HasPrefix(page, []byte("<!--")) {
		return "", reason(ErrCaptivePortal, "captive portal? what is at %s is a web page and no script", s.name)
	}
	return string(b), nil
}

// dialPACServer connects to who serves a script by https://.
func (d *Dialer) dialPACServer(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := d.dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	secure, err := d.secure(ctx, conn, d.tlsConfig(hostOf(addr), "http/1.1"))
	if err != nil {
		_, err = explainTLS("the script's server", err)
		return nil, err
	}
	return secure, nil
}
