package awstest

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

var signedHeaders = regexp.MustCompile(`SignedHeaders=([a-z0-9;-]+)`)

// misSigned says of a request to another service than S3, whose server checks
// its own, that who holds the key did not sign it as it is.
func (r *request) misSigned(secret string) *refusal {
	no := &refusal{
		"SignatureDoesNotMatch",
		"The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method. Consult the service documentation for details.",
		http.StatusForbidden,
	}
	m := signedHeaders.FindStringSubmatch(r.Header.Get("Authorization"))
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if m == nil || err != nil {
		return no
	}
	again, err := http.NewRequestWithContext(r.Context(), r.Method, "http://"+r.Host+r.URL.RequestURI(), http.NoBody)
	if err != nil {
		return no
	}
	names := strings.Split(m[1], ";")
	for _, name := range names {
		if values := r.Header.Values(name); len(values) > 0 {
			again.Header[http.CanonicalHeaderKey(name)] = values
		}
	}
	again.Host = r.Host
	if slices.Contains(names, "content-length") {
		n, _ := strconv.ParseInt(r.Header.Get("Content-Length"), 10, 64)
		if n == 0 {
			n = int64(len(r.body))
		}
		again.ContentLength = n
		again.Header.Del("Content-Length")
	}
	sum := sha256.Sum256(r.body)
	who := aws.Credentials{AccessKeyID: r.key, SecretAccessKey: secret, SessionToken: r.Header.Get("X-Amz-Security-Token")}
	if err := v4.NewSigner().SignHTTP(r.Context(), who, again, hex.EncodeToString(sum[:]), r.scope, r.region, at); err != nil {
		return no
	}
	if again.Header.Get("Authorization") != r.Header.Get("Authorization") {
		return no
	}
	return nil
}
