package egress

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/jcmturner/gokrb5/v8/crypto"
	"github.com/jcmturner/gokrb5/v8/iana/errorcode"
	"github.com/jcmturner/gokrb5/v8/iana/keyusage"
	"github.com/jcmturner/gokrb5/v8/iana/nametype"
	"github.com/jcmturner/gokrb5/v8/iana/patype"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"
)

// ask sends a request of the library's. What the server refuses is an error of type messages.KRBError.
func (s *ticketSource) ask(ctx context.Context, realm string, request interface{ Marshal() ([]byte, error) }) ([]byte, error) {
	b, err := request.Marshal()
	if err != nil {
		return nil, s.odd(err)
	}
	if b, err = s.config.askKDC(ctx, realm, b); err != nil {
		return nil, err
	}
	var refusal messages.KRBError
	if refusal.Unmarshal(b) == nil {
		return nil, refusal
	}
	return b, nil
}

// login gets a TGT by password or keytab (RFC 4120 §3.1).
func (s *ticketSource) login(ctx context.Context) (*ticket, error) {
	request, err := messages.NewASReqForTGT(s.realm, s.library, s.name)
	if err != nil {
		return nil, s.odd(err)
	}
	b, err := s.ask(ctx, s.realm, &request)
	if refusal, ok := errors.AsType[messages.KRBError](err); ok && refusal.ErrorCode == errorcode.KDC_ERR_PREAUTH_REQUIRED {
		proof, err := s.preAuthentication(refusal)
		if err != nil {
			return nil, err
		}
		request.PAData = append(request.PAData, proof)
		b, err = s.ask(ctx, s.realm, &request)
		if err != nil {
			return nil, s.explain(err)
		}
	} else if err != nil {
		return nil, s.explain(err)
	}
	var reply messages.ASRep
	if err := reply.Unmarshal(b); err != nil {
		return nil, s.odd(err)
	}
	if _, err := keyHints(reply.PAData); err != nil {
		return nil, err
	}
	if _, err := reply.DecryptEncPart(s.secret); err != nil { // the server wanted no proof, so it is found out here
		return nil, reason(errRefused, "the password or key of %s is wrong", s.who())
	}
	if ok, err := reply.Verify(s.library, s.secret, request); !ok {
		return nil, s.odd(err)
	}
	return &ticket{ticket: reply.Ticket, key: reply.DecryptedEncPart.Key}, nil
}

// preAuthentication proves the password or key: the time, encrypted with it (RFC 4120 §5.2.7.2).
func (s *ticketSource) preAuthentication(refusal messages.KRBError) (proof types.PAData, _ error) {
	var hints types.PADataSequence
	if err := hints.Unmarshal(refusal.EData); err != nil {
		return proof, s.odd(err)
	}
	offered, err := keyHints(hints)
	if err != nil {
		return proof, err
	}
	key, version, err := s.key(offered)
	if err != nil {
		return proof, err
	}
	now, err := types.GetPAEncTSEncAsnMarshalled()
	if err != nil {
		return proof, s.odd(err)
	}
	sealed, err := crypto.GetEncryptedData(now, key, keyusage.AS_REQ_PA_ENC_TIMESTAMP, version)
	if err != nil {
		return proof, s.odd(err)
	}
	b, err := sealed.Marshal()
	if err != nil {
		return proof, s.odd(err)
	}
	return types.PAData{PADataType: patype.PA_ENC_TIMESTAMP, PADataValue: b}, nil
}

