// Package attestation says how a published image came to be, and signs it: in
// statements of in-toto that are stored beside the image in its registry.
package attestation

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/registry"
)

// Predicate types of the two statements.
const (
	// Provenance is that of SLSA: https://slsa.dev/spec/v1.0/provenance.
	Provenance = "https://slsa.dev/provenance/v1"
	// Signature is what cosign 3 signs images with.
	Signature = "https://sigstore.dev/cosign/sign/v1"
)

// Options say what is stated of an image and who signs it.
type Options struct {
	// Publish of the plan.
	Publish config.Publish
	// Root is the directory that files are relative to.
	Root string
	// Version of pipegen.
	Version string
	// AWS says how AWS is signed in to for a key in its KMS.
	AWS    registry.AWS
	Getenv func(string) string
	// Now is the time that certificates are compared with; nil: time.Now.
	Now func() time.Time
	// Transport sends requests to Fulcio, Rekor, the timestamp authority and
	// the CI's issuer of tokens; nil: http.DefaultTransport.
	Transport http.RoundTripper
}

// Notary states how images were made, and signs what it states. It is safe for
// concurrent use.
type Notary struct {
	options Options
	signer  signer // nil: nothing is signed
}

// Open makes the notary that the options ask for; nil, if nothing is to be
// stated or signed. A key that cannot be read, does not open with its password
// or that the KMS does not know, and an identity that the CI does not give,
// are found here, before anything is published. Errors that the user can mend
// wrap failure.ErrInput.
func Open(ctx context.Context, o Options) (*Notary, error) {
	if !o.Publish.Attest && o.Publish.Sign == nil {
		return nil, nil
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Transport == nil {
		o.Transport = http.DefaultTransport
	}
	n := &Notary{options: o}
	if o.Publish.Sign == nil {
		return n, nil
	}
	var err error
	if n.signer, err = newSigner(ctx, o); err != nil {
		return nil, fmt.Errorf("publish.sign: %w", err)
	}
	return n, nil
}

// Attend states how an image was made and signs it: first provenance, then the
// signature, each only if it is asked for and not there already. subject must
// be in the image's repository; bases is what it was built on.
func (n *Notary) Attend(ctx context.Context, c *registry.Client, p *plan.Plan, img *plan.Image, subject registry.Descriptor, bases []plan.Base) error {
	at := &store{client: c, repository: img.Repository, subject: subject, created: p.Created}
	if n.options.Publish.Attest {
		if err := n.state(ctx, at, provenance(n.options, p, img, subject, bases)); err != nil {
			return fmt.Errorf("attesting %s: %w", subject.Digest, err)
		}
	}
	if n.options.Publish.Sign != nil {
		if err := n.state(ctx, at, statement{Type: statementType, Subject: []resource{about(img, subject)}, PredicateType: Signature, Predicate: struct{}{}}); err != nil {
			return fmt.Errorf("signing %s: %w", subject.Digest, err)
		}
	}
	return nil
}

// state stores a statement: signed in a bundle of Sigstore, else as it is.
func (n *Notary) state(ctx context.Context, at *store, s statement) error {
	payload, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if n.signer == nil {
		return at.put(ctx, referrer{artifactType: payloadType, content: payload, annotations: map[string]string{predicateAnnotation: s.PredicateType}})
	}
	r := referrer{artifactType: bundleType, annotations: map[string]string{
		"dev.sigstore.bundle.content": "dsse-envelope", "dev.sigstore.bundle.predicateType": s.PredicateType,
	}}
	signed, err := n.signed(ctx, at, r, payload)
	if err != nil || signed {
		return err
	}
	b, err := seal(ctx, n.signer, payload)
	if err != nil {
		return err
	}
	if r.content, err = json.Marshal(b); err != nil {
		return err
	}
	return at.put(ctx, r)
}

// signed says whether this very statement is there, signed by this signer:
// signatures by elliptic curves differ each time, and a publication that is
// repeated would collect them.
func (n *Notary) signed(ctx context.Context, at *store, r referrer, payload []byte) (bool, error) {
	like, err := at.like(ctx, r)
	if err != nil {
		return false, err
	}
	for _, content := range like {
		if signedAlready(ctx, n.signer, content, payload) {
			return true, nil
		}
	}
	return false, nil
}
