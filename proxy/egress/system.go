package egress

// systemSetting is what a desktop system has set for its user.
type systemSetting struct {
	pac     string // the script's URL
	proxies string // host:port, or kind=host:port;…
	bypass  string // targets that go direct
}

func fromSystem(o Options, scheme string, t *trust) (finder, error) {
	return fixed{way{source: "no proxy set"}}, nil
}
