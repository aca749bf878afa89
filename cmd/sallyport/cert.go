package main

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	certs "sallyport/tls"
)

// certCommand makes certificates for local use.
func (p *program) certCommand() *cli.Command {
	flags := func() []cli.Flag {
		return []cli.Flag{
			&cli.StringFlag{Name: "dir", Usage: "directory for the files", Value: "."},
			&cli.BoolFlag{Name: "force", Usage: "replace a certificate that is there", DisableDefaultText: true},
		}
	}
	return group(&cli.Command{
		Name:  "cert",
		Usage: "make certificates for local use, and print pins",
		Subcommands: []*cli.Command{
			leaf(&cli.Command{
				Name:  "dev",
				Usage: "make a CA and a server certificate: ca.pem, ca-key.pem, server.pem, server-key.pem",
				Description: "For tries and tests: a CA that is there already is used again. Give ca.pem to clients with --ca-file,\n" +
					"and never add it to the trust of a system or a browser.",
				Flags: append(flags(), &cli.StringSliceFlag{
					Name: "host", Usage: "name or IP address of the server; repeatable", DefaultText: "localhost, 127.0.0.1, ::1",
				}),
				Action: p.devCert,
			}, 0),
			leaf(&cli.Command{
				Name: "client", ArgsUsage: "NAME",
				Usage:  "make a client certificate, signed by the CA that \"cert dev\" made",
				Flags:  flags(),
				Action: p.clientCert,
			}, 1),
			leaf(&cli.Command{
				Name: "pin", ArgsUsage: "FILE",
				Usage:  "print the pin (--pin) of the first certificate in a PEM file",
				Action: p.pinCert,
			}, 1),
		},
	})
}

func (p *program) devCert(ctx *cli.Context) error {
	f, err := certs.Dev(certs.DevOptions{Dir: ctx.String("dir"), Hosts: ctx.StringSlice("host"), Force: ctx.Bool("force")})
	if err != nil {
		return setup(err)
	}
	if f.NewCA {
		p.wrote(f.CA, "the CA: give it to clients with --ca-file")
		p.wrote(f.CAKey, "its key: keep it where it is")
	}
	hosts := f.Leaf.DNSNames
	for _, ip := range f.Leaf.IPAddresses {
		hosts = append(hosts, ip.String())
	}
	p.wrote(f.Cert, "the server's certificate, for "+strings.Join(hosts, ", "))
	p.wrote(f.Key, "its key")
	fmt.Fprintf(p.stdout, "\nsallyport server --tls-cert %s --tls-key %s ...\nsallyport client --ca-file %s ...\n", f.Cert, f.Key, f.CA)
	return nil
}

func (p *program) clientCert(ctx *cli.Context) error {
	name := ctx.Args().First()
	if name == "" {
		return usagef(ctx, "name the client that the certificate is for")
	}
	f, err := certs.DevClient(certs.DevClientOptions{Dir: ctx.String("dir"), Name: name, Force: ctx.Bool("force")})
	if err != nil {
		return setup(err)
	}
	p.wrote(f.Cert, "the client's certificate, valid until "+f.Leaf.NotAfter.Format(time.DateOnly))
	p.wrote(f.Key, "its key")
	fmt.Fprintf(p.stdout, "\nsallyport server --client-ca %s ...\nsallyport client --client-cert %s --client-key %s ...\n", f.CA, f.Cert, f.Key)
	return nil
}

func (p *program) wrote(path, what string) { fmt.Fprintf(p.stdout, "%-20s %s\n", path, what) }

func (p *program) pinCert(ctx *cli.Context) error {
	path := ctx.Args().First()
	if path == "" {
		return usagef(ctx, "name the PEM file with the certificate")
	}
	cert, err := firstCertificate(path)
	if err != nil {
		return setup(err)
	}
	fmt.Fprintln(p.stdout, certs.Fingerprint(cert))
	return nil
}

// firstCertificate reads the first certificate of a PEM file, which is the server's own.
func firstCertificate(path string) (*x509.Certificate, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		problem := "cannot be read"
		if errors.Is(err, fs.ErrNotExist) {
			problem = "does not exist"
		}
		return nil, &certs.FileError{Path: path, Problem: problem, Err: err}
	}
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return nil, &certs.FileError{Path: path, Problem: "has no certificate in it", Hint: "name a PEM file that begins with -----BEGIN CERTIFICATE-----"}
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, &certs.FileError{Path: path, Problem: "the certificate cannot be parsed", Err: err}
		}
		return cert, nil
	}
}
