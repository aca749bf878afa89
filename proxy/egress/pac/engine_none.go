//go:build nopac

package pac

// evaluate says that there is no engine.
func evaluate(question) answer {
	return answer{Error: "this program was built without PAC (build tag nopac)"}
}
