//go:build linux

package e2e

import (
	"fmt"
	"io"
	"sync"
	"text/tabwriter"
)

// table gathers what came out with each proxy. TestMain prints it when all tests have ended.
var table struct {
	sync.Mutex
	rows [][4]any
}

// tabulate adds a line: the proxy, how one authenticates, how many requests the first connection took, what came of it.
func tabulate(proxy, scheme string, connects int, result string) {
	table.Lock()
	defer table.Unlock()
	table.rows = append(table.rows, [4]any{proxy, scheme, connects, result})
}

// printTable writes the table, if any test has added to it.
func printTable(w io.Writer) {
	table.Lock()
	defer table.Unlock()
	if len(table.rows) == 0 {
		return
	}
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(out, "\nproxy\tscheme\tCONNECTs\tresult\n")
	for _, row := range table.rows {
		fmt.Fprintf(out, "%v\t%v\t%v\t%v\n", row[:]...)
	}
	fmt.Fprintln(out)
	out.Flush()
}
