//go:build nopac

package egress

import (
	"errors"
	"strings"
	"testing"
)

// A program without the engine says so at once, and not that the script is broken.
func TestBuiltWithoutPAC(t *testing.T) {
	_, err := New(Options{PAC: "proxy.pac"})
	if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "built without PAC") {
		t.Errorf("%v", err)
	}
}
