//go:build nopac

package pac

// Available says that this program has no engine.
const Available = false

// evaluate says that there is no engine.
func evaluate(question) answer {
	return answer{Error: "this program was built without PAC (build tag nopac)"}
}
