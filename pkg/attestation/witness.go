package attestation

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"strconv"

	"github.com/pipegen/pipegen/pkg/quote"
)

// witness has signatures attested: by the log Rekor, by an authority for
// timestamps, by both or by none.
type witness struct {
	web              web
	rekor, timestamp string // URLs; empty: not asked
}

func witnessOf(o Options) witness {
	return witness{web{o.Transport}, o.Publish.Sign.RekorURL(), o.Publish.Sign.Timestamp}
}

// attest adds what the witnesses say of the signature of a statement to its
// proof.
func (w witness) attest(ctx context.Context, by *proof, payload, sig []byte) error {
	var err error
	if w.timestamp != "" {
		if by.timestamp, err = w.stamp(ctx, sig); err != nil {
			return err
		}
	}
	if w.rekor != "" {
		by.log, err = w.record(ctx, by, payload, sig)
	}
	return err
}

// record writes a signed statement into the log
// (https://github.com/sigstore/rekor/blob/main/openapi.yaml) and gives the
// entry as bundles hold it.
func (w witness) record(ctx context.Context, by *proof, payload, sig []byte) (json.RawMessage, error) {
	what := "recording the signature in " + quote.URL(w.rekor)
	verifier, err := pemOf(*by)
	if err != nil {
		return nil, err
	}
	env, err := json.Marshal(envelope{Payload: payload, PayloadType: payloadType, Signatures: []signature{{sig}}})
	if err != nil {
		return nil, err
	}
	in := map[string]any{"apiVersion": "0.0.1", "kind": "dsse", "spec": map[string]any{
		"proposedContent": map[string]any{"envelope": string(env), "verifiers": [][]byte{verifier}},
	}}
	var entries map[string]logEntry
	add := request{method: http.MethodPost, url: w.rekor + "/api/v1/log/entries", body: in}
	header, err := w.web.ask(ctx, what, add, &entries)
	if answered, ok := errors.AsType[*statusError](err); ok && answered.status == http.StatusConflict && header.Get("Location") != "" {
		// The log has this very entry: what was published is published again.
		there, perr := url.Parse(add.url)
		if perr == nil {
			there, perr = there.Parse(header.Get("Location"))
		}
		if perr != nil || there.Host != hostOf(w.rekor) {
			return nil, err
		}
		_, err = w.web.ask(ctx, what, request{method: http.MethodGet, url: there.String()}, &entries)
	}
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		raw, err := e.bundled()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		return raw, nil
	}
	return nil, fmt.Errorf("%s: the answer holds no entry", what)
}

// logEntry is an entry as Rekor's API gives it.
type logEntry struct {
	Body           []byte `json:"body"`
	IntegratedTime int64  `json:"integratedTime"`
	LogID          string `json:"logID"`
	LogIndex       int64  `json:"logIndex"`
	Verification   struct {
		SignedEntryTimestamp []byte `json:"signedEntryTimestamp"`
		InclusionProof       *struct {
			LogIndex   int64    `json:"logIndex"`
			RootHash   string   `json:"rootHash"`
			TreeSize   int64    `json:"treeSize"`
			Hashes     []string `json:"hashes"`
			Checkpoint string   `json:"checkpoint"`
		} `json:"inclusionProof"`
	} `json:"verification"`
}

// bundled gives the entry as JSON of a TransparencyLogEntry
// (https://github.com/sigstore/protobuf-specs/blob/main/protos/sigstore_rekor.proto),
// in which 64-bit numbers are texts.
func (e logEntry) bundled() (json.RawMessage, error) {
	id, err := hex.DecodeString(e.LogID)
	if err != nil || len(id) == 0 || len(e.Body) == 0 {
		return nil, errors.New("the entry names no log or holds nothing")
	}
	var kind struct {
		Kind    string `json:"kind"`
		Version string `json:"apiVersion"`
	}
	if err := json.Unmarshal(e.Body, &kind); err != nil {
		return nil, errors.New("the entry cannot be read")
	}
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	out := map[string]any{
		"logIndex": number(e.LogIndex), "logId": map[string]any{"keyId": id},
		"kindVersion":    map[string]any{"kind": kind.Kind, "version": kind.Version},
		"integratedTime": number(e.IntegratedTime), "canonicalizedBody": e.Body,
	}
	if len(e.Verification.SignedEntryTimestamp) > 0 {
		out["inclusionPromise"] = map[string]any{"signedEntryTimestamp": e.Verification.SignedEntryTimestamp}
	}
	if p := e.Verification.InclusionProof; p != nil {
		root, err := hex.DecodeString(p.RootHash)
		if err != nil {
			return nil, errors.New("the entry's proof cannot be read")
		}
		hashes := make([][]byte, len(p.Hashes))
		for i, h := range p.Hashes {
			if hashes[i], err = hex.DecodeString(h); err != nil {
				return nil, errors.New("the entry's proof cannot be read")
			}
		}
		out["inclusionProof"] = map[string]any{
			"logIndex": number(p.LogIndex), "rootHash": root, "treeSize": number(p.TreeSize), "hashes": hashes,
			"checkpoint": map[string]any{"envelope": p.Checkpoint},
		}
	}
	return json.Marshal(out)
}

// stamp asks an authority for a timestamp of a signature (RFC 3161, 2.4).
func (w witness) stamp(ctx context.Context, sig []byte) ([]byte, error) {
	what := "asking " + quote.URL(w.timestamp) + " for a timestamp"
	type imprint struct {
		Algorithm pkix.AlgorithmIdentifier
		Hash      []byte
	}
	nonce, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 64))
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(sig)
	query, err := asn1.Marshal(struct {
		Version int
		Imprint imprint
		Nonce   *big.Int
		// Whether the authority's certificate is sent along.
		Certificate bool
	}{1, imprint{pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}, Parameters: asn1.NullRawValue}, sum[:]}, nonce, false})
	if err != nil {
		return nil, err
	}
	var answer []byte
	if _, err := w.web.ask(ctx, what, request{method: http.MethodPost, url: w.timestamp, contentType: "application/timestamp-query", body: query}, &answer); err != nil {
		return nil, err
	}
	// The answer is a status, whose first part is a number, and the timestamp.
	var outer, status asn1.RawValue
	var granted int
	rest, err := asn1.Unmarshal(answer, &outer)
	stamp := rest
	if err == nil && len(rest) == 0 {
		stamp, err = asn1.Unmarshal(outer.Bytes, &status)
	}
	if err == nil {
		_, err = asn1.Unmarshal(status.Bytes, &granted)
	}
	switch {
	case err != nil || len(rest) > 0:
		return nil, fmt.Errorf("%s: the answer cannot be read", what)
	case granted > 1 || len(stamp) == 0: // 0 is granted, 1 is granted with modifications
		return nil, fmt.Errorf("%s: it was refused with status %d", what, granted)
	}
	return answer, nil
}
