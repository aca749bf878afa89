package egress

import "time"

// Bounds on what a proxy may do to us. None is configurable: each is far above what real proxies need and small enough
// that a hostile one gains nothing.
const (
	// defaultTimeout bounds each leg whose option is zero.
	defaultTimeout = 10 * time.Second

	// defaultKeepAlive is Go's own TCP keep-alive idle time and interval.
	defaultKeepAlive = 15 * time.Second

	// attemptDelay is how long an address is tried alone before the next is tried beside it (RFC 8305 §5, §8).
	attemptDelay = 250 * time.Millisecond

	// maxHeader bounds all header bytes read for one CONNECT: interim replies, blank lines and the reply itself.
	// Kerberos tickets in challenges reach 48 KiB.
	maxHeader = 64 << 10

	// maxInterim bounds the 1xx replies before the final one.
	maxInterim = 8

	// maxDrain bounds the body that is read to keep a connection after a 407; above it a new connection is cheaper.
	maxDrain = 64 << 10

	// maxExcerptBody bounds how much of a failure's body is read to find a sentence in it. Error pages start with
	// kilobytes of style sheet.
	maxExcerptBody = 16 << 10

	// excerptTimeout bounds the wait for a failure's body: the status is known already and must not be kept waiting.
	excerptTimeout = 2 * time.Second

	// portalWait is how long a 2xx that calls itself a web page is looked at before it is taken for a tunnel.
	portalWait = 300 * time.Millisecond

	// maxExcerpt and maxReason bound peer text in messages, in characters.
	maxExcerpt = 200
	maxReason  = 60

	// maxLegs bounds the requests on one connection. The longest handshake known (Negotiate with NTLM inside, after
	// a stale nonce) takes four.
	maxLegs = 6

	// maxRedials bounds new connections within one dial: one because the proxy closed after its 407, one more because
	// it closed a connection that it had promised to keep, and one for each of two schemes given up half-way.
	maxRedials = 4

	// maxChallenges and maxParams bound what is kept of Proxy-Authenticate.
	maxChallenges = 32
	maxParams     = 32

	// refusedFor is how long credentials are not sent again that were refused once, and longestRefusal how long at most
	// after several times: four tries in half an hour are below what locks accounts under common policies, and a try a
	// minute is not.
	refusedFor     = time.Minute
	longestRefusal = time.Hour

	// maxHops bounds the proxies in a row.
	maxHops = 8

	// deadFor is how long a candidate that was not reached is tried last.
	deadFor = time.Minute

	// maxRemembered bounds what is remembered by proxy or by host.
	maxRemembered = 128

	// maxCandidates bounds the proxies that one answer of a PAC script names.
	maxCandidates = 16

	// pacFresh is how long an answer of a PAC script is good: scripts look at names, addresses and the clock.
	pacFresh = 5 * time.Minute

	// pacReload is how long a script from a URL is good, and pacRetry when to try again if it cannot be read.
	pacReload = 30 * time.Minute
	pacRetry  = time.Minute

	// ticketMargin is how long a Kerberos ticket must still be good for to be sent: clocks differ.
	ticketMargin = 30 * time.Second

	// kerberosTimeout bounds what it takes to get a Kerberos ticket, kdcTimeout the wait for one server among several.
	kerberosTimeout = 10 * time.Second
	kdcTimeout      = 3 * time.Second

	// maxKDCs, maxKDCReply, maxReferrals and maxIterations bound what Kerberos servers may cost: nothing shows that the
	// one that answers is a real one. Replies hold tickets of up to 64 KiB; keys take 4,096 iterations by default, and
	// the bound about a second.
	maxKDCs       = 8
	maxKDCReply   = 256 << 10
	maxReferrals  = 6
	maxIterations = 1 << 20

	// maxKrb5Config bounds krb5.conf with all that it includes, maxKrb5Includes the files.
	maxKrb5Config   = 1 << 20
	maxKrb5Includes = 100

	// provenFor is how long after an acceptance several connections may authenticate at once. Later the first of them
	// finds out alone whether the password has changed.
	provenFor = time.Minute
)
