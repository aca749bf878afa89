package egress

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

// h2Client asks an https:// proxy for tunnels over HTTP/2 (RFC 9113 §8.5): each request is a stream, and the one that
// is answered with 2xx is the tunnel.
type h2Client struct {
	conn   *tls.Conn
	client *http2.ClientConn //nolint:staticcheck // net/http offers none for a connection that stands
	tunnel *h2Tunnel         // once there is one
}

func newH2Client(conn *tls.Conn) (*h2Client, error) {
	t := &http2.Transport{MaxHeaderListSize: maxHeader, DisableCompression: true} //nolint:staticcheck // see h2Client
	client, err := t.NewClientConn(conn)                                          //nolint:staticcheck // see h2Client
	if err != nil {
		return nil, err
	}
	return &h2Client{conn: conn, client: client}, nil
}

// ask sends one CONNECT and waits for the reply's header, within timeout and ctx. The stream itself outlives both.
func (c *h2Client) ask(ctx context.Context, timeout time.Duration, target string, header http.Header) (*reply, error) {
	streamCtx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	timer := time.AfterFunc(timeout, func() { cancel(noAnswer(timeout)) })
	stop := context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
	body := newUpload()
	req := (&http.Request{
		Method: http.MethodConnect, URL: &url.URL{Host: target}, Host: target, Header: header, Body: body, ContentLength: -1,
	}).WithContext(streamCtx)
	resp, err := c.client.RoundTrip(req)
	if inTime, alive := timer.Stop(), stop(); err == nil && !(inTime && alive) {
		resp.Body.Close()
		err = context.Canceled
	}
	if err != nil {
		body.Close()
		defer cancel(nil)
		if cause := context.Cause(streamCtx); cause != nil {
			return nil, ended(ctx, cause)
		}
		return nil, h2Failure(err)
	}
	r := &reply{status: resp.StatusCode, minor: 1, length: resp.ContentLength, body: resp.Body}
	for name, values := range resp.Header {
		for _, v := range values {
			r.fields = append(r.fields, param{strings.ToLower(name), v})
		}
	}
	if r.status < 300 {
		c.tunnel = newH2Tunnel(c.conn, resp.Body, body, cancel)
		return r, nil
	}
	body.Close()
	r.cancel = func() { cancel(nil) }
	return r, nil
}

// h2Failure says why there is no reply, or no more of the tunnel. CONNECT_ERROR is how a proxy says that the target was not reached (RFC 9113 §8.5).
func h2Failure(err error) error {
	reset, ok := errors.AsType[http2.StreamError](err)
	goAway, goes := errors.AsType[http2.GoAwayError](err) //nolint:staticcheck // see h2Client
	switch {
	case goes: // its text has the proxy's, whatever that is
		return &textError{"the proxy ended the HTTP/2 connection (" + goAway.ErrCode.String() + ")", errSilent}
	case ok && reset.Code == http2.ErrCodeConnect:
		return &textError{"the proxy could not connect to the target (HTTP/2 CONNECT_ERROR)", &kindError{ErrUnavailable, err}}
	case ok:
		return &textError{"the proxy ended the request (HTTP/2 " + reset.Code.String() + ")", &kindError{errSilent, err}}
	}
	return &textError{"the proxy ended the HTTP/2 connection" + unlessEOF(err), &kindError{errSilent, classify(err)}}
}

// upload is a request's body: what is written to out, a pipe that knows deadlines. The library closes it when the
// stream ends, whichever way, and that ends the writers too.
type upload struct {
	out, sending net.Conn
}

func newUpload() *upload {
	u := &upload{}
	u.out, u.sending = net.Pipe()
	return u
}

func (u *upload) Read(p []byte) (int, error) { return u.sending.Read(p) }
func (u *upload) Close() error               { return u.sending.Close() }

// h2Tunnel is a stream as a [net.Conn]. One goroutine carries what is received from the stream, which knows no
// deadlines, to a pipe, which does; Close waits for it.
type h2Tunnel struct {
	conn   *tls.Conn
	in     net.Conn // what was received is read here
	out    net.Conn // what is to be sent is written here
	ended  error    // why nothing more is received, once in is at its end; nil if the target closed its side
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
	once   sync.Once
}

func newH2Tunnel(conn *tls.Conn, download io.ReadCloser, u *upload, cancel context.CancelCauseFunc) *h2Tunnel {
	in, received := net.Pipe()
	t := &h2Tunnel{conn: conn, in: in, out: u.out, cancel: cancel}
	t.wg.Go(func() {
		if _, err := io.Copy(onlyWriter{received}, download); err != nil {
			t.ended = h2Failure(err)
		}
		received.Close()
		download.Close()
	})
	return t
}

// onlyWriter hides what io.Copy would look for.
type onlyWriter struct{ io.Writer }

func (t *h2Tunnel) Read(p []byte) (int, error) {
	n, err := t.in.Read(p)
	if errors.Is(err, io.EOF) && t.ended != nil { // written before the pipe's end was
		err = t.ended
	}
	return n, err
}

func (t *h2Tunnel) Write(p []byte) (int, error) { return t.out.Write(p) }

// CloseWrite ends the sending side: the stream's last DATA frame says so.
func (t *h2Tunnel) CloseWrite() error { return t.out.Close() }

// Close ends the stream and the connection to the proxy, which has no other.
func (t *h2Tunnel) Close() error {
	err := net.ErrClosed
	t.once.Do(func() {
		t.in.Close()
		t.out.Close()
		t.cancel(net.ErrClosed)
		err = t.conn.NetConn().Close()
		t.wg.Wait()
	})
	return err
}

// NetConn returns the connection to the proxy, for socket options; writing to it breaks the tunnel.
func (t *h2Tunnel) NetConn() net.Conn { return t.conn }

func (t *h2Tunnel) LocalAddr() net.Addr  { return t.conn.LocalAddr() }
func (t *h2Tunnel) RemoteAddr() net.Addr { return t.conn.RemoteAddr() }

func (t *h2Tunnel) SetDeadline(at time.Time) error {
	return errors.Join(t.in.SetDeadline(at), t.out.SetDeadline(at))
}
func (t *h2Tunnel) SetReadDeadline(at time.Time) error  { return t.in.SetReadDeadline(at) }
func (t *h2Tunnel) SetWriteDeadline(at time.Time) error { return t.out.SetWriteDeadline(at) }
