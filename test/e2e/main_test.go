//go:build linux

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		printTable(os.Stdout)
		if builds.dir != "" {
			os.RemoveAll(builds.dir)
		}
		os.Exit(code)
	}))
}

// builds holds the programs built for this run, each once.
var builds struct {
	sync.Mutex
	dir   string
	built map[string]error
}

// build returns the path of the program in a package of the module, built with the race detector
// or without.
func build(t testing.TB, pkg string, race bool) string {
	t.Helper()
	builds.Lock()
	defer builds.Unlock()
	if builds.dir == "" {
		dir, err := os.MkdirTemp("", "sallyport-e2e-bin-")
		if err != nil {
			t.Fatal(err)
		}
		builds.dir, builds.built = dir, make(map[string]error)
	}
	name := filepath.Base(pkg)
	args := []string{"build"}
	if race {
		name += "-race"
		args = append(args, "-race")
	}
	path := filepath.Join(builds.dir, name)
	err, done := builds.built[path]
	if !done {
		cmd := exec.Command("go", append(args, "-o", path, pkg)...)
		if out, buildErr := cmd.CombinedOutput(); buildErr != nil {
			err = fmt.Errorf("build %s: %w\n%s", pkg, buildErr, out)
		}
		builds.built[path] = err
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// sallyport returns the command, under the race detector when the tests are.
func sallyport(t testing.TB) string { return build(t, "sallyport/cmd/sallyport", raceEnabled) }

// sallyportPlain returns the command as users have it: for figures.
func sallyportPlain(t testing.TB) string { return build(t, "sallyport/cmd/sallyport", false) }

// long says whether the long variants are asked for.
func long() bool { return os.Getenv("SALLYPORT_LONG") != "" }

// pick returns the value for the short or for the long variant.
func pick[T any](short, longer T) T {
	if long() {
		return longer
	}
	return short
}

// tempDir makes a directory that servers which give up root can use, with a path short enough for
// unix sockets.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "sp-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

// writeFile puts a file that everybody may read into dir and returns its path.
func writeFile(t testing.TB, dir, name, content string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// eventually waits until the condition holds, or fails the test at the limit.
func eventually(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(limit); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}
