package egress

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jcmturner/gokrb5/v8/credentials"
)

// fromCache takes the tickets of a cache file: the service's own if it is there and good, else the TGT. If a user is
// named, they have to be that user's, so that nobody goes by another name than the one that was set.
func (s *ticketSource) fromCache(setting, user, realm string, getenv func(string) string) error {
	path, err := s.cachePath(setting, getenv)
	if err != nil {
		return err
	}
	cache, err := credentials.LoadCCache(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("no Kerberos ticket: there is no cache %s; run kinit", path)
	case err != nil:
		return fmt.Errorf("the Kerberos ticket cache %s: %s", path, clean(err.Error(), maxExcerpt))
	}
	s.name, s.realm = cache.GetClientPrincipalName(), cache.GetClientRealm()
	if s.realm == "" || hasControl(s.realm) {
		return fmt.Errorf("the Kerberos ticket cache %s is malformed", path)
	}
	who := s.who()
	if user != "" && !strings.EqualFold(user, s.name.PrincipalNameString()) || realm != "" && !strings.EqualFold(realm, s.realm) {
		return fmt.Errorf("the Kerberos ticket is of %s, and the proxy's user is set to be another", who)
	}
	s.cached = make(map[string]*ticket)
	var expired time.Time
	for _, c := range cache.GetEntries() {
		switch {
		case time.Until(c.EndTime) >= ticketMargin:
			t := &ticket{key: c.Key, name: s.name, realm: s.realm, end: c.EndTime}
			if t.ticket.Unmarshal(c.Ticket) == nil {
				s.cached[c.Server.PrincipalName.PrincipalNameString()] = t
			}
		case c.EndTime.After(expired):
			expired = c.EndTime
		}
	}
	switch {
	case len(s.cached) > 0:
		return nil
	case !expired.IsZero():
		return fmt.Errorf("the Kerberos ticket of %s expired at %s; run kinit", who, expired.Format(time.DateTime))
	}
	return fmt.Errorf("no Kerberos ticket of %s in %s; run kinit", who, path)
}

// cachePath finds the cache's file. The kinds that live elsewhere (in the kernel, in a daemon) are named for what they
// are.
func (s *ticketSource) cachePath(setting string, getenv func(string) string) (string, error) {
	name := setting
	if name == "" {
		name = getenv("KRB5CCNAME")
	}
	if name == "" {
		name = s.config.libdefaults["default_ccache_name"]
	}
	if name == "" {
		name = "FILE:/tmp/krb5cc_%{uid}"
	}
	name = strings.NewReplacer("%{uid}", uid(), "%{euid}", uid(), "%{USERID}", uid(), "%{TEMP}", os.TempDir(), "%{null}", "").Replace(name)
	kind, rest, ok := strings.Cut(name, ":")
	if !ok || len(kind) == 1 { // a bare path, perhaps with a drive
		return name, nil
	}
	switch strings.ToUpper(kind) {
	case "FILE":
		return rest, nil
	case "DIR":
		if file, ok := strings.CutPrefix(rest, ":"); ok {
			return file, nil
		}
		primary, err := os.ReadFile(filepath.Join(rest, "primary"))
		if err != nil {
			return filepath.Join(rest, "tkt"), nil //nolint:nilerr // that is the name where none is written
		}
		return filepath.Join(rest, filepath.Base(strings.TrimSpace(string(primary)))), nil
	}
	return "", fmt.Errorf("the Kerberos ticket cache is of kind %s, and only FILE and DIR can be read: set KRB5CCNAME=FILE:… and run kinit", clean(kind, maxReason))
}
