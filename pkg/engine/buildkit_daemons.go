package engine

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// patience is how long a daemon may take to answer; one in a container is
// reached by the start of a program.
const (
	patience          = 3 * time.Second
	containerPatience = 15 * time.Second
)

// daemons gives the addresses of running daemons, in the order in which this
// build asks them; none: it starts one of its own. Of several the order is that
// of rendezvous hashing (highest random weight): the same for one image and
// platform each time, and when a daemon comes or goes, only the images that
// were on it move. An address that is not to be used is a failure.ErrInput.
func daemons(j *Job) ([]string, error) {
	settings := j.Plan.BuildKit
	addresses, from := settings.Addresses, "buildkit.addresses"
	if host := j.Getenv("BUILDKIT_HOST"); host != "" {
		addresses, from = []string{host}, "BUILDKIT_HOST"
	}
	for _, a := range addresses {
		if problem, hint := settings.BadAddress(a); problem != "" {
			return nil, failure.WithHint(failure.Input("%s: %s %s", from, quote.Text(quote.URL(a)), problem), "%s", hint)
		}
	}
	weight := func(address string) uint64 {
		sum := sha256.Sum256([]byte(address + "\x00" + j.Build.ID))
		return binary.BigEndian.Uint64(sum[:])
	}
	order := slices.Clone(addresses)
	slices.SortFunc(order, func(a, b string) int {
		return cmp.Or(cmp.Compare(weight(b), weight(a)), strings.Compare(a, b))
	})
	return slices.Compact(order), nil
}

// connection gives buildctl's flags for a daemon: for the chosen one, or as
// long as none is, for the first that is asked.
func (k *buildkit) connection(j *Job) []string {
	address := k.address
	if address == "" {
		if all, err := daemons(j); err == nil && len(all) > 0 {
			address = all[0]
		} else {
			address = "unix://buildkitd.sock"
		}
	}
	flags := []string{"--addr", address}
	if s := j.Plan.BuildKit; scheme(address) == "tcp" && s.Cert != "" {
		flags = append(flags, "--tlscacert", certificate(j, s.CACert), "--tlscert", certificate(j, s.Cert), "--tlskey", certificate(j, s.Key))
	}
	return flags
}

// certificate gives the path of a file with a certificate or a key: $NAME names
// a variable that holds it; a relative path is below the checkout.
func certificate(j *Job, path string) string {
	if name, ok := strings.CutPrefix(path, "$"); ok {
		path = j.Getenv(name)
	}
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(j.Root, filepath.FromSlash(path))
}

// credentials reads the certificates for a daemon; nil: it is not reached by
// TLS.
func credentials(j *Job, address string) (*tls.Config, error) {
	s := j.Plan.BuildKit
	if scheme(address) != "tcp" || s.Cert == "" {
		return nil, nil
	}
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	for _, f := range []struct{ key, value string }{{"ca_cert", s.CACert}, {"cert", s.Cert}, {"key", s.Key}} {
		if certificate(j, f.value) == "" {
			return nil, failure.Input("buildkit.%s: environment variable %s is not set", f.key, strings.TrimPrefix(f.value, "$"))
		}
	}
	ca, err := os.ReadFile(certificate(j, s.CACert))
	if err != nil {
		return nil, failure.Input("buildkit.ca_cert: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, failure.Input("buildkit.ca_cert: %s holds no certificate", certificate(j, s.CACert))
	}
	pair, err := tls.LoadX509KeyPair(certificate(j, s.Cert), certificate(j, s.Key))
	if err != nil {
		return nil, failure.Input("buildkit.cert and buildkit.key: %w", err)
	}
	return &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}, ServerName: u.Hostname(), MinVersion: tls.VersionTLS12}, nil
}

// fit says how well a daemon can build for a platform.
type fit int

const (
	unable   fit = iota // only without RUN
	emulated            // by an interpreter
	native
)

// fitOf compares a platform with those of a daemon's worker, of which the first
// is its own.
func fitOf(want config.Platform, has []config.Platform) fit {
	for _, p := range has {
		if p.OS != want.OS || p.Arch != want.Arch {
			continue
		}
		if p.Arch == has[0].Arch {
			return native
		}
		return emulated
	}
	return unable
}

// choose gives the first daemon that answers and runs natively on the platform
// of the build; without one the first that can emulate it; else the first that
// answers. The daemons that were tried without success are not asked.
func (k *buildkit) choose(ctx context.Context, b *building, tried []string) (string, error) {
	order, err := daemons(b.Job)
	if err != nil {
		return "", err
	}
	var best string
	bestFit := fit(-1)
	var silent []error
	for _, address := range order {
		if slices.Contains(tried, address) {
			continue
		}
		platforms, err := k.workers(ctx, b, address)
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		if errors.Is(err, failure.ErrInput) {
			return "", err
		}
		if err != nil {
			err = fmt.Errorf("the BuildKit daemon %s %w", quote.Text(quote.URL(address)), err)
			if len(order) > 1 {
				b.log.say(err.Error())
			}
			silent = append(silent, err)
			continue
		}
		f := fitOf(b.Platform, platforms)
		if f > bestFit {
			best, bestFit = address, f
		}
		if f == native {
			break
		}
	}
	if best == "" {
		if len(silent) == 0 {
			return "", errNoneLeft
		}
		return "", failure.WithHint(errors.Join(silent...), "start it, or name another one in BUILDKIT_HOST or buildkit.addresses")
	}
	return best, nil
}

// errNoneLeft says that every daemon was tried.
var errNoneLeft = errors.New("there is no other BuildKit daemon")

// workers asks a daemon for the platforms of its workers.
func (k *buildkit) workers(ctx context.Context, b *building, address string) ([]config.Platform, error) {
	switch scheme(address) {
	case "unix", "tcp":
		secure, err := credentials(b.Job, address)
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("did not answer within %s", patience))
		defer cancel()
		return listWorkers(ctx, address, secure)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, containerPatience, fmt.Errorf("did not answer within %s", containerPatience))
	defer cancel()
	return askWorkers(ctx, Command{
		Argv: []string{b.Program, "--addr", address, "debug", "workers", "--format", "{{json .}}"},
		Env:  buildctlEnv(b.Prepared, address), Dir: b.HostDir,
	})
}
