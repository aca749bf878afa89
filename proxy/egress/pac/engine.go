//go:build !nopac

package pac

import (
	"errors"
	"runtime/debug"
	"strings"
	"time"

	"github.com/dop251/goja"
)

// Available says that this program has the engine.
const Available = true

// evaluate runs the script and calls its function.
func evaluate(q question) answer {
	return evaluateWith(q, &functions{now: time.Now, deadline: time.Now().Add(q.Timeout)})
}

func evaluateWith(q question, f *functions) (a answer) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case *goja.InterruptedError: // in what runs outside of a call, such as a getter
			a = failed(r, q.Timeout)
		default:
			a = answer{Error: "the engine gave up on it"}
		}
	}()
	debug.SetMaxStack(32 << 20)
	vm := goja.New()
	vm.SetMaxCallStackSize(maxDepth)
	timer := time.AfterFunc(q.Timeout, func() { vm.Interrupt("time") })
	defer timer.Stop()
	for name, function := range f.table() {
		if err := vm.Set(name, wrap(vm, function)); err != nil {
			return answer{Error: "the engine cannot be set up"}
		}
	}
	if _, err := vm.RunScript("pac", q.Script); err != nil {
		return failed(err, q.Timeout)
	}
	// Scripts that know IPv6 have the other one (Microsoft's extension); the host's name is the same.
	find, ok := goja.AssertFunction(vm.Get("FindProxyForURLEx"))
	if !ok {
		if find, ok = goja.AssertFunction(vm.Get("FindProxyForURL")); !ok {
			return answer{Error: "it has no function FindProxyForURL"}
		}
	}
	result, err := find(goja.Undefined(), vm.ToValue(q.URL), vm.ToValue(q.Host))
	if err != nil {
		return failed(err, q.Timeout)
	}
	if goja.IsUndefined(result) || goja.IsNull(result) {
		return answer{Result: "DIRECT"} // as browsers have it
	}
	text, ok := result.Export().(string)
	if !ok {
		return answer{Error: "its result is not a text"}
	}
	return answer{Result: text}
}

// wrap makes one of our functions callable: arguments as texts, and a result that is a text, a truth, or nil for null.
func wrap(vm *goja.Runtime, f func(args []string) any) func(goja.FunctionCall) goja.Value {
	return func(call goja.FunctionCall) goja.Value {
		args := make([]string, 0, len(call.Arguments))
		for _, v := range call.Arguments {
			args = append(args, v.String())
		}
		result := f(args)
		if result == nil {
			return goja.Null()
		}
		return vm.ToValue(result)
	}
}

func failed(err error, timeout time.Duration) answer {
	if _, ok := errors.AsType[*goja.InterruptedError](err); ok {
		return answer{Error: "it took more than " + timeout.String(), Limit: true}
	}
	if _, ok := errors.AsType[*goja.StackOverflowError](err); ok {
		return answer{Error: "its calls are nested too deep", Limit: true}
	}
	if thrown, ok := errors.AsType[*goja.Exception](err); ok {
		return answer{Error: strings.Replace(thrown.String(), "SyntaxError: SyntaxError: ", "SyntaxError: ", 1)}
	}
	return answer{Error: err.Error()}
}
