package amazon_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/credentials"
)

// me is who calls, by STS.
const me = "arn:aws:sts::123456789012:assumed-role/pipegen/one"

// cloud stands in for AWS: it keeps secrets and parameters, and refuses what it
// is told to.
type cloud struct {
	mu         sync.Mutex
	secrets    map[string]*kept  // by name
	parameters map[string]string // by ARN
	// Error codes, by call; "CODE: message" and " xN" at the end for N times.
	refuse map[string]string
	calls  []string
}

type kept struct {
	text    string
	binary  []byte
	tags    map[string]string
	deleted bool
	puts    int
}

func (c *cloud) config(t *testing.T) aws.Config {
	t.Helper()
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	return aws.Config{
		Region: "eu-central-1", BaseEndpoint: &server.URL, Credentials: credentials.NewStaticCredentialsProvider("AKIATEST", "secret-key", "session"),
		Retryer: func() aws.Retryer {
			return retry.NewStandard(func(o *retry.StandardOptions) {
				o.Backoff = retry.BackoffDelayerFunc(func(int, error) (time.Duration, error) { return time.Millisecond, nil })
			})
		},
	}
}

func arnOf(name string) string {
	return "arn:aws:secretsmanager:eu-central-1:123456789012:secret:" + name + "-AbCdEf"
}

func (c *cloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	_, call, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	if call == "" {
		call = "GetCallerIdentity"
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_, region, _ := strings.Cut(r.Header.Get("Authorization"), "/")
	c.calls = append(c.calls, call+" "+strings.Split(region, "/")[1])
	if code := c.refuse[call]; code != "" {
		if rest, ok := strings.CutSuffix(code, " x1"); ok {
			delete(c.refuse, call)
			code = rest
		}
		code, message, _ := strings.Cut(code, ": ")
		w.WriteHeader(http.StatusBadRequest)
		if call == "GetCallerIdentity" {
			fmt.Fprintf(w, "<ErrorResponse><Error><Code>%s</Code><Message>%s</Message></Error></ErrorResponse>", code, message)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]string{"__type": code, "message": message})
		return
	}
	if call == "GetCallerIdentity" {
		fmt.Fprintf(w, "<GetCallerIdentityResponse><GetCallerIdentityResult><Arn>%s</Arn></GetCallerIdentityResult></GetCallerIdentityResponse>", me)
		return
	}
	var in struct {
		Name, SecretId, SecretString, VersionStage, VersionId string
		Names                                                 []string
		Tags                                                  []struct{ Key, Value string }
	}
	if err := json.Unmarshal(body, &in); err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	out, code := c.answer(call, in.Name, in.SecretId, in.SecretString, in.VersionStage+in.VersionId, in.Names)
	if call == "CreateSecret" && code == "" {
		c.secrets[in.Name].tags = map[string]string{}
		for _, t := range in.Tags {
			c.secrets[in.Name].tags[t.Key] = t.Value
		}
	}
	if code != "" {
		w.WriteHeader(http.StatusBadRequest)
		out = map[string]any{"__type": code, "message": "words of AWS"}
	}
	_ = json.NewEncoder(w).Encode(out)
}

func (c *cloud) answer(call, name, id, text, version string, names []string) (out map[string]any, code string) {
	if call == "GetParameters" {
		var found []map[string]any
		var missing []string
		for _, arn := range names {
			if value, ok := c.parameters[arn]; ok {
				found = append(found, map[string]any{"ARN": arn, "Name": arn[strings.LastIndex(arn, ":parameter")+len(":parameter"):], "Value": value})
			} else {
				missing = append(missing, arn)
			}
		}
		return map[string]any{"Parameters": found, "InvalidParameters": missing}, ""
	}
	if call == "CreateSecret" {
		if c.secrets[name] != nil {
			return nil, "ResourceExistsException"
		}
		c.secrets[name] = &kept{text: text}
		return map[string]any{"ARN": arnOf(name), "Name": name}, ""
	}
	for n, s := range c.secrets {
		if id != n && id != arnOf(n) {
			continue
		}
		switch call {
		case "DescribeSecret":
			var tags []map[string]string
			for k, v := range s.tags {
				tags = append(tags, map[string]string{"Key": k, "Value": v})
			}
			out = map[string]any{"ARN": arnOf(n), "Name": n, "Tags": tags}
			if s.deleted {
				out["DeletedDate"] = 1.7e9
			}
			return out, ""
		case "GetSecretValue":
			if s.binary != nil {
				return map[string]any{"ARN": arnOf(n), "SecretBinary": s.binary}, ""
			}
			return map[string]any{"ARN": arnOf(n), "SecretString": s.text + version}, ""
		case "PutSecretValue":
			s.text = text
			s.puts++
			return map[string]any{"ARN": arnOf(n)}, ""
		}
	}
	return nil, "ResourceNotFoundException"
}
