package awstest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httputil"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// s3 takes a request on. Whether an object is missing S3 tells only to who may
// list the bucket.
func (p *Proxy) s3(w http.ResponseWriter, r *request, who identity) {
	if p.policies != nil && !slices.Contains(p.unlimited, who.role) && (r.operation == "GetObject" || r.operation == "HeadObject") {
		bucket := "arn:aws:s3:::" + r.bucket
		if _, ok := allowed(p.policies[who.role], "s3:ListBucket", bucket, nil); !ok {
			w = &secretive{ResponseWriter: w, refuse: func(w http.ResponseWriter) { refuse(w, r, r.denied(who, "s3:ListBucket", bucket)) }}
		}
	}
	p.toS3.ServeHTTP(w, r.Request)
}

// secretive answers 403 in the place of 404.
type secretive struct {
	http.ResponseWriter
	refuse  func(http.ResponseWriter)
	refused bool
}

func (s *secretive) WriteHeader(status int) {
	if status == http.StatusNotFound {
		s.refused = true
		s.Header().Del("Content-Length")
		s.refuse(s.ResponseWriter)
		return
	}
	s.ResponseWriter.WriteHeader(status)
}

func (s *secretive) Write(data []byte) (int, error) {
	if s.refused {
		return len(data), nil
	}
	return s.ResponseWriter.Write(data)
}

// Unwrap lets bodies be flushed.
func (s *secretive) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// ecs takes a request on as moto understands it, and amends the answer.
func (p *Proxy) ecs(w http.ResponseWriter, r *request) {
	answer, no := p.tasks.again(r)
	if no != nil {
		refuse(w, r, *no)
		return
	}
	status, header := http.StatusOK, http.Header{"Content-Type": {"application/x-amz-json-1.1"}}
	if answer == nil {
		provider, err := r.adapt()
		if err == nil {
			status, header, answer, err = p.ask(r)
		}
		if err == nil && r.operation == "StopTask" && status == http.StatusInternalServerError { // at which moto breaks down
			refuse(w, r, refusal{code: "InvalidParameterException", message: "The referenced task was not found."})
			return
		}
		if err == nil && status == http.StatusOK {
			answer, err = p.amend(r, provider, answer)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
	}
	copyHeader(w.Header(), header)
	w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
	w.WriteHeader(status)
	_, _ = w.Write(answer)
}

var accessKey = regexp.MustCompile(`<AccessKeyId>([^<]+)</AccessKeyId>`)

// sts says who asks, which moto does not know, or takes a request on and
// remembers whose keys it gave.
func (p *Proxy) sts(w http.ResponseWriter, r *request, who identity) {
	if r.operation == "GetCallerIdentity" {
		w.Header().Set("Content-Type", "text/xml")
		_, _ = fmt.Fprintf(w, `<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult><Arn>%s</Arn><UserId>AROATEST:%s</UserId><Account>%s</Account></GetCallerIdentityResult><ResponseMetadata><RequestId>%s</RequestId></ResponseMetadata></GetCallerIdentityResponse>`,
			escape(who.arn()), escape(who.session), Account, requestID)
		return
	}
	status, header, answer, err := p.ask(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	if m := accessKey.FindSubmatch(answer); m != nil && strings.HasPrefix(r.operation, "AssumeRole") {
		arn := r.text("RoleArn")
		p.mu.Lock()
		p.keys[string(m[1])] = identity{role: strings.TrimPrefix(arn[strings.LastIndexByte(arn, '/')+1:], "pipegen-"), session: r.text("RoleSessionName")}
		p.mu.Unlock()
	}
	copyHeader(w.Header(), header)
	w.WriteHeader(status)
	_, _ = w.Write(answer)
}

// ask sends a request to the emulator.
func (p *Proxy) ask(r *request) (status int, header http.Header, answer []byte, err error) {
	out := r.Clone(context.WithoutCancel(r.Context())) // what was begun is done, as in AWS
	out.URL.Scheme, out.URL.Host, out.RequestURI = p.api.Scheme, p.api.Host, ""
	out.Header.Del("Accept-Encoding")
	response, err := p.client.Do(out)
	if err != nil {
		return 0, nil, nil, err
	}
	defer func() { _ = response.Body.Close() }()
	answer, err = io.ReadAll(response.Body)
	return response.StatusCode, response.Header, answer, err
}

func copyHeader(to, from http.Header) {
	for name, values := range from {
		if name != "Content-Length" && name != "Connection" && name != "Date" {
			to[name] = values
		}
	}
}

// forward gives what takes requests on.
func (p *Proxy) forward(to *url.URL) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Transport: p.client.Transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = to.Scheme, to.Host
			r.Out.Host = r.In.Host // which is signed
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
}

// byName names parameters as moto knows them, which takes no ARNs.
func (r *request) byName() error {
	given := maps.Clone(r.input)
	var names []string
	for _, name := range r.texts("Names") {
		if _, path, ok := strings.Cut(name, ":parameter/"); ok {
			name = path
			if strings.Contains(path, "/") {
				name = "/" + path
			}
		}
		names = append(names, name)
	}
	given["Names"] = names
	body, err := json.Marshal(given)
	r.Request.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return err
}

// quota answers for a quota, of which moto has none of Fargate's.
func (p *Proxy) quota(w http.ResponseWriter, r *request) {
	value, ok := p.quotas[r.text("QuotaCode")]
	if !ok {
		value = 6 // as new accounts have it
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	_ = json.NewEncoder(w).Encode(map[string]any{"Quota": map[string]any{"ServiceCode": r.text("ServiceCode"), "QuotaCode": r.text("QuotaCode"), "Value": value}})
}
