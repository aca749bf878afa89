package egress

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// askKDC sends a request to the Kerberos servers of a realm, one after the other, and returns the first reply. The
// library can do that too, but knows no contexts, waits 5 s for each server by UDP and again by TCP, and believes
// whatever length a reply announces. TCP comes first here: most replies are too large for UDP (RFC 4120 §7.2).
func (c *krb5Config) askKDC(ctx context.Context, realm string, request []byte) ([]byte, error) {
	servers, err := c.servers(ctx, realm)
	if err != nil {
		return nil, err
	}
	realm = clean(realm, maxReason) // for messages: another server may have named it
	var failed []error
	for _, network := range []string{"tcp", "udp"} {
		for _, server := range servers {
			reply, err := exchangeKDC(ctx, network, server, request)
			if err == nil {
				return reply, nil
			}
			if ctx.Err() != nil {
				return nil, reason(ErrNoKDC, "no Kerberos server of %s answers: %w", realm, ended(ctx, err))
			}
			failed = append(failed, fmt.Errorf("%s: %w", server, root(err)))
		}
	}
	return nil, reason(ErrNoKDC, "no Kerberos server of %s answers (%w)", realm, failed[0])
}

// servers are those in the configuration, else those that DNS names, unless the configuration says not to look there.
func (c *krb5Config) servers(ctx context.Context, realm string) ([]string, error) {
	if list := c.kdcs[realm]; len(list) > 0 {
		return list[:min(len(list), maxKDCs)], nil
	}
	var list []string
	if !isFalse(c.libdefaults["dns_lookup_kdc"]) {
		for _, network := range []string{"tcp", "udp"} {
			_, records, _ := net.DefaultResolver.LookupSRV(ctx, "kerberos", network, realm)
			for _, r := range records {
				list = append(list, net.JoinHostPort(strings.TrimSuffix(r.Target, "."), strconv.Itoa(int(r.Port))))
			}
			if len(list) > 0 {
				return list[:min(len(list), maxKDCs)], nil
			}
		}
	}
	return nil, reason(ErrNoKDC, "no Kerberos server of %s is known: neither krb5.conf nor DNS names one", clean(realm, maxReason))
}

// exchangeKDC asks one server. Over TCP, lengths stand before request and reply (RFC 4120 §7.2.2).
func exchangeKDC(ctx context.Context, network, server string, request []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, kdcTimeout, noAnswer(kdcTimeout))
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, network, server)
	if err != nil {
		return nil, ended(ctx, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if network == "tcp" {
		request = append(binary.BigEndian.AppendUint32(nil, uint32(len(request))), request...)
	}
	if _, err := conn.Write(request); err != nil {
		return nil, ended(ctx, err)
	}
	reply := make([]byte, 4)
	if network == "udp" {
		reply = make([]byte, maxKDCReply)
		n, err := conn.Read(reply)
		if err != nil {
			return nil, ended(ctx, err)
		}
		return reply[:n], nil
	}
	if _, err := io.ReadFull(conn, reply); err != nil {
		return nil, ended(ctx, err)
	}
	size := binary.BigEndian.Uint32(reply)
	if size > maxKDCReply {
		return nil, errors.New("its reply is too large")
	}
	reply = make([]byte, size)
	if _, err := io.ReadFull(conn, reply); err != nil {
		return nil, ended(ctx, err)
	}
	return reply, nil
}
