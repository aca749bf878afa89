package ws

import "time"

// Sizes and times, each with its reason. Sizes in bytes.
const (
	// corkSize is what one flush of the frameCork carries at most: four full
	// TLS records (RFC 8446 §5.1: 2^14 each).
	corkSize = 4 * recordSize

	// corkSlack is room behind corkSize for the control frames that may join the
	// data: one pong and one close, of at most 131 bytes each.
	corkSlack = 512

	// recordCorkSize holds corkSize of plaintext as TLS records, with an overhead
	// of 22 (AES-GCM) to 85 bytes each (RFC 5246 §6.2.3.2), and corkSlack.
	recordCorkSize = 68 << 10

	// recordSize is the plaintext of a full TLS record.
	recordSize = 16 << 10

	// maxHeaderClient and maxHeaderServer are the frame header of a message of
	// 126..65535 bytes (RFC 6455 §5.2): 4 bytes, and 4 more of masking key.
	maxHeaderClient = 8
	maxHeaderServer = 4

	// readLimit is the largest message that is accepted, above MaxMessage of
	// either side and equal to the smallest buffer that a reader offers.
	readLimit = 64 << 10

	// hijackBuffer is the size of the bufio pair of a server-side carrier: it
	// sees headers and small messages, payloads go around it.
	hijackBuffer = 512

	// maxResponseHeader bounds the header of the server's answer, all 1xx
	// answers included.
	maxResponseHeader = 64 << 10

	// maxFailureBody is how much of a failed answer's body is read for the
	// excerpt.
	maxFailureBody = 1 << 10

	// maxExcerpt is the length of an excerpt, in characters.
	maxExcerpt = 200

	// maxInterim is how many 1xx answers are skipped before the final one.
	maxInterim = 8
)

const (
	// defaultHandshakeTimeout bounds each leg of a handshake.
	defaultHandshakeTimeout = 10 * time.Second

	// failureBodyTimeout bounds the wait for the body of a failed answer, which
	// is only wanted for its excerpt.
	failureBodyTimeout = 2 * time.Second

	// farewellTimeout bounds what Close writes: the close frame and TLS's
	// close_notify.
	farewellTimeout = 50 * time.Millisecond
)
