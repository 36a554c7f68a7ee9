package awstest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Policy is a policy of IAM, as far as those of deploy/terraform go.
type Policy struct {
	// Of its file, such as controller.
	Name string `json:"-"`

	Version   string
	Statement []Statement
}

// Statement grants, or refuses, actions on resources.
type Statement struct {
	Sid, Effect      string
	Action, Resource Words
	// Keys and values by operator.
	Condition map[string]map[string]Words
}

// Words are one text or several, as IAM writes them.
type Words []string

// UnmarshalJSON reads a text or a list of them.
func (w *Words) UnmarshalJSON(data []byte) error {
	var one string
	if err := json.Unmarshal(data, &one); err == nil {
		*w = Words{one}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(w))
}

// ParsePolicy reads a policy that is attached to a role. What it does not know
// (NotAction, principals, other operators) is an error, for what is not
// understood cannot be checked.
func ParsePolicy(data []byte) (Policy, error) {
	var p Policy
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		return p, fmt.Errorf("reading a policy: %w", err)
	}
	if p.Version != "2012-10-17" {
		return p, fmt.Errorf("a policy has the version %q", p.Version)
	}
	for _, s := range p.Statement {
		if s.Effect != "Allow" && s.Effect != "Deny" || len(s.Action) == 0 || len(s.Resource) == 0 {
			return p, fmt.Errorf("the statement %q lacks an effect, an action or a resource", s.Sid)
		}
		for operator := range s.Condition {
			if operators[base(operator)] == nil {
				return p, fmt.Errorf("the statement %q has the condition %s", s.Sid, operator)
			}
		}
	}
	return p, nil
}

// operators compare what a request has with what a condition wants.
var operators = map[string]func(has, want string) bool{
	"StringEquals":    func(has, want string) bool { return has == want },
	"StringNotEquals": func(has, want string) bool { return has != want },
	"StringLike":      func(has, want string) bool { return like(want, has) },
	"ArnEquals":       func(has, want string) bool { return like(want, has) },
	"ArnLike":         func(has, want string) bool { return like(want, has) },
	"Bool":            strings.EqualFold,
}

// base takes the quantifier and IfExists off an operator.
func base(operator string) string {
	operator = strings.TrimPrefix(strings.TrimPrefix(operator, "ForAllValues:"), "ForAnyValue:")
	return strings.TrimSuffix(operator, "IfExists")
}

// holds says whether a condition holds for a request's keys.
func holds(operator string, has []string, want Words) bool {
	compare := operators[base(operator)]
	match := func(value string) bool {
		return slices.ContainsFunc(want, func(w string) bool { return compare(value, w) })
	}
	if base(operator) == "StringNotEquals" {
		match = func(value string) bool { return !slices.Contains(want, value) }
	}
	switch {
	case strings.HasPrefix(operator, "ForAllValues:"):
		return !slices.ContainsFunc(has, func(v string) bool { return !match(v) })
	case len(has) == 0:
		return strings.HasSuffix(operator, "IfExists") || base(operator) == "StringNotEquals"
	default:
		return slices.ContainsFunc(has, match)
	}
}

// applies says whether a statement is about an action on a resource.
func (s Statement) applies(action, resource string, context map[string][]string) bool {
	is := func(pattern, text string) bool { return like(strings.ToLower(pattern), strings.ToLower(text)) }
	if !slices.ContainsFunc(s.Action, func(p string) bool { return is(p, action) }) ||
		!slices.ContainsFunc(s.Resource, func(p string) bool { return like(p, resource) }) {
		return false
	}
	for operator, keys := range s.Condition {
		for key, want := range keys {
			if !holds(operator, lookUp(context, key), want) {
				return false
			}
		}
	}
	return true
}

// lookUp finds a key of a condition, in which case does not matter.
func lookUp(context map[string][]string, key string) []string {
	for name, values := range context {
		if strings.EqualFold(name, key) {
			return values
		}
	}
	return nil
}

// Grant is an action that a statement of a policy allows.
type Grant struct {
	Policy string `json:"policy"`
	Sid    string `json:"sid"`
	Action string `json:"action"`
}

// allowed says whether policies that are attached to a role allow an action,
// and which statements do.
func allowed(policies []Policy, action, resource string, context map[string][]string) (by []Grant, ok bool) {
	for _, p := range policies {
		for _, s := range p.Statement {
			if s.applies(action, resource, context) {
				if s.Effect == "Deny" {
					return nil, false
				}
				by = append(by, Grant{p.Name, s.Sid, action})
			}
		}
	}
	return by, len(by) > 0
}

// Grants gives all that policies allow.
func Grants(policies []Policy) []Grant {
	var out []Grant
	for _, p := range policies {
		for _, s := range p.Statement {
			for _, action := range s.Action {
				out = append(out, Grant{p.Name, s.Sid, action})
			}
		}
	}
	return out
}

// like says whether a text is of a pattern with * and ?.
func like(pattern, text string) bool {
	for {
		before, after, star := strings.Cut(pattern, "*")
		if len(text) < len(before) || !single(before, text[:len(before)]) {
			return false
		}
		text = text[len(before):]
		if !star {
			return text == ""
		}
		if after == "" {
			return true
		}
		if !strings.Contains(after, "*") { // the rest has to be at the end
			return len(text) >= len(after) && single(after, text[len(text)-len(after):])
		}
		next, _, _ := strings.Cut(after, "*")
		for !(len(text) >= len(next) && single(next, text[:len(next)])) {
			if text == "" {
				return false
			}
			text = text[1:]
		}
		pattern = after
	}
}

// single compares texts of the same length, one of them with ?.
func single(pattern, text string) bool {
	for i := range len(pattern) {
		if pattern[i] != '?' && pattern[i] != text[i] {
			return false
		}
	}
	return true
}
