package access

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

func request(authorization ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/tunnel", http.NoBody)
	for _, a := range authorization {
		r.Header.Add("Authorization", a)
	}
	return r
}

// withCert adds a client certificate as crypto/tls would leave it.
func withCert(r *http.Request, verified bool, cn string, sans ...string) *http.Request {
	leaf := &x509.Certificate{Subject: pkix.Name{CommonName: cn}}
	for _, san := range sans {
		if u, err := url.Parse(san); err == nil && u.Scheme != "" {
			leaf.URIs = append(leaf.URIs, u)
		} else {
			leaf.DNSNames = append(leaf.DNSNames, san)
		}
	}
	r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}
	if verified {
		r.TLS.VerifiedChains = [][]*x509.Certificate{{leaf, {}}}
	}
	return r
}

func TestAuthenticate(t *testing.T) {
	s, err := NewStore([]Entry{
		{Name: "alice", SHA256: HashToken("token-alice")},
		{Name: "bob", SHA256: HashToken("token-bob")},
		{Name: "both", SHA256: HashToken("token-both"), Certificate: "both.example"},
		{Name: "anycert", SHA256: HashToken("token-anycert"), Certificate: "*"},
		{Name: "cn", Certificate: "Agent 7"},
		{Name: "dns", Certificate: "Agent.example"},
		{Name: "uri", Certificate: "spiffe://example/agent"},
	})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		r    *http.Request
		want string // identity, or error text
	}{
		{"token", request("Bearer token-alice"), "alice"},
		{"scheme in any case", request("bEARER   token-bob "), "bob"},
		{"nothing", request(), "no credentials: neither"},
		{"unknown token", request("Bearer token-mallory"), "bad credentials: unknown token"},
		{"digest as token", request("Bearer " + HashToken("token-alice").String()), "bad credentials: unknown token"},
		{"empty token", request("Bearer "), "bad credentials: malformed"},
		{"no token", request("Bearer"), "bad credentials: malformed"},
		{"two tokens in one", request("Bearer token-alice token-bob"), "bad credentials: malformed"},
		{"huge token", request("Bearer " + strings.Repeat("a", 5000)), "bad credentials: malformed"},
		{"two headers", request("Bearer token-alice", "Bearer token-alice"), "bad credentials: 2 Authorization headers"},
		{"other scheme", request("Basic dG9rZW4tYWxpY2U="), "bad credentials: the Authorization header's scheme"},
		{"empty header", request(""), "bad credentials: the Authorization header's scheme"},

		{"token and certificate", withCert(request("Bearer token-both"), true, "", "both.example"), "both"},
		{"token without its certificate", request("Bearer token-both"), `bad credentials: the token of "both" without`},
		{"token with another certificate", withCert(request("Bearer token-both"), true, "other"), `bad credentials: the token of "both" without`},
		{"token with an unverified certificate", withCert(request("Bearer token-both"), false, "", "both.example"), `bad credentials: the token of "both" without`},
		{"its certificate without token", withCert(request(), true, "both.example"), "bad credentials: client certificate \"both.example\" fits no entry"},
		{"token with any certificate", withCert(request("Bearer token-anycert"), true, "x"), "anycert"},
		{"token without any certificate", request("Bearer token-anycert"), "bad credentials"},

		{"common name", withCert(request(), true, "Agent 7"), "cn"},
		{"common name in other case", withCert(request(), true, "agent 7"), "bad credentials: client certificate \"agent 7\" fits no entry"},
		{"DNS name", withCert(request(), true, "", "other.example", "AGENT.example"), "dns"},
		{"URI", withCert(request(), true, "x", "spiffe://example/agent"), "uri"},
		{"unverified", withCert(request(), false, "Agent 7"), "no credentials"},
		{"ambiguous", withCert(request(), true, "Agent 7", "agent.example"), `fits entries "cn" and "dns"`},
		{"nameless", withCert(request(), true, ""), "client certificate without a name fits no entry"},
		{"good certificate, bad token", withCert(request("Bearer token-mallory"), true, "Agent 7"), "bad credentials: unknown token"},
		{"token and an unrelated certificate", withCert(request("Bearer token-alice"), true, "whoever"), "alice"},
	}
	for _, tt := range tests {
		id, err := s.Authenticate(tt.r)
		switch {
		case err == nil:
			if id.Name != tt.want {
				t.Errorf("%s: %s, want %s", tt.name, id.Name, tt.want)
			}
		case id.Name != "" || !strings.Contains(err.Error(), tt.want):
			t.Errorf("%s: %v, want %s", tt.name, err, tt.want)
		case errors.Is(err, ErrNoCredentials) == errors.Is(err, ErrBadCredentials):
			t.Errorf("%s: %v wraps not exactly one of the sentinels", tt.name, err)
		case strings.Contains(strings.ReplaceAll(err.Error(), "token of", ""), "token-"):
			t.Errorf("%s: the error has the token: %v", tt.name, err)
		}
	}
}

func TestAuthenticateAnyCertificateComesLast(t *testing.T) {
	s, err := NewStore([]Entry{{Name: "general", Certificate: "*"}, {Name: "special", Certificate: "a"}})
	if err != nil {
		t.Fatal(err)
	}
	for cn, want := range map[string]string{"a": "special", "b": "general", "": "general", "*": "general"} {
		if id, err := s.Authenticate(withCert(request(), true, cn)); err != nil || id.Name != want {
			t.Errorf("%q: %s, %v, want %s", cn, id.Name, err, want)
		}
	}
}

func TestAuthenticateAnyone(t *testing.T) {
	s, err := NewStore([]Entry{{Name: "anonymous", Anyone: true, Policy: Policy{Connect: mustRules(t, "a:1")}, Limits: Limits{Streams: 3}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []*http.Request{request(), request("Bearer whatever"), request("Basic x", "y"), withCert(request(), false, "x")} {
		id, err := s.Authenticate(r)
		if err != nil || id.Name != "anonymous" || len(id.Policy.Connect) != 1 || id.Limits.Streams != 3 {
			t.Errorf("got %+v, %v", id, err)
		}
	}
	empty, err := NewStore(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := empty.Authenticate(request("Bearer whatever")); !errors.Is(err, ErrBadCredentials) {
		t.Errorf("an empty store: %v", err)
	}
}

func TestRefuseIsAlwaysTheSame(t *testing.T) {
	w := httptest.NewRecorder()
	Refuse(w)
	if w.Code != http.StatusUnauthorized || w.Body.String() != "401 unauthorized\n" || w.Header().Get("WWW-Authenticate") == "" {
		t.Errorf("got %d %q %v", w.Code, w.Body, w.Header())
	}
}
