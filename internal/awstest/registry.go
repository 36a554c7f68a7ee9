package awstest

import (
	"encoding/json"
	"net/http"
	"regexp"
)

// manifestsOf and blobsOf are paths of the registry's protocol (OCI's
// distribution specification).
var (
	manifestsOf = regexp.MustCompile(`^/v2/(.+)/manifests/[^/]+$`)
	uploadsOf   = regexp.MustCompile(`^/v2/(.+)/blobs/uploads/(.*)$`)
	blobsOf     = regexp.MustCompile(`^/v2/(.+)/blobs/[^/]+$`)
	tagsOf      = regexp.MustCompile(`^/v2/(.+)/tags/list$`)
)

// registryAction gives what ECR asks IAM for a request of the registry's
// protocol; empty: nothing but that somebody is signed in.
func registryAction(r *http.Request) (action, repository string) {
	reading := r.Method == http.MethodGet || r.Method == http.MethodHead
	if m := manifestsOf.FindStringSubmatch(r.URL.Path); m != nil {
		switch {
		case reading:
			return "ecr:BatchGetImage", m[1]
		case r.Method == http.MethodDelete:
			return "ecr:BatchDeleteImage", m[1]
		}
		return "ecr:PutImage", m[1]
	}
	if m := uploadsOf.FindStringSubmatch(r.URL.Path); m != nil {
		switch r.Method {
		case http.MethodPost:
			return "ecr:InitiateLayerUpload", m[1]
		case http.MethodPut:
			return "ecr:CompleteLayerUpload", m[1]
		}
		return "ecr:UploadLayerPart", m[1]
	}
	if m := blobsOf.FindStringSubmatch(r.URL.Path); m != nil {
		if r.Method == http.MethodHead {
			return "ecr:BatchCheckLayerAvailability", m[1]
		}
		return "ecr:GetDownloadUrlForLayer", m[1]
	}
	if m := tagsOf.FindStringSubmatch(r.URL.Path); m != nil {
		return "ecr:ListImages", m[1]
	}
	return "", ""
}

// Registry stands before a registry as ECR in a region does: what a role may do
// there its policies say. The password, which moto gives to everybody, does not
// tell whose it is.
func (p *Proxy) Registry(role, region string, next http.Handler) http.Handler {
	who := identity{role: role, session: "test"}
	return http.HandlerFunc(func(w http.ResponseWriter, in *http.Request) {
		action, repository := registryAction(in)
		if action == "" {
			next.ServeHTTP(w, in)
			return
		}
		r := &request{Request: in, service: "ecr", region: region}
		resource := r.arn("ecr", "repository/"+repository)
		if no := p.judge(r, who, []check{{action, []string{resource}, nil}}); no != nil {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusForbidden)
			_ = json.NewEncoder(w).Encode(map[string]any{"errors": []any{map[string]string{"code": "DENIED", "message": no.message}}})
			return
		}
		next.ServeHTTP(w, in)
	})
}
