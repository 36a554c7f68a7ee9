//go:build e2e

package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// authority signs certificates for loopback that nobody trusts unasked.
type authority struct {
	pem []byte
	// Files with its own certificate, and with one that it has signed and the
	// key of that, which serve servers and clients.
	file, cert, key string
	pair            tls.Certificate
}

// newAuthority makes an authority whose files are there until the test ends.
func newAuthority(t *testing.T) *authority {
	t.Helper()
	dir := scratch(t)
	a := &authority{file: filepath.Join(dir, "ca.pem"), cert: filepath.Join(dir, "cert.pem"), key: filepath.Join(dir, "key.pem")}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Private authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "loopback"},
		NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.ParseIP(nodeAddress)}, DNSNames: []string{"localhost"},
	}
	caKey, caErr := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	leafKey, leafErr := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err := errors.Join(caErr, leafErr); err != nil {
		t.Fatal(err)
	}
	caDER, caErr := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	leafDER, leafErr := x509.CreateCertificate(rand.Reader, leaf, ca, leafKey.Public(), caKey)
	keyDER, keyErr := x509.MarshalECPrivateKey(leafKey)
	if err := errors.Join(caErr, leafErr, keyErr); err != nil {
		t.Fatal(err)
	}
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER})
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leafDER})
	key := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
	var err error
	if a.pair, err = tls.X509KeyPair(cert, key); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(
		os.WriteFile(a.file, a.pem, 0o644), os.WriteFile(a.cert, cert, 0o644), os.WriteFile(a.key, key, 0o600),
	); err != nil {
		t.Fatal(err)
	}
	return a
}

// serve serves over TLS on a free port of loopback until the test ends, and
// gives HOST:PORT.
func (a *authority) serve(t *testing.T, handler http.Handler) string {
	t.Helper()
	return a.serveOn(t, "127.0.0.1", handler)
}

// serveOn is serve on another address.
func (a *authority) serveOn(t *testing.T, address string, handler http.Handler) string {
	t.Helper()
	listener, err := tls.Listen("tcp", net.JoinHostPort(address, "0"), &tls.Config{Certificates: []tls.Certificate{a.pair}, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0)}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return listener.Addr().String()
}

// transport trusts the authority alone.
func (a *authority) transport() http.RoundTripper {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(bytes.Clone(a.pem))
	return &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
}
