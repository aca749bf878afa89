package ws

import "net"

// innerConn is what wrappers of connections offer, crypto/tls's among them.
type innerConn interface{ NetConn() net.Conn }

// bottom finds the connection under all wrappers that tell what they wrap, and
// whether there was any.
func bottom(conn net.Conn) (inner net.Conn, wrapped bool) {
	for {
		w, ok := conn.(innerConn)
		if !ok {
			return conn, wrapped
		}
		next := w.NetConn()
		if next == nil {
			return conn, wrapped
		}
		conn, wrapped = next, true
	}
}

// tune sets the options of the TCP connection under conn. They are
// improvements: a connection that refuses one is still good.
func tune(conn net.Conn) {
	inner, _ := bottom(conn)
	tcp, ok := inner.(*net.TCPConn)
	if !ok {
		return
	}
	_ = tcp.SetNoDelay(true)
	_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true})
	limitUnsent(tcp)
}

// closeNow closes conn without waiting for anything. A TLS connection in the
// stack would first try to send its close_notify for up to five seconds; with
// the bottom closed before, that fails at once.
func closeNow(conn net.Conn) error {
	inner, wrapped := bottom(conn)
	err := inner.Close()
	if wrapped {
		_ = conn.Close()
	}
	return err
}
