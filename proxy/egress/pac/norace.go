//go:build !race

package pac

const underRace = false
