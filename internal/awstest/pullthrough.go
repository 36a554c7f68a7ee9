package awstest

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// isPullThrough says whether a request is about rules of ECR for other
// registries' images, of which moto knows nothing.
func (r *request) isPullThrough() bool {
	return r.service == "ecr" && strings.Contains(r.operation, "PullThroughCacheRule")
}

// pullThrough answers a request about such rules: each is what it was made with,
// by its prefix.
func (p *Proxy) pullThrough(w http.ResponseWriter, r *request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	prefix := r.text("ecrRepositoryPrefix")
	rule := p.rules[prefix]
	answer := any(nil)
	switch {
	case r.operation == "DescribePullThroughCacheRules":
		found := []map[string]any{}
		for _, prefix := range slices.Sorted(maps.Keys(p.rules)) {
			if asked := r.texts("ecrRepositoryPrefixes"); len(asked) == 0 || slices.Contains(asked, prefix) {
				found = append(found, p.rules[prefix])
			}
		}
		if len(found) == 0 && len(r.texts("ecrRepositoryPrefixes")) > 0 {
			refuse(w, r, refusal{code: "PullThroughCacheRuleNotFoundException", message: "The pull through cache rule was not found."})
			return
		}
		answer = map[string]any{"pullThroughCacheRules": found}
	case r.operation == "CreatePullThroughCacheRule" && rule == nil:
		p.rules[prefix] = r.input
		answer = r.input
	case r.operation == "CreatePullThroughCacheRule":
		refuse(w, r, refusal{code: "PullThroughCacheRuleAlreadyExistsException", message: "The pull through cache rule with prefix '" + prefix + "' already exists."})
		return
	case rule == nil:
		refuse(w, r, refusal{code: "PullThroughCacheRuleNotFoundException", message: "The pull through cache rule was not found."})
		return
	case r.operation == "UpdatePullThroughCacheRule":
		rule["credentialArn"] = r.input["credentialArn"]
		answer = rule
	case r.operation == "DeletePullThroughCacheRule":
		delete(p.rules, prefix)
		answer = rule
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	_ = json.NewEncoder(w).Encode(answer)
}
