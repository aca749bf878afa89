// Command barerelay is one half of a bare TLS relay pair, the reference that the tests measure
// Sallyport against: one crypto/tls connection a stream, no WebSocket, no multiplexing, no
// acknowledgements.
//
//	barerelay server CERT KEY TARGET   accepts TLS, dials TCP
//	barerelay client CA TARGET         accepts TCP, dials TLS
//
// It listens on a free port of loopback and prints its address. It ends with its standard input.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "barerelay:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	var dial func() (net.Conn, error)
	switch {
	case len(args) == 4 && args[0] == "server":
		pair, err := tls.LoadX509KeyPair(args[1], args[2])
		if err != nil {
			return err
		}
		ln = tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12})
		dial = func() (net.Conn, error) { return net.Dial("tcp", args[3]) }
	case len(args) == 3 && args[0] == "client":
		pem, err := os.ReadFile(args[1])
		if err != nil {
			return err
		}
		config := &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return errors.New("no certificate in the CA file")
		}
		dial = func() (net.Conn, error) { return tls.Dial("tcp", args[2], config) }
	default:
		return errors.New("usage: barerelay server CERT KEY TARGET | barerelay client CA TARGET")
	}
	fmt.Println(ln.Addr())
	go func() {
		io.Copy(io.Discard, os.Stdin)
		ln.Close()
	}()
	for {
		c, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		go serve(c, dial)
	}
}

// serve relays one connection both ways.
func serve(near net.Conn, dial func() (net.Conn, error)) {
	defer near.Close()
	far, err := dial()
	if err != nil {
		fmt.Fprintln(os.Stderr, "barerelay:", err)
		return
	}
	defer far.Close()
	var wg sync.WaitGroup
	wg.Go(func() { pump(far, near) })
	wg.Go(func() { pump(near, far) })
	wg.Wait()
}

// pump copies one direction and passes its end on.
func pump(dst, src net.Conn) {
	io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, make([]byte, 32<<10))
	if c, ok := dst.(interface{ CloseWrite() error }); ok {
		c.CloseWrite()
	}
}
