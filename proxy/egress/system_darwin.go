package egress

import (
	"context"
	"os/exec"
	"time"
)

// systemProxies asks the system's own tool.
func systemProxies() (systemSetting, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "/usr/sbin/scutil", "--proxy").Output()
	if err != nil {
		return systemSetting{}, err
	}
	return macSetting(string(out)), nil
}
