package main

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/netip"
	"net/url"
	"strings"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// nearURL is how agents on this machine reach the controller: where it listens,
// or where it has a certificate by one of the certificate's names. It fills in
// the URL for others if none is given.
func (a *app) nearURL(s *serving, addr net.Addr, certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)) (string, error) {
	own := ownURL(addr, certificate != nil)
	if certificate == nil {
		s.url = cmp.Or(s.url, own)
		return own, nil
	}
	pair, err := certificate(nil)
	if err != nil {
		return "", err
	}
	at, err := url.Parse(own)
	if err != nil {
		return "", err
	}
	if s.url == "" {
		name := nameOf(pair.Leaf, at.Hostname())
		if name == "" {
			return "", failure.WithHint(failure.Input("the certificate in %s names no host", s.tlsCert), "--url https://HOST:PORT says how agents reach the controller")
		}
		at.Host = net.JoinHostPort(name, at.Port())
		s.url = at.String()
		return s.url, nil
	}
	if at, err = url.Parse(s.url); err != nil || at.Scheme != "https" {
		return "", failure.Input("--url %s: the controller speaks TLS, so that has to be https://HOST", quote.URL(s.url))
	}
	if err := pair.Leaf.VerifyHostname(at.Hostname()); err != nil {
		a.warn("agents reach the controller by " + quote.URL(s.url) + ", and its certificate is not for that: " + err.Error())
	}
	return s.url, nil
}

// nameOf gives a host that a certificate is for: the one that is preferred if
// it is for that; empty: there is none without a wildcard.
func nameOf(certificate *x509.Certificate, preferred string) string {
	if certificate.VerifyHostname(preferred) == nil {
		return preferred
	}
	for _, name := range certificate.DNSNames {
		if !strings.Contains(name, "*") {
			return name
		}
	}
	for _, ip := range certificate.IPAddresses {
		return ip.String()
	}
	return ""
}

// ownURL is where a controller on this machine answers.
func ownURL(addr net.Addr, tls bool) string {
	host, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return ""
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	if tls {
		return "https://" + net.JoinHostPort(host, port)
	}
	return "http://" + net.JoinHostPort(host, port)
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}
