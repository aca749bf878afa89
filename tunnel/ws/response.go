package ws

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
)

var errHeaderTooLarge = fmt.Errorf("the answer's header is larger than %d bytes", maxResponseHeader)

// boundedReader fails with errHeaderTooLarge once n bytes were read. It
// remembers the error it met: net/http may call a header malformed that has only
// been cut.
type boundedReader struct {
	r   io.Reader
	n   int
	err error
}

func (b *boundedReader) Read(p []byte) (n int, err error) {
	if b.n <= 0 {
		b.err = errHeaderTooLarge
		return 0, b.err
	}
	n, b.err = b.r.Read(p[:min(len(p), b.n)])
	b.n -= n
	return n, b.err
}

// readResponse reads the header of the final answer to req from r, skipping
// 1xx ones (RFC 9110 §15.2). For 101 it also returns the bytes that were read
// beyond the header: they are the WebSocket's first. For any other status it
// returns the beginning of the body, as far as it came without an error, and
// calls beforeBody before it reads that.
func readResponse(r io.Reader, req *http.Request, beforeBody func()) (resp *http.Response, rest []byte, err error) {
	bounded := &boundedReader{r: r, n: maxResponseHeader}
	br := bufio.NewReader(bounded)
	for range maxInterim {
		resp, err = http.ReadResponse(br, req)
		if err != nil {
			return nil, nil, answerError(cmp.Or(bounded.err, err))
		}
		if resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			break
		}
	}
	switch {
	case resp.StatusCode == http.StatusSwitchingProtocols:
		buffered, _ := br.Peek(br.Buffered())
		return resp, append([]byte(nil), buffered...), nil
	case resp.StatusCode < 200:
		return nil, nil, errors.New("the server sends interim answers only")
	}
	beforeBody()
	bounded.n = maxResponseHeader // of the body, chunked perhaps, 1 KiB is taken
	rest, _ = io.ReadAll(io.LimitReader(resp.Body, maxFailureBody))
	return resp, rest, nil
}

// answerError explains why no answer could be read. What net/http says of a
// malformed one quotes it at length, and so is shortened.
func answerError(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return fmt.Errorf("the connection was closed before an answer came: %w", err)
	}
	if errors.Is(err, errHeaderTooLarge) {
		return err
	}
	if _, ok := errors.AsType[net.Error](err); ok {
		return fmt.Errorf("no answer: %w", err)
	}
	return fmt.Errorf("the answer is not HTTP: %s", clean(err.Error(), maxExcerpt))
}
