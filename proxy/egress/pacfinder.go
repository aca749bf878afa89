package egress

func newPACFinder(where, source, scheme string, t *trust) (finder, error) { return nil, nil }
