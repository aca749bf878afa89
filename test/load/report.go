//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// about is what a report says of the run itself.
type about struct {
	Command string    `json:"command"`
	Begun   time.Time `json:"begun"`
	Took    string    `json:"took"`
	Rounds  int       `json:"rounds"`
	Window  string    `json:"window"`
	Version string    `json:"sallyport"`
	Go      string    `json:"go"`
	Machine string    `json:"machine"`
	Files   int       `json:"file_descriptors"`
	LoadNow string    `json:"load_average"`
}

// machine describes what the run runs on.
func machine() string {
	var u syscall.Utsname
	kernel := runtime.GOOS
	if syscall.Uname(&u) == nil {
		var b []byte
		for _, c := range u.Release {
			if c == 0 {
				break
			}
			b = append(b, byte(c))
		}
		kernel = "Linux " + string(b)
	}
	cpu := runtime.GOARCH
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for l := range strings.Lines(string(info)) {
			if key, value, ok := strings.Cut(l, ":"); ok && strings.TrimSpace(key) == "model name" {
				cpu = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("%d × %s, %s", runtime.NumCPU(), cpu, kernel)
}

// loadAverage returns how busy the machine is: other work spoils the figures.
func loadAverage() string {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	fields := strings.Fields(string(data))
	return strings.Join(fields[:min(3, len(fields))], " ")
}

// markdown writes the tables.
func (r *results) markdown(w io.Writer, a about) {
	fmt.Fprintf(w, "`%s`, %s\n\n", a.Command, a.Begun.UTC().Format("2006-01-02 15:04 MST"))
	fmt.Fprintf(w, "- %s; %s; sallyport %s\n", a.Machine, a.Go, a.Version)
	fmt.Fprintf(w, "- up to %d rounds (slow scenarios fewer), windows of %s; took %s; load average at the start: %s\n",
		a.Rounds, a.Window, a.Took, a.LoadNow)
	fmt.Fprintf(w, "- cells: median (median of the rounds' ratios to the relay); goals are on the ratio, those marked * on the value\n")
	group := ""
	for _, l := range r.lines {
		if l.scenario.group != group {
			group = l.scenario.group
			fmt.Fprintf(w, "\n### %s\n\n| | unit | %s | goal | verdict |\n", group, strings.Join(r.who, " | "))
			fmt.Fprintf(w, "|---|---|%s---|---|\n", strings.Repeat("---:|", len(r.who)))
		}
		fmt.Fprintf(w, "| %s | %s |", l.title, l.unit)
		for _, who := range r.who {
			fmt.Fprintf(w, " %s |", cell(l.result(who)))
		}
		fmt.Fprintf(w, " %s | %s |\n", l.goalText(), l.verdict())
	}
	list := func(title string, items []string) {
		if len(items) > 0 {
			fmt.Fprintf(w, "\n%s:\n\n- %s\n", title, strings.Join(items, "\n- "))
		}
	}
	list("Notes", r.notes)
	list("FAILED", r.fails)
}

// cell is a value of the table.
func cell(r *result) string {
	switch {
	case r == nil:
		return "–"
	case r.Ratio == nil:
		return number(r.Median)
	default:
		return fmt.Sprintf("%s (%.2f)", number(r.Median), *r.Ratio)
	}
}

// number prints three digits that matter.
func number(v float64) string {
	switch size := math.Abs(v); {
	case math.IsNaN(v):
		return "–"
	case size >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case size >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	default:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
}

// goalText is what the row has to reach.
func (l *line) goalText() string {
	if l.goal == nil {
		return ""
	}
	sign, star := "≥", ""
	if l.less {
		sign = "≤"
	}
	if l.goal.absolute {
		star = "*"
	}
	return fmt.Sprintf("%s %s (%s)%s", sign, number(l.goal.must), number(l.goal.aim), star)
}

// verdict says whether Sallyport reached the goal.
func (l *line) verdict() string {
	if l.goal == nil {
		return ""
	}
	r := l.result(nameSallyport)
	if r == nil {
		return "not measured"
	}
	return l.goal.verdict(r, l.less)
}

// json writes everything, every round's value included.
func (r *results) json(w io.Writer, a about) error {
	type jsonRow struct {
		Scenario string             `json:"scenario"`
		ID       string             `json:"id"`
		Title    string             `json:"title"`
		Unit     string             `json:"unit"`
		Less     bool               `json:"less_is_better"`
		Goal     string             `json:"goal,omitempty"`
		Verdict  string             `json:"verdict,omitempty"`
		Results  map[string]*result `json:"results"`
	}
	out := struct {
		About about     `json:"about"`
		Rows  []jsonRow `json:"rows"`
		Notes []string  `json:"notes,omitempty"`
		Fails []string  `json:"failed,omitempty"`
	}{About: a, Notes: slices.Clone(r.notes), Fails: slices.Clone(r.fails)}
	for _, l := range r.lines {
		row := jsonRow{l.scenario.name, l.id, l.title, l.unit, l.less, l.goalText(), l.verdict(), make(map[string]*result)}
		for _, who := range r.who {
			if res := l.result(who); res != nil {
				row.Results[who] = res
			}
		}
		out.Rows = append(out.Rows, row)
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(out)
}
