package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"sallyport/proxy/egress"
)

// demoShow tells what happens as it happens. Each step checks what it claims.
type demoShow struct {
	world *demoWorld
	out   io.Writer
	steps int
	held  net.Conn // a stream that is open all the time, as an ssh session would be
	lines int      // said over it
}

// run shows all steps, and returns the error of the first that does not hold.
func (s *demoShow) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, demoTimeout, errors.New("it took too long"))
	defer cancel()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case err := <-s.world.failed:
			fail(err)
		case <-ctx.Done():
		}
	}()
	err := s.all(ctx)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	fail(nil)
	<-watched
	return err
}

func (s *demoShow) all(ctx context.Context) error {
	if err := s.awaitForwards(ctx); err != nil {
		return err
	}
	s.picture()
	defer func() {
		if s.held != nil {
			s.held.Close()
		}
	}()
	for _, step := range []struct {
		title string
		do    func(context.Context) error
	}{
		{"The proxy lets nobody out without a password.", s.refusal},
		{"The client agent has the password: the web page comes through.", s.webPage},
		{"A stream to the echo service opens, and stays open, as an ssh session would.", s.openHeld},
		{fmt.Sprintf("Download of %s. In the middle the proxy cuts the WebSocket.", mebibytes(s.world.payload.size)), s.download},
		{fmt.Sprintf("Upload of %s. In the middle the proxy cuts the WebSocket.", mebibytes(s.world.payload.size)), s.upload},
		{"The echo stream has survived both cuts.", s.talkHeld},
		{"The figures, as the agents count them.", s.figures},
	} {
		s.steps++
		fmt.Fprintf(s.out, "\n%2d. %s\n", s.steps, step.title)
		if err := step.do(ctx); err != nil {
			fmt.Fprintf(s.out, "    [FAILED] %v\n", err)
			return fmt.Errorf("step %d: %w", s.steps, err)
		}
	}
	fmt.Fprintf(s.out, "\nAll of it held: two cuts, no byte lost, no stream noticed.\n")
	return nil
}

func (s *demoShow) say(format string, args ...any) {
	fmt.Fprintf(s.out, "         "+format+"\n", args...)
}

func (s *demoShow) ok(format string, args ...any) {
	fmt.Fprintf(s.out, "    [ok] "+format+"\n", args...)
}

