//go:build !windows && !darwin

package egress

// systemProxies reads the system's setting: there is none here.
func systemProxies() (systemSetting, error) { return systemSetting{}, nil }
