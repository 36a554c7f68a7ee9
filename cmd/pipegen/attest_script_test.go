package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/rogpeppe/go-internal/testscript"
)

// key NAME puts a new private key into a variable.
func privateKey(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: key NAME")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	ts.Check(err)
	ts.Setenv(args[0], string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
}

// referrers PATH:TAG lists what refers to what a tag in $REGISTRY holds, by
// kind of artifact and predicate.
func listReferrers(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: referrers PATH:TAG")
	}
	ref, err := name.ParseReference(ts.Getenv("REGISTRY") + "/" + args[0])
	ts.Check(err)
	held, err := remote.Head(ref)
	ts.Check(err)
	index, err := remote.Referrers(ref.Context().Digest(held.Digest.String()))
	ts.Check(err)
	m, err := index.IndexManifest()
	ts.Check(err)
	for _, d := range m.Manifests {
		_, err = fmt.Fprintln(ts.Stdout(), d.ArtifactType, d.Annotations["dev.sigstore.bundle.predicateType"])
		ts.Check(err)
	}
}
