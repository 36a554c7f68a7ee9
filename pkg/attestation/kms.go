package attestation

import (
	"context"
	"crypto"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
	"github.com/pipegen/pipegen/pkg/registry"
)

// kmsKey is a key in AWS KMS, which never leaves it.
type kmsKey struct {
	client    *kms.Client
	id        string
	public    crypto.PublicKey
	algorithm types.SigningAlgorithmSpec
}

// newKMS finds the key of ENDPOINT/KEY, the rest of cosign's awskms URI: the
// endpoint is a host or empty, the key an id, alias/NAME or an ARN, whose
// region is then used. AWS is signed in to as for registries of ECR.
func newKMS(ctx context.Context, o Options, rest string) (*kmsKey, error) {
	endpoint, id, ok := strings.Cut(rest, "/")
	if !ok || id == "" {
		return nil, failure.WithHint(failure.Input("awskms://%s names no key", quote.Text(rest)), "write awskms:///alias/NAME, awskms:///ID or awskms:///ARN")
	}
	access := registry.AWSAccess(o.Publish.Sign.Access())
	region := access.Region
	if part := strings.Split(id, ":"); len(part) > 3 && part[0] == "arn" {
		region = part[3]
	}
	cfg, err := o.AWS.Config(ctx, region, access, o.Getenv)
	if err != nil {
		return nil, err
	}
	k := &kmsKey{id: id, client: kms.NewFromConfig(cfg, func(o *kms.Options) {
		if endpoint != "" {
			url := "https://" + endpoint
			o.BaseEndpoint = &url
		}
	})}
	out, err := k.client.GetPublicKey(ctx, &kms.GetPublicKeyInput{KeyId: &k.id})
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, failure.WithHint(fmt.Errorf("asking AWS KMS for the public key of %s: %s", quote.Text(id), quote.Text(err.Error())),
			"the identity that publishes needs kms:GetPublicKey and kms:Sign for this key, and AWS a region")
	}
	if k.public, err = x509.ParsePKIXPublicKey(out.PublicKey); err != nil {
		return nil, fmt.Errorf("the public key of %s: %w", quote.Text(id), err)
	}
	want := map[crypto.Hash][]types.SigningAlgorithmSpec{
		crypto.SHA256: {types.SigningAlgorithmSpecEcdsaSha256, types.SigningAlgorithmSpecRsassaPkcs1V15Sha256},
		crypto.SHA384: {types.SigningAlgorithmSpecEcdsaSha384},
		crypto.SHA512: {types.SigningAlgorithmSpecEcdsaSha512},
	}[hashOf(k.public)]
	for _, a := range want {
		if slices.Contains(out.SigningAlgorithms, a) {
			k.algorithm = a
			return k, nil
		}
	}
	return nil, failure.WithHint(failure.Input("the key %s cannot sign images", quote.Text(id)), "use a key for SIGN_VERIFY, of ECC_NIST_P256 say")
}

func (k *kmsKey) Public() crypto.PublicKey { return k.public }

func (k *kmsKey) signDigest(ctx context.Context, digest []byte, _ crypto.Hash) ([]byte, error) {
	out, err := k.client.Sign(ctx, &kms.SignInput{KeyId: &k.id, Message: digest, MessageType: types.MessageTypeDigest, SigningAlgorithm: k.algorithm})
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("signing with %s in AWS KMS: %s", quote.Text(k.id), quote.Text(err.Error()))
	}
	return out.Signature, nil
}
