package tls

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// maxFileSize bounds what is read of one file. The CA bundle of a whole
// operating system has about 250 KB.
const maxFileSize = 4 << 20

// A FileError says what is wrong with one file of certificates or keys, and
// what to do about it. It never holds a part of the file.
type FileError struct {
	Path    string // as it was given
	Problem string // what is wrong, for a person
	Hint    string // what to try; may be empty; Error includes it
	Err     error  // the cause if there is one, e.g. fs.ErrNotExist
}

// Error names the file, the problem and the hint.
func (e *FileError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", e.Path, e.Problem)
	if e.Hint != "" {
		b.WriteString("; " + e.Hint)
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *FileError) Unwrap() error { return e.Err }

// sources are the files that a material is made of; an empty path is unused.
type sources struct {
	cert, key, ca string
}

// contents is what the sources held at one moment.
type contents struct {
	cert, key, ca []byte
	sum           [sha256.Size]byte // of all three
}

// read reads all sources. Comparing contents by their hash, rather than files
// by time and size, sees every change: symbolic links swapped at any level (as
// Kubernetes does), clocks that step, file systems with coarse times.
func (s sources) read() (*contents, error) {
	c := &contents{}
	h := sha256.New()
	for _, f := range []struct {
		path string
		data *[]byte
	}{{s.cert, &c.cert}, {s.key, &c.key}, {s.ca, &c.ca}} {
		if f.path != "" {
			data, err := readFile(f.path)
			if err != nil {
				return nil, err
			}
			*f.data = data
		}
		one := sha256.Sum256(*f.data)
		h.Write(one[:])
	}
	h.Sum(c.sum[:0])
	return c, nil
}

// readFile reads a regular file of at most maxFileSize.
func readFile(path string) ([]byte, error) {
	// Stat before Open: opening a named pipe would wait for its writer.
	info, err := os.Stat(path)
	if err != nil {
		return nil, readError(path, err)
	}
	switch {
	case info.IsDir():
		return nil, &FileError{Path: path, Problem: "is a directory", Hint: "name the PEM file in it"}
	case !info.Mode().IsRegular():
		return nil, &FileError{
			Path: path, Problem: "is not a regular file",
			Hint: "it is read again when it changes, which a pipe or a device does not allow: write it to a file",
		}
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, readError(path, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err != nil {
		return nil, readError(path, err)
	}
	if len(data) > maxFileSize {
		return nil, &FileError{Path: path, Problem: fmt.Sprintf("is larger than %d MiB", maxFileSize>>20), Hint: "is it the right file?"}
	}
	return data, nil
}

// readError describes a failure to read path.
func readError(path string, err error) *FileError {
	// The path is told already: keep the reason only.
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		err = pe.Err
	}
	e := &FileError{Path: path, Problem: "cannot be read: " + err.Error(), Err: err}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e.Problem = "does not exist"
		e.Hint = "check the path; it is relative to the directory that the agent was started in"
	case errors.Is(err, fs.ErrPermission):
		e.Problem = "cannot be read: no permission"
		e.Hint = "the user that runs the agent must be able to read it and to enter the directories above it"
	}
	return e
}

var (
	utf8Mark    = []byte("\xef\xbb\xbf")
	utf16LEMark = []byte("\xff\xfe")
	utf16BEMark = []byte("\xfe\xff")
)

// decodePEM returns the PEM blocks of data, or an error for a file that is not
// PEM or has a block that is damaged or cut short. pem.Decode skips those in
// silence, which would make half a bundle out of a half-written file.
func decodePEM(path string, data []byte) ([]*pem.Block, error) {
	// A mark that Windows editors put first would hide the first block.
	data = bytes.TrimPrefix(data, utf8Mark)
	var blocks []*pem.Block
	for rest := data; ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		blocks = append(blocks, b)
	}
	begun := bytes.Count(data, []byte("\n-----BEGIN "))
	if bytes.HasPrefix(data, []byte("-----BEGIN ")) {
		begun++
	}
	switch {
	case begun > len(blocks):
		return nil, &FileError{Path: path, Problem: "has a PEM block that is damaged or cut short", Hint: "copy it again, whole"}
	case len(blocks) == 0:
		return nil, notPEM(path, data)
	}
	return blocks, nil
}

// notPEM says what a file without any PEM block seems to be.
func notPEM(path string, data []byte) *FileError {
	e := &FileError{Path: path}
	q := strconv.Quote(path)
	switch {
	case len(bytes.TrimSpace(data)) == 0:
		e.Problem, e.Hint = "is empty", "was it fully written?"
	case bytes.HasPrefix(data, utf16LEMark), bytes.HasPrefix(data, utf16BEMark):
		e.Problem = "is text in UTF-16"
		e.Hint = "save it as ASCII or UTF-8 (PowerShell: Out-File -Encoding ascii)"
	case isDERCert(data):
		e.Problem = "holds a certificate in DER (binary) form"
		e.Hint = "make PEM of it: openssl x509 -inform der -in " + q + " -out cert.pem"
	case isDERKey(data):
		e.Problem = "holds a private key in DER (binary) form"
		e.Hint = "make PEM of it: openssl pkey -inform der -in " + q + " -out key.pem"
	case data[0] == 0x30: // an ASN.1 SEQUENCE of some other kind
		e.Problem = "is binary, not PEM"
		e.Hint = "if it is PKCS#12 (.p12, .pfx): openssl pkcs12 -in " + q + " -nodes -out all.pem"
	default:
		e.Problem = "holds no PEM block"
		e.Hint = "it must have a line like -----BEGIN CERTIFICATE-----"
	}
	return e
}

func isDERCert(data []byte) bool {
	_, err := x509.ParseCertificate(data)
	return err == nil
}

func isDERKey(data []byte) bool {
	_, err := parseKeyDER(data)
	return err == nil
}

// quote makes text of unknown origin fit for an error or a log: printable,
// on one line and short.
func quote(s string) string {
	return strconv.Quote(shorten(s, 100))
}

// shorten cuts s after at most limit runes.
func shorten(s string, limit int) string {
	n := 0
	for i := range s {
		if n == limit {
			return s[:i] + "…"
		}
		n++
	}
	return s
}
