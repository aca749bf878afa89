package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxFile bounds a configuration file.
const maxFile = 1 << 20

// Load returns the defaults overridden by the file at path; "" is no file. The error is the file system's, or joins an *Error for
// each mistake.
func Load(path string) (*Config, error) {
	if path == "" {
		return defaults(), nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	return Parse(path, data)
}

// Parse is Load for a file's content. The file's name is for messages, and what relative paths in it are relative to.
func Parse(file string, data []byte) (*Config, error) {
	p := &parser{file: file, config: defaults()}
	p.config.file = file
	p.parse(data)
	if len(p.errs) > 0 {
		return nil, errors.Join(p.errs...)
	}
	return p.config, nil
}

// parser walks the YAML tree itself: that gives a line to each mistake and finds them all in one go.
type parser struct {
	file   string
	config *Config
	errs   []error
}

func (p *parser) at(line int) string {
	if line == 0 {
		return p.file
	}
	return p.file + ":" + strconv.Itoa(line)
}

func (p *parser) fail(line int, name, format string, args ...any) {
	p.errs = append(p.errs, &Error{p.at(line), name, fmt.Errorf(format, args...)})
}

func (p *parser) parse(data []byte) {
	if len(data) > maxFile {
		p.fail(0, "", "larger than %d MiB; is it the right file?", maxFile>>20)
		return
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, more yaml.Node
	err := dec.Decode(&doc)
	if errors.Is(err, io.EOF) {
		return // nothing but comments: all defaults
	}
	if err == nil {
		err = dec.Decode(&more)
		if err == nil {
			p.fail(more.Line, "", "a second document begins; write one")
			return
		}
	}
	if !errors.Is(err, io.EOF) {
		p.syntax(err)
		return
	}
	p.mapping(follow(doc.Content[0]), "", func(key, val *yaml.Node) bool {
		if !slices.Contains(sectionNames(), key.Value) {
			return false
		}
		p.config.sections = append(p.config.sections, key.Value)
		p.section(key.Value, val)
		return true
	})
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

// syntax reports the YAML library's error with its line where ours stands.
func (p *parser) syntax(err error) {
	text, line := err.Error(), 0
	if m := yamlLine.FindStringSubmatch(text); m != nil {
		line, _ = strconv.Atoi(m[1])
		text = text[len(m[0]):]
	}
	p.fail(line, "", "not YAML at or below this line: %s; put values in quotes, above all those that begin with * or [", text)
}

// mapping calls visit for each key and value; visit returns false for a key that it doesn't know.
func (p *parser) mapping(n *yaml.Node, section string, visit func(key, val *yaml.Node) bool) {
	switch {
	case n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null":
		return // everything in it is commented out
	case n.Kind != yaml.MappingNode:
		p.fail(n.Line, section, "expected keys and values; write \"key: value\" lines")
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		switch {
		case key.Kind != yaml.ScalarNode:
			p.fail(key.Line, section, "a key must be one word")
		case seen[key.Value]:
			p.fail(key.Line, section, "key %s is there twice; remove one", quote(key.Value))
		default:
			seen[key.Value] = true
			if !visit(key, follow(n.Content[i+1])) {
				p.fail(key.Line, section, "unknown key %s%s", quote(key.Value), hint(section, key.Value))
			}
		}
	}
}

func (p *parser) section(name string, n *yaml.Node) {
	p.mapping(n, name, func(key, val *yaml.Node) bool {
		for _, s := range settings() {
			if s.Section == name && s.Key == key.Value {
				p.setting(s, val)
				return true
			}
		}
		return false
	})
}

func (p *parser) setting(s Setting, n *yaml.Node) {
	nodes := []*yaml.Node{n}
	if s.Kind == List {
		switch {
		case n.Kind == yaml.SequenceNode:
			nodes = n.Content
		case !s.lone:
			p.fail(n.Line, s.Name(), "expected a list; write [\"one\", \"two\"]")
			return
		}
	}
	var values []string
	var lines []int
	for _, n := range nodes {
		n = follow(n)
		switch {
		case n.Kind != yaml.ScalarNode:
			p.fail(n.Line, s.Name(), "expected one value; put it in quotes if it begins with [ or { or has a colon and a space")
			continue
		case n.ShortTag() == "!!null":
			p.fail(n.Line, s.Name(), "no value; write one or remove the key")
			continue
		}
		text := n.Value
		if s.path && text != "" {
			text = resolvePath(p.file, text)
		}
		values, lines = append(values, text), append(lines, n.Line)
	}
	p.errs = append(p.errs, p.config.apply(s, fromFile, values, func(i int) string { return p.at(lines[i]) })...)
}

// follow follows an alias (*name).
func follow(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

func sectionNames() []string { return []string{"log", "server", "client"} }

// hint tells what an unknown key may have been meant to be.
func hint(section, key string) string {
	secrets := map[string]string{"token": "token_file, or set SALLYPORT_TOKEN", "proxy_password": "proxy_password_file, or set SALLYPORT_PROXY_PASSWORD"}
	if instead, ok := secrets[key]; ok && section == "client" {
		return "; a secret doesn't belong here: write " + instead
	}
	known, elsewhere := sectionNames(), ""
	if section != "" {
		known = nil
	}
	for _, s := range settings() {
		switch {
		case s.Key == "":
		case section != "" && s.Section == section:
			known = append(known, s.Key)
		case s.Key == key:
			elsewhere = s.Section
		}
	}
	if elsewhere != "" {
		return fmt.Sprintf("; it belongs to section %s", elsewhere)
	}
	if best := nearest(key, known); best != "" {
		return fmt.Sprintf("; did you mean %s?", best)
	}
	return "; known are " + strings.Join(known, ", ")
}

// nearest returns the word that key is a slip of, "" if none comes close.
func nearest(key string, words []string) string {
	if len(key) > 64 {
		return ""
	}
	key = strings.ReplaceAll(strings.ToLower(key), "-", "_")
	best, least := "", max(1, len(key)/3)+1
	for _, w := range words {
		if d := distance(key, w); d < least {
			best, least = w, d
		}
	}
	return best
}

// distance counts the letters to insert, remove or replace between a and b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
