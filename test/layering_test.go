// Package test checks the shape of the repository itself: who may import whom, how long a file may
// be, what no package may hold. The servers and faults that tests need are under internal; e2e runs
// the built command among real servers.
package test

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// goPackage is what these tests use of `go list -json`.
type goPackage struct {
	ImportPath                         string
	Dir                                string
	Imports, TestImports, XTestImports []string
	GoFiles, IgnoredGoFiles            []string
	TestGoFiles, XTestGoFiles          []string
}

// list returns all packages of the module.
func list(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json", "./...")
	cmd.Dir = ".."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	var packages []goPackage
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

// layers says which packages of ours each package may import: only ever those of lower layers. A
// package that is not listed here fails the test, so that a new one gets a considered place.
var layers = map[string][]string{
	"sallyport/tunnel/internal/frame": {},
	"sallyport/tunnel/internal/sock":  {},
	"sallyport/tunnel/ws":             {"sallyport/tunnel/internal/sock"},
	"sallyport/tls":                   {},
	"sallyport/proxy/access":          {},
	"sallyport/proxy/egress/pac":      {},
	"sallyport/proxy/egress":          {"sallyport/proxy/egress/pac"},
	"sallyport/proxy/ingress":         {},
	"sallyport/cmd/internal/config":   {},

	"sallyport/tunnel": {"sallyport/tunnel/internal/frame", "sallyport/tunnel/internal/sock"},
	"sallyport/proxy": {
		"sallyport/tunnel", "sallyport/tunnel/ws",
		"sallyport/proxy/access", "sallyport/proxy/egress", "sallyport/proxy/ingress",
	},
	"sallyport/cmd/internal/admin": {"sallyport/proxy"},
	"sallyport/cmd/sallyport": {
		"sallyport/cmd/internal/admin", "sallyport/cmd/internal/config", "sallyport/tls",
		"sallyport/proxy", "sallyport/proxy/access", "sallyport/proxy/egress", "sallyport/proxy/ingress",
		"sallyport/proxy/egress/pac", "sallyport/tunnel", "sallyport/tunnel/ws",
	},
}

func TestImportsGoDown(t *testing.T) {
	for _, p := range list(t) {
		if strings.HasPrefix(p.ImportPath, "sallyport/test") {
			continue
		}
		allowed, known := layers[p.ImportPath]
		if !known {
			t.Errorf("%s has no place in the layers: add it to the table here", p.ImportPath)
			continue
		}
		for _, imported := range p.Imports {
			if strings.HasPrefix(imported, "sallyport/") && !slices.Contains(allowed, imported) {
				t.Errorf("%s must not import %s", p.ImportPath, imported)
			}
		}
	}
}

// Some libraries have one place. Tests may use them to play the other side.
func TestLibrariesInOnePlace(t *testing.T) {
	only := map[string]string{
		"github.com/coder/websocket":          "sallyport/tunnel/ws",
		"github.com/urfave/cli/v2":            "sallyport/cmd/sallyport",
		"sallyport/tls":                       "sallyport/cmd/sallyport",
		"sallyport/tunnel/internal/frame":     "sallyport/tunnel",
		"github.com/prometheus/client_golang": "sallyport/cmd/internal/admin",
	}
	for _, p := range list(t) {
		for _, imported := range p.Imports {
			for library, place := range only {
				if (imported == library || strings.HasPrefix(imported, library+"/")) && p.ImportPath != place {
					t.Errorf("%s imports %s, which is for %s alone", p.ImportPath, imported, place)
				}
			}
		}
	}
}

// maxLines is where a file is too long to be about one thing. The aim is 400.
const maxLines = 450

func TestFiles(t *testing.T) {
	for _, p := range list(t) {
		names := slices.Concat(p.GoFiles, p.IgnoredGoFiles, p.TestGoFiles, p.XTestGoFiles)
		if len(names) == 0 {
			t.Errorf("%s has no files", p.ImportPath)
		}
		documented := false
		for _, name := range names {
			path := filepath.Join(p.Dir, name)
			fset := token.NewFileSet()
			file, err := parser.ParseFile(fset, path, nil, parser.ParseComments|parser.SkipObjectResolution)
			if err != nil {
				t.Error(err)
				continue
			}
			if n := fset.File(file.FileStart).LineCount(); n > maxLines && !ast.IsGenerated(file) {
				t.Errorf("%s has %d lines; split it by concept (at most %d)", path, n, maxLines)
			}
			for _, decl := range file.Decls {
				if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
					t.Errorf("%s: no func init: constructors and Run do everything", fset.Position(f.Pos()))
				}
			}
			documented = documented || file.Doc != nil
		}
		if !documented {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}

// A package with tests checks that they leave no goroutine behind.
func TestGoleakEverywhere(t *testing.T) {
	for _, p := range list(t) {
		imports := slices.Concat(p.TestImports, p.XTestImports)
		if len(imports) > 0 && !slices.Contains(imports, "go.uber.org/goleak") {
			t.Errorf("%s has tests without goleak.VerifyTestMain in a TestMain", p.ImportPath)
		}
	}
}

// The table itself leads downwards only.
func TestLayersAreAcyclic(t *testing.T) {
	var visit func(name string, path []string)
	visit = func(name string, path []string) {
		if slices.Contains(path, name) {
			t.Fatalf("the table of layers has a cycle: %v", append(path, name))
		}
		lower, known := layers[name]
		if !known {
			t.Errorf("%s is allowed to %v, but has no place itself", name, path)
		}
		for _, l := range lower {
			visit(l, append(path, name))
		}
	}
	for name := range layers {
		visit(name, nil)
	}
}
