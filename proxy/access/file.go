package access

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

// maxFile bounds a tokens file: about ten thousand entries.
const maxFile = 8 << 20

// FileError is one mistake in a tokens file.
type FileError struct {
	File string // as it was given
	Line int    // from 1; 0 if it isn't about a line
	Err  error  // what is wrong and what to write
}

// Error implements error: file:line: what is wrong.
func (e *FileError) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %v", e.File, e.Err)
	}
	return fmt.Sprintf("%s:%d: %v", e.File, e.Line, e.Err)
}

// Unwrap returns what is wrong.
func (e *FileError) Unwrap() error { return e.Err }

// LoadFile reads the tokens file at path; see ParseFile for its form.
// The error is the file system's, or joins a *FileError for each mistake.
func LoadFile(path string) ([]Entry, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("tokens file: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("tokens file: %w", err)
	}
	return ParseFile(path, data)
}

// ParseFile reads a tokens file: a YAML list of
//
//   - name: alice                   # who it is; stable: sessions belong to it
//     sha256: 5e884898da28...       # of the token, in hex; and/or
//     certificate: alice            # the name in a verified client certificate, or "*"
//     policy:                       # nothing is allowed unless listed
//     connect: ["db.example.com:5432"]
//     listen: ["localhost:8000-8100"]
//     limits: {sessions: 2, streams: 100}   # optional; 0 is none
//
// Unknown and repeated keys are errors. A file without any content is one as well, since it is most likely half written:
// the list of nobody is []. The file's name is for messages only. The error joins a *FileError for each mistake.
func ParseFile(file string, data []byte) ([]Entry, error) {
	p := &fileParser{file: file}
	entries := p.parse(data)
	if len(p.errs) == 0 {
		return entries, nil
	}
	return nil, errors.Join(p.errs...)
}

// fileParser walks the YAML tree itself: that gives a line to each mistake and finds them all in one go.
type fileParser struct {
	file string
	errs []error
}

func (p *fileParser) fail(line int, format string, args ...any) {
	p.errs = append(p.errs, &FileError{File: p.file, Line: line, Err: fmt.Errorf(format, args...)})
}

func (p *fileParser) parse(data []byte) []Entry {
	if len(data) > maxFile {
		p.fail(0, "larger than %d MiB", maxFile>>20)
		return nil
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, more yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		p.fail(0, "the file is empty; write [] for no identities")
		return nil
	} else if err != nil {
		p.syntax(err)
		return nil
	}
	if err := dec.Decode(&more); err == nil {
		p.fail(more.Line, "a second document begins; write one list")
		return nil
	} else if !errors.Is(err, io.EOF) {
		p.syntax(err)
		return nil
	}
	root := value(doc.Content[0])
	if root.Kind != yaml.SequenceNode {
		p.fail(root.Line, "expected a list of identities, each beginning with \"- name:\"")
		return nil
	}
	return p.entries(root)
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

// syntax reports the YAML library's error with its line where ours stands.
func (p *fileParser) syntax(err error) {
	text, line := err.Error(), 0
	if m := yamlLine.FindStringSubmatch(text); m != nil {
		line, _ = strconv.Atoi(m[1])
		text = text[len(m[0]):]
	}
	p.fail(line, "not YAML at or below this line: %s; put rules in quotes, above all those that begin with * or [", text)
}

func (p *fileParser) entries(root *yaml.Node) []Entry {
	entries := make([]Entry, 0, len(root.Content))
	c := newChecker()
	for _, item := range root.Content {
		before := len(p.errs)
		e := p.entry(value(item))
		if len(p.errs) > before {
			continue
		}
		if err := c.add(e); err != nil {
			p.fail(item.Line, "%w", err)
			continue
		}
		entries = append(entries, e)
	}
	return entries
}

func (p *fileParser) entry(n *yaml.Node) (e Entry) {
	p.mapping(n, "identity", map[string]func(*yaml.Node){
		"name":        func(v *yaml.Node) { e.Name = p.text(v, "name") },
		"certificate": func(v *yaml.Node) { e.Certificate = p.text(v, "certificate") },
		"sha256": func(v *yaml.Node) {
			text, err := p.text(v, "sha256"), error(nil)
			if text == "" { // said already, or said later: no credential
				return
			}
			if e.SHA256, err = ParseDigest(text); err != nil {
				p.fail(v.Line, "sha256: %w", err)
			}
		},
		"policy": func(v *yaml.Node) {
			p.mapping(v, "policy", map[string]func(*yaml.Node){
				"connect": func(v *yaml.Node) { e.Policy.Connect = p.rules(v, "connect") },
				"listen":  func(v *yaml.Node) { e.Policy.Listen = p.rules(v, "listen") },
			})
		},
		"limits": func(v *yaml.Node) {
			p.mapping(v, "limits", map[string]func(*yaml.Node){
				"sessions": func(v *yaml.Node) { e.Limits.Sessions = p.count(v, "sessions") },
				"streams":  func(v *yaml.Node) { e.Limits.Streams = p.count(v, "streams") },
			})
		},
	})
	return e
}

// mapping calls keys' functions with the values that are there.
func (p *fileParser) mapping(n *yaml.Node, what string, keys map[string]func(*yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		p.fail(n.Line, "%s: expected keys and values", what)
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, set := n.Content[i], keys[n.Content[i].Value]
		switch {
		case key.Kind != yaml.ScalarNode || set == nil:
			known := make([]string, 0, len(keys))
			for k := range keys {
				known = append(known, k)
			}
			slices.Sort(known)
			p.fail(key.Line, "%s: unknown key %s; known are %s", what, quote(key.Value), strings.Join(known, ", "))
		case seen[key.Value]:
			p.fail(key.Line, "%s: key %q is there twice", what, key.Value)
		default:
			seen[key.Value] = true
			set(value(n.Content[i+1]))
		}
	}
}

// value follows an alias (*name), so that identities can share a policy.
func value(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

func (p *fileParser) text(n *yaml.Node, key string) string {
	if n.Kind != yaml.ScalarNode || n.ShortTag() == "!!null" {
		p.fail(n.Line, "%s: expected a text", key)
		return ""
	}
	return n.Value
}

func (p *fileParser) count(n *yaml.Node, key string) int {
	i, err := strconv.ParseInt(p.text(n, key), 10, 32)
	if err != nil || i < 0 {
		p.fail(n.Line, "%s: expected a number from 0, which is no limit", key)
		return 0
	}
	return int(i)
}

func (p *fileParser) rules(n *yaml.Node, key string) []Rule {
	if n.Kind != yaml.SequenceNode {
		p.fail(n.Line, "%s: expected a list of rules: [\"db.example.com:5432\"]", key)
		return nil
	}
	var rules []Rule
	for _, item := range n.Content {
		item = value(item)
		if item.Kind != yaml.ScalarNode {
			p.fail(item.Line, "%s: expected a rule; put it in quotes, such as \"[::1]:22\"", key)
			continue
		}
		r, err := ParseRule(item.Value)
		if err != nil {
			p.fail(item.Line, "%s: %w", key, err)
			continue
		}
		rules = append(rules, r)
	}
	return rules
}