// key takes the first kind of encryption that the server offers and for which there is a key.
func (s *ticketSource) key(offered []types.ETypeInfo2Entry) (key types.EncryptionKey, version int, _ error) {
	for _, hint := range offered {
		if s.secret.HasKeytab() {
			key, version, err := s.secret.Keytab().GetEncryptionKey(s.name, s.realm, 0, hint.EType)
			if err == nil {
				return key, version, nil
			}
			continue
		}
		kind, err := crypto.GetEtype(hint.EType)
		if err != nil {
			continue
		}
		salt, parameters := hint.Salt, kind.GetDefaultStringToKeyParams()
		if salt == "" {
			salt = s.name.GetSalt(s.realm)
		}
		if len(hint.S2KParams) > 0 {
			parameters = hex.EncodeToString(hint.S2KParams)
		}
		value, err := kind.StringToKey(s.secret.Password(), salt, parameters)
		if err != nil {
			return key, 0, s.odd(err)
		}
		return types.EncryptionKey{KeyType: hint.EType, KeyValue: value}, 0, nil
	}
	if s.secret.HasKeytab() {
		return key, 0, fmt.Errorf("the keytab has no key of %s that the Kerberos server takes", s.who())
	}
	return key, 0, errors.New("the Kerberos server takes no encryption that is known")
}

// keyHints are what a server says of how keys are made from passwords (RFC 4120 §5.2.7.5, or the older form of
// §5.2.7.4). Nobody has signed that, so the work that it may ask for is bounded.
func keyHints(all types.PADataSequence) (hints []types.ETypeInfo2Entry, _ error) {
	for _, pa := range all {
		switch pa.PADataType {
		case patype.PA_ETYPE_INFO2:
			list, err := pa.GetETypeInfo2()
			if err != nil {
				return nil, errors.New("the Kerberos server's reply is malformed")
			}
			hints = slices.Concat(list, hints)
		case patype.PA_ETYPE_INFO:
			list, err := pa.GetETypeInfo()
			if err != nil {
				return nil, errors.New("the Kerberos server's reply is malformed")
			}
			for _, old := range list {
				hints = append(hints, types.ETypeInfo2Entry{EType: old.EType, Salt: string(old.Salt)})
			}
		}
	}
	for _, hint := range hints {
		if n := hint.S2KParams; len(n) > 0 && (len(n) != 4 || binary.BigEndian.Uint32(n)-1 >= maxIterations) {
			return nil, errors.New("the Kerberos server wants more work done than any real one does")
		}
	}
	return hints, nil
}

// exchange gets the service's ticket with a TGT (RFC 4120 §3.3), over the realm that the configuration names for the
// service's host, and over those that servers refer to (RFC 6806 §8).
func (s *ticketSource) exchange(ctx context.Context, tgt *ticket, service string) (*ticket, error) {
	s.library.LibDefaults.Canonicalize = true // asks for referrals
	realm := s.realm
	name := types.NewPrincipalName(nametype.KRB_NT_SRV_HST, service) // servers refer only to hosts
	wanted := name
	if host := name.NameString[len(name.NameString)-1]; len(name.NameString) > 1 {
		if other := s.library.ResolveRealm(host); other != "" && other != realm {
			wanted = types.PrincipalName{NameType: nametype.KRB_NT_SRV_INST, NameString: []string{"krbtgt", other}}
		}
	}
	for range maxReferrals {
		request, err := messages.NewTGSReq(s.name, realm, s.library, tgt.ticket, tgt.key, wanted, false)
		if err != nil {
			return nil, s.odd(err)
		}
		b, err := s.ask(ctx, realm, &request)
		if err != nil {
			return nil, s.explain(err)
		}
		var reply messages.TGSRep
		if err := reply.Unmarshal(b); err != nil {
			return nil, s.odd(err)
		}
		if err := reply.DecryptEncPart(tgt.key); err != nil {
			return nil, s.odd(err)
		}
		if ok, err := reply.Verify(s.library, request); !ok {
			return nil, s.odd(err)
		}
		got := reply.DecryptedEncPart.SName.NameString // that of the ticket is not signed
		if len(got) != 2 || got[0] != "krbtgt" {
			return &ticket{reply.Ticket, reply.DecryptedEncPart.Key, s.name, s.realm, reply.DecryptedEncPart.EndTime}, nil
		}
		realm, tgt, wanted = got[1], &ticket{ticket: reply.Ticket, key: reply.DecryptedEncPart.Key}, name
	}
	return nil, errors.New("the Kerberos servers refer from one to the other without end")
}
