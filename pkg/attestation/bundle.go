package attestation

import (
	"context"
	"encoding/json"
)

// bundleType is the media type of Sigstore's bundles, version 0.3
// (https://docs.sigstore.dev/about/bundle/).
const bundleType = "application/vnd.dev.sigstore.bundle.v0.3+json"

// bundle holds a signed statement, and what its signature is verified by.
type bundle struct {
	MediaType            string       `json:"mediaType"`
	VerificationMaterial verification `json:"verificationMaterial"`
	Envelope             envelope     `json:"dsseEnvelope"`
}

type verification struct {
	PublicKey   *keyHint          `json:"publicKey,omitempty"`
	Certificate *rawBytes         `json:"certificate,omitempty"`
	TlogEntries []json.RawMessage `json:"tlogEntries,omitempty"`
	Timestamps  *timestamps       `json:"timestampVerificationData,omitempty"`
}

type keyHint struct {
	Hint string `json:"hint"`
}

type rawBytes struct {
	RawBytes []byte `json:"rawBytes"`
}

type timestamps struct {
	RFC3161 []signedTimestamp `json:"rfc3161Timestamps"`
}

type signedTimestamp struct {
	SignedTimestamp []byte `json:"signedTimestamp"`
}

// envelope is that of DSSE.
type envelope struct {
	Payload     []byte      `json:"payload"`
	PayloadType string      `json:"payloadType"`
	Signatures  []signature `json:"signatures"`
}

type signature struct {
	Sig []byte `json:"sig"`
}

// seal signs a statement.
func seal(ctx context.Context, s signer, payload []byte) (*bundle, error) {
	sig, by, err := s.sign(ctx, payload)
	if err != nil {
		return nil, err
	}
	b := &bundle{MediaType: bundleType, Envelope: envelope{Payload: payload, PayloadType: payloadType, Signatures: []signature{{sig}}}}
	if by.certificate != nil {
		b.VerificationMaterial.Certificate = &rawBytes{by.certificate}
	} else {
		h, err := hint(by.public)
		if err != nil {
			return nil, err
		}
		b.VerificationMaterial.PublicKey = &keyHint{h}
	}
	if by.log != nil {
		b.VerificationMaterial.TlogEntries = []json.RawMessage{by.log}
	}
	if by.timestamp != nil {
		b.VerificationMaterial.Timestamps = &timestamps{[]signedTimestamp{{by.timestamp}}}
	}
	return b, nil
}

// signedAlready says whether content is a bundle in which this signer signed
// this statement.
func signedAlready(ctx context.Context, s signer, content, payload []byte) bool {
	var b bundle
	if json.Unmarshal(content, &b) != nil || b.Envelope.PayloadType != payloadType || string(b.Envelope.Payload) != string(payload) || len(b.Envelope.Signatures) != 1 {
		return false
	}
	public, ok := s.knows(ctx, b.VerificationMaterial)
	return ok && verify(public, preAuthentication(payloadType, payload), b.Envelope.Signatures[0].Sig)
}
