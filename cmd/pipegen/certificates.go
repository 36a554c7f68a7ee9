package main

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/pipegen/pipegen/pkg/engine"
	"github.com/pipegen/pipegen/pkg/failure"
)

// localCA is the variable with the authority of a private network.
const localCA = "LOCAL_CA_CERTIFICATE"

// maxCertificates bounds what is read of a file with certificates, in bytes.
const maxCertificates = 8 << 20

// trustLocalCA makes everything in this process, and what it starts, trust the
// authority of LOCAL_CA_CERTIFICATE beside those it trusts already: it writes
// them all into one file and names that in the variables that Go, git, curl,
// AWS and others read. Go reads them when it first needs them, so this comes
// before that. untrust removes the file.
func (a *app) trustLocalCA() error {
	value := a.getenv(localCA)
	if value == "" {
		return nil
	}
	own, err := readCA(value)
	if err != nil {
		return failure.WithHint(failure.Input("%s: %w", localCA, err), "it wants certificates in PEM (-----BEGIN CERTIFICATE-----), or the path of a file with them")
	}
	// Kaniko deletes everything else of the container that was made for it.
	dir := ""
	if _, err := os.Stat("/kaniko/executor"); err == nil {
		dir = "/kaniko"
	}
	f, err := os.CreateTemp(dir, "pipegen-certificates-*.pem")
	if err != nil {
		return fmt.Errorf("writing certificates: %w", err)
	}
	if a.bundle, err = filepath.Abs(f.Name()); err != nil {
		return err
	}
	variables, trusted := trustedNow(a.getenv)
	_, err = f.Write(append(trusted, own...))
	// Not a secret: scripts may run as somebody else.
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return fmt.Errorf("writing certificates: %w", err)
	}
	for _, name := range variables {
		if err := os.Setenv(name, a.bundle); err != nil {
			return err
		}
	}
	return nil
}

// untrust removes what trustLocalCA wrote.
func (a *app) untrust() {
	if a.bundle != "" {
		_ = os.Remove(a.bundle)
	}
}

// readCA gives the certificates that a text in PEM holds, or the file that it
// is the path of. Errors do not show it.
func readCA(value string) ([]byte, error) {
	text := []byte(value)
	if !strings.Contains(value, "-----BEGIN") {
		var err error
		if text, err = readSmall(value); err != nil {
			return nil, fmt.Errorf("neither PEM nor the path of a file that can be read: %w", err)
		}
	}
	var out bytes.Buffer
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if strings.Contains(block.Type, "PRIVATE KEY") {
			return nil, errors.New("it holds a private key, which belongs to nobody but its server")
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("it holds something else than certificates: %.40q", block.Type)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return nil, errors.New("a certificate in it is broken")
		}
		if err := pem.Encode(&out, &pem.Block{Type: block.Type, Bytes: block.Bytes}); err != nil {
			return nil, err
		}
	}
	switch {
	case bytes.Contains(text, []byte("-----BEGIN")):
		return nil, errors.New("a certificate in it is cut short or garbled")
	case out.Len() == 0:
		return nil, errors.New("there is no certificate in it")
	}
	return out.Bytes(), nil
}

func readSmall(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, withoutPath(err)
	}
	defer f.Close()
	var b bytes.Buffer
	if info, err := f.Stat(); err == nil && info.Size() <= maxCertificates {
		b.Grow(int(info.Size()) + bytes.MinRead)
	}
	_, err = b.ReadFrom(io.LimitReader(f, maxCertificates+1))
	if err == nil && b.Len() > maxCertificates {
		err = fmt.Errorf("larger than %d MiB", maxCertificates>>20)
	}
	return b.Bytes(), withoutPath(err)
}

func withoutPath(err error) error {
	if at, ok := errors.AsType[*os.PathError](err); ok {
		return at.Err
	}
	return err
}

// Where systems keep the authorities that they trust, files and directories
// (crypto/x509/root_linux.go), and Kaniko's images theirs.
var (
	systemBundles = []string{
		"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem",
		"/etc/pki/tls/cacert.pem", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/cert.pem",
	}
	systemCertificates = []string{"/etc/ssl/certs", "/etc/pki/tls/certs", "/kaniko/ssl/certs"}
)

// trustedNow gives the certificates that programs trust now: what the variables
// name, or else the system's. The variables are those that a bundle of them can
// stand in for: not one that names a directory.
func trustedNow(getenv func(string) string) (variables []string, certificates []byte) {
	var out []byte
	seen := map[string]bool{}
	add := func(path string) bool {
		file, err := readSmall(path)
		if err != nil {
			return false
		}
		text, found := string(file), false
		out = slices.Grow(out, len(text))
		for certificate := range certificatesIn(text) {
			found = true
			if !seen[certificate] {
				seen[certificate] = true
				out = append(append(out, certificate...), '\n')
			}
		}
		return found
	}
	known := add(getenv("SSL_CERT_FILE")) // what it names stands in for the system's
	for _, name := range engine.CertificateFiles() {
		file := getenv(name)
		if info, err := os.Stat(file); err == nil && info.IsDir() && name != "SSL_CERT_FILE" {
			continue
		}
		if file != getenv("SSL_CERT_FILE") {
			add(file)
		}
		variables = append(variables, name)
	}
	dirs := filepath.SplitList(getenv("SSL_CERT_DIR"))
	if !known && !slices.ContainsFunc(systemBundles, add) && len(dirs) == 0 {
		dirs = systemCertificates
	}
	for _, dir := range dirs {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			add(filepath.Join(dir, e.Name()))
		}
	}
	return variables, out
}

// certificatesIn gives the certificates in a text as they are, and nothing
// else of it, such as private keys.
func certificatesIn(text string) iter.Seq[string] {
	const begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
	return func(yield func(string) bool) {
		for {
			i := strings.Index(text, begin)
			if i < 0 {
				return
			}
			text = text[i:]
			n := strings.Index(text, end)
			if n < 0 || !yield(text[:n+len(end)]) {
				return
			}
			text = text[n+len(end):]
		}
	}
}
