package egress

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/jcmturner/gokrb5/v8/config"
)

// krb5Config is what matters to us of krb5.conf. The library's own reader does not know include and includedir, keeps
// only the last of several [realms] sections, and fails on blocks that it does not expect; so this reads the files and
// gives the library a text that it understands.
type krb5Config struct {
	libdefaults map[string]string
	kdcs        map[string][]string // host:port, by realm
	domains     [][2]string         // domain or .suffix, realm
}

// krb5Paths lists the configuration files: the setting, KRB5_CONFIG, or the usual place.
func krb5Paths(setting string, getenv func(string) string) (paths []string, explicit bool) {
	if setting != "" {
		return []string{setting}, true
	}
	if list := getenv("KRB5_CONFIG"); list != "" {
		return filepath.SplitList(list), true
	}
	return []string{"/etc/krb5.conf"}, false
}

// readKrb5 reads the files. One that is missing matters only if somebody named it and there is no other.
func readKrb5(paths []string, explicit bool) (*krb5Config, error) {
	c := &krb5Config{libdefaults: map[string]string{}, kdcs: map[string][]string{}}
	r := krb5Reader{config: c}
	var missing error
	found := false
	for _, path := range paths {
		switch err := r.file(path); {
		case err == nil:
			found = true
		case errors.Is(err, os.ErrNotExist):
			missing = err
		default:
			return nil, err
		}
	}
	if explicit && !found && missing != nil {
		return nil, missing
	}
	return c, nil
}

// krb5Reader follows the profile format: sections, relations, blocks in braces.
type krb5Reader struct {
	config *krb5Config
	size   int
	files  int
}

func (r *krb5Reader) file(path string) error {
	if r.files++; r.files > maxKrb5Includes {
		return fmt.Errorf("%s: more than %d files are included", path, maxKrb5Includes)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if r.size += len(b); r.size > maxKrb5Config {
		return fmt.Errorf("%s: the configuration is larger than %d KiB", path, maxKrb5Config>>10)
	}
	section := ""
	var blocks []string
	for lines := bufio.NewScanner(strings.NewReader(string(b))); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		if i := strings.IndexAny(line, "#;"); i >= 0 {
			line = strings.TrimSpace(line[:i])
		}
		switch {
		case line == "":
		case strings.HasPrefix(line, "include") && len(strings.Fields(line)) > 1:
			if err := r.include(line); err != nil {
				return err
			}
		case line[0] == '[':
			name, _, _ := strings.Cut(line[1:], "]")
			section, blocks = strings.ToLower(strings.TrimSpace(name)), nil
		case line[0] == '}':
			blocks = blocks[:max(len(blocks)-1, 0)]
		default:
			key, value, ok := strings.Cut(line, "=")
			key, value = strings.TrimSpace(key), strings.TrimSuffix(strings.TrimSpace(value), "*")
			switch {
			case !ok:
			case value == "" || value[0] == '{':
				blocks = append(blocks, key)
				if strings.HasSuffix(value, "}") {
					blocks = blocks[:len(blocks)-1]
				}
			default:
				r.relation(section, blocks, key, strings.TrimSpace(value))
			}
		}
	}
	return nil
}

// include takes a file, or the files of a directory whose names libkrb5 takes too.
func (r *krb5Reader) include(line string) error {
	what := strings.Fields(line)[0]
	path := strings.TrimSpace(strings.TrimPrefix(line, what))
	switch what {
	case "include":
		return r.file(path)
	case "includedir":
	default:
		return nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil // libkrb5 passes over it too
	}
	for _, entry := range entries {
		name := entry.Name()
		odd := strings.ContainsFunc(name, func(c rune) bool { return c >= 0x80 || !isAlnum(byte(c)) && c != '-' && c != '_' })
		if entry.IsDir() || strings.HasPrefix(name, ".") || odd && !strings.HasSuffix(name, ".conf") {
			continue
		}
		if err := r.file(filepath.Join(path, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// relation keeps what matters. Of a key that may stand once, the first counts, as in libkrb5.
func (r *krb5Reader) relation(section string, blocks []string, key, value string) {
	c := r.config
	switch {
	case section == "libdefaults" && len(blocks) == 0:
		if _, ok := c.libdefaults[strings.ToLower(key)]; !ok {
			c.libdefaults[strings.ToLower(key)] = value
		}
	case section == "realms" && len(blocks) == 1 && strings.EqualFold(key, "kdc"):
		if addr, ok := kdcAddr(value); ok {
			c.kdcs[blocks[0]] = append(c.kdcs[blocks[0]], addr)
		}
	case section == "domain_realm" && len(blocks) == 0:
		c.domains = append(c.domains, [2]string{strings.ToLower(key), value})
	}
}

// kdcAddr returns host:port. KDCs behind HTTPS (MS-KKDCP) are not for us.
func kdcAddr(s string) (string, bool) {
	s = strings.TrimPrefix(strings.TrimPrefix(s, "udp/"), "tcp/")
	if strings.Contains(s, "/") {
		return "", false
	}
	if _, _, err := net.SplitHostPort(s); err == nil {
		return s, true
	}
	return net.JoinHostPort(strings.Trim(s, "[]"), "88"), true
}

// library makes the library's form for work in a realm. The key names are those that it understands and that matter.
func (c *krb5Config) library(realm string) (*config.Config, error) {
	var b strings.Builder
	b.WriteString("[libdefaults]\n default_realm = " + realm + "\n")
	for _, key := range []string{"allow_weak_crypto", "default_tgs_enctypes", "default_tkt_enctypes", "permitted_enctypes"} {
		if v, ok := c.libdefaults[key]; ok {
			b.WriteString(" " + key + " = " + v + "\n")
		}
	}
	b.WriteString("[domain_realm]\n")
	for _, d := range c.domains {
		b.WriteString(" " + d[0] + " = " + d[1] + "\n")
	}
	conf, err := config.NewFromString(b.String())
	if err != nil {
		return nil, fmt.Errorf("krb5.conf: %s", clean(err.Error(), maxExcerpt))
	}
	return conf, nil
}

// isFalse reads a truth of the profile format. What is not set, or makes no sense, is not false.
func isFalse(value string) bool {
	switch strings.ToLower(value) {
	case "false", "no", "n", "0", "off", "nil":
		return true
	}
	return false
}
