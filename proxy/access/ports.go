package access

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// portRange is first to last, both included; 1 <= first <= last.
type portRange struct{ first, last uint16 }

// ports is a set of ports. The zero value is empty.
type ports struct {
	any    bool        // every port, also 0: an ephemeral one for a listener
	ranges []portRange // ascending, with gaps between
}

func (p ports) contains(port uint16) bool {
	if p.any {
		return true
	}
	return slices.ContainsFunc(p.ranges, func(r portRange) bool { return r.first <= port && port <= r.last })
}

// String is the shortest form that parses to the same set.
func (p ports) String() string {
	if p.any {
		return "*"
	}
	var b strings.Builder
	for i, r := range p.ranges {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Itoa(int(r.first)))
		if r.last != r.first {
			b.WriteByte('-')
			b.WriteString(strconv.Itoa(int(r.last)))
		}
	}
	return b.String()
}

// parsePorts reads "*", or a list of ports and ranges. On error at is the byte where the bad part begins.
func parsePorts(s string) (p ports, at int, err error) {
	switch s {
	case "":
		return ports{}, 0, errors.New("port is empty; write 22, 8000-8100, 22,443 or *")
	case "*":
		return ports{any: true}, 0, nil
	}
	for item := range strings.SplitSeq(s, ",") {
		lo, hi, isRange := strings.Cut(item, "-")
		if !isRange {
			hi = lo
		}
		first, err := parsePort(lo)
		if err != nil {
			return ports{}, at, err
		}
		last, err := parsePort(hi)
		if err != nil {
			return ports{}, at + len(lo) + 1, err
		}
		if first > last {
			return ports{}, at, fmt.Errorf("range %s ends before it begins; write %d-%d", item, last, first)
		}
		p.ranges = append(p.ranges, portRange{first, last})
		at += len(item) + 1
	}
	p.ranges = merge(p.ranges)
	return p, 0, nil
}

func parsePort(s string) (uint16, error) {
	switch {
	case s == "":
		return 0, errors.New("a port is missing; write 22, 8000-8100, 22,443 or *")
	case s == "*":
		return 0, errors.New("* stands for every port and can't be part of a list or range; write it alone")
	case strings.Trim(s, "0123456789") != "":
		return 0, fmt.Errorf("port %s is not a number; write 22, 8000-8100, 22,443 or *", quote(s))
	case strings.Trim(s, "0") == "":
		return 0, errors.New("port 0 can't be named; write * if an ephemeral port may be listened on")
	case s[0] == '0':
		return 0, fmt.Errorf("port %s begins with 0; write %s", quote(s), quote(strings.TrimLeft(s, "0")))
	}
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("port %s is above 65535", quote(s))
	}
	return uint16(n), nil
}

// merge sorts ranges and joins those that touch.
func merge(ranges []portRange) []portRange {
	slices.SortFunc(ranges, func(a, b portRange) int { return int(a.first) - int(b.first) })
	out := ranges[:1]
	for _, r := range ranges[1:] {
		top := &out[len(out)-1]
		if int(r.first) <= int(top.last)+1 {
			top.last = max(top.last, r.last)
			continue
		}
		out = append(out, r)
	}
	return out
}
