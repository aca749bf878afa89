package egress

import "golang.org/x/sys/windows/registry"

// systemProxies reads the user's Internet Settings.
func systemProxies() (systemSetting, error) {
	key, err := registry.OpenKey(registry.CURRENT_USER, `Software\Microsoft\Windows\CurrentVersion\Internet Settings`, registry.QUERY_VALUE)
	if err != nil {
		return systemSetting{}, err
	}
	defer key.Close()
	text := func(name string) string {
		v, _, err := key.GetStringValue(name)
		if err != nil {
			return ""
		}
		return v
	}
	enabled, _, err := key.GetIntegerValue("ProxyEnable")
	return windowsSetting(err == nil && enabled != 0, text("ProxyServer"), text("ProxyOverride"), text("AutoConfigURL")), nil
}