// awaitForwards waits until the client agent listens, which it does before anything else.
func (s *demoShow) awaitForwards(ctx context.Context) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for s.world.forward(s.world.web) == "" || s.world.forward(s.world.echo) == "" {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// picture draws the path.
func (s *demoShow) picture() {
	w := s.world
	fmt.Fprintf(s.out, `Sallyport: TCP streams through a WebSocket, past a corporate proxy.
All of this runs here and now, on this machine; ports, certificates and passwords are made for the moment.

  you ---> client agent ======> corporate proxy ======> server agent ---> targets
           |                    |                       |                 |
           listens for you at   wants a password        checks the token  web page
           %-20s %-23s and its policy    %s
           %-20s                         %-17s echo
                                                                          %s

           |<==== wss: one WebSocket in TLS, in HTTP CONNECT ====>|
`,
		w.forward(w.web), w.gateAddr, w.web,
		w.forward(w.echo), w.serverAt,
		w.echo)
}

// refusal knocks at the proxy without a password.
func (s *demoShow) refusal(ctx context.Context) error {
	out, err := s.world.wayOut("", "")
	if err != nil {
		return err
	}
	conn, err := out.DialContext(ctx, "tcp", s.world.serverAt.String())
	if err == nil {
		conn.Close()
		return errors.New("the proxy let us through without a password")
	}
	e, ok := errors.AsType[*egress.Error](err)
	if !ok || e.Status != http.StatusProxyAuthRequired {
		return fmt.Errorf("the proxy should have asked for a password: %w", err)
	}
	s.ok("without: %s (%d)", http.StatusText(e.Status), e.Status)
	return nil
}

// webPage fetches the page through the forward.
func (s *demoShow) webPage(ctx context.Context) error {
	resp, err := s.request(ctx, http.MethodGet, "", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK || string(page) != demoPage {
		return fmt.Errorf("not the page: status %d, %d bytes", resp.StatusCode, len(page))
	}
	seen, _ := s.world.gate.figures()
	if seen.tunnels == 0 {
		return errors.New("the page did not come through the proxy")
	}
	s.ok("%s: %d, %d bytes", s.world.page(), resp.StatusCode, len(page))
	s.say("on its way: CONNECT %s, user %s", s.world.serverAt, demoUser)
	return nil
}

// request sends an HTTP request through the forward, over a connection of its own.
func (s *demoShow) request(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, s.world.page()+path, body)
	if err != nil {
		return nil, err
	}
	// Of its own, so that nothing of our environment (a real proxy, perhaps) has a say.
	return (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
}

// openHeld opens the stream that is to survive it all.
func (s *demoShow) openHeld(ctx context.Context) error {
	var err error
	if s.held, err = (&net.Dialer{}).DialContext(ctx, "tcp", s.world.forward(s.world.echo)); err != nil {
		return err
	}
	return s.talkHeld(ctx)
}

// talkHeld sends a line over it and wants it back.
func (s *demoShow) talkHeld(ctx context.Context) error {
	if deadline, ok := ctx.Deadline(); ok {
		if err := s.held.SetDeadline(deadline); err != nil {
			return err
		}
	}
	stop := context.AfterFunc(ctx, func() { s.held.Close() })
	defer stop()
	s.lines++
	line := fmt.Sprintf("line %d of the same connection", s.lines)
	if _, err := io.WriteString(s.held, line); err != nil {
		return err
	}
	back := make([]byte, len(line))
	if _, err := io.ReadFull(s.held, back); err != nil {
		return err
	}
	if string(back) != line {
		return fmt.Errorf("sent %q, got %q back", line, back)
	}
	s.ok("sent %q, and it came back", line)
	return nil
}

// download fetches the payload while the proxy cuts.
func (s *demoShow) download(ctx context.Context) error {
	return s.acrossCut(func() (there, here string, err error) {
		resp, err := s.request(ctx, http.MethodGet, "download", nil)
		if err != nil {
			return "", "", err
		}
		defer resp.Body.Close()
		sum := sha256.New()
		if _, err := io.Copy(sum, resp.Body); err != nil {
			return "", "", err
		}
		return resp.Trailer.Get(sumTrailer), hexSum(sum.Sum(nil)), nil
	}, "sent by the target", "received here")
}

// upload sends the payload while the proxy cuts.
func (s *demoShow) upload(ctx context.Context) error {
	return s.acrossCut(func() (there, here string, err error) {
		sum := sha256.New()
		resp, err := s.request(ctx, http.MethodPost, "upload", io.TeeReader(s.world.payload.reader(), sum))
		if err != nil {
			return "", "", err
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		if err != nil {
			return "", "", err
		}
		return string(answer), hexSum(sum.Sum(nil)), nil
	}, "received by the target", "sent from here")
}

// acrossCut runs a transfer, has the proxy reset the WebSocket's connection in its middle, and compares what both ends
// have seen.
func (s *demoShow) acrossCut(transfer func() (there, here string, err error), thereIs, hereIs string) error {
	gate, size := s.world.gate, s.world.payload.size
	cut := gate.cutAfter(size / 2)
	begin := time.Now()
	there, here, err := transfer()
	took := time.Since(begin)
	if err != nil {
		return fmt.Errorf("the transfer did not survive: %w", err)
	}
	select {
	case <-cut:
	default:
		return errors.New("the transfer was over before the cut")
	}
	if there != here || len(here) != 2*sha256.Size {
		return fmt.Errorf("SHA-256 differs: %q %s, %q %s", there, thereIs, here, hereIs)
	}
	seen, err := gate.figures()
	if err != nil {
		return err
	}
	s.say("cut by a TCP reset when %s had passed; a new WebSocket stood %s later", mebibytes(size/2), seen.recovery.Round(100*time.Microsecond))
	s.say("SHA-256 %-22s %s", thereIs, there)
	s.say("SHA-256 %-22s %s", hereIs, here)
	s.ok("equal: the stream survived, and took %s for it all (%s/s)", took.Round(time.Millisecond), mebibytes(int64(float64(size)/took.Seconds())))
	return nil
}

// figures prints what the client agent counted, and checks that it fits the story.
func (s *demoShow) figures(context.Context) error {
	st := s.world.client.Status()
	c := st.Counters
	lost := uint64(0)
	for _, n := range c.CarrierLosses {
		lost += n
	}
	seen, err := s.world.gate.figures()
	if err != nil {
		return err
	}
	size := uint64(s.world.payload.size)
	rows := []struct {
		what  string
		value string
		holds bool
	}{
		{"sessions made / lost", fmt.Sprintf("%d / %d", c.SessionsOpened, c.SessionsLost), c.SessionsOpened == 1 && c.SessionsLost == 0},
		{"WebSockets opened / lost", fmt.Sprintf("%d / %d", c.CarriersOpened, lost), c.CarriersOpened >= 3 && lost >= 2},
		{"times the session was resumed", fmt.Sprint(c.Resumes), c.Resumes >= 2},
		{"tunnels through the proxy", fmt.Sprintf("%d, and %d requests without the password answered 407", seen.tunnels, seen.refused), seen.tunnels >= 3 && seen.refused >= 1},
		{"payload sent / received", mebibytes(int64(c.BytesSent)) + " / " + mebibytes(int64(c.BytesReceived)), c.BytesSent >= size && c.BytesReceived >= size},
		{"sent again after the cuts", mebibytes(int64(c.BytesReplayed)), true},
	}
	for _, r := range rows {
		mark := "[ok]"
		if !r.holds {
			mark = "[??]"
		}
		fmt.Fprintf(s.out, "    %s %-30s %s\n", mark, r.what, r.value)
	}
	for _, r := range rows {
		if !r.holds {
			return fmt.Errorf("%s: %s does not fit", r.what, r.value)
		}
	}
	return nil
}

// mebibytes writes a size for people.
func mebibytes(n int64) string {
	return strings.TrimSuffix(fmt.Sprintf("%.1f", float64(n)/(1<<20)), ".0") + " MiB"
}
