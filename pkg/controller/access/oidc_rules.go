package access

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/go-jose/go-jose/v4/json"

	"github.com/pipegen/pipegen/internal/lazyregexp"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/glob"
	"github.com/pipegen/pipegen/pkg/quote"
)

const (
	// maxName bounds the name of a principal, in bytes.
	maxName = 256
	// maxShown bounds a value of a token in a message, and maxRules how many rules
	// it tells of.
	maxShown = 200
	maxRules = 20
)

// Rule says what a token may do whose claims fit.
type Rule struct {
	// Name of the principal, to which @ and that of the issuer are added; {claim}
	// stands for a claim. Empty: {project_path}, {repository} or {sub}, the first
	// that the token has.
	Name string
	// Globs by the name of a claim: one of them means its value, or an element of
	// it if it is a list. A claim that the token does not have fits none.
	Claims map[string][]string
	Roles  []Role
	// As Principal has them. In Registries {claim} stands for a claim, in small
	// letters.
	Registries, Runners []string
	Priority, Tasks     int
	// Runs that one token may start; 0: one.
	Runs int
}

// placeholder finds {claim} in a text.
var placeholder = lazyregexp.New(`\{([A-Za-z0-9_.:/-]+)\}`)

// identities are the claims that a name is taken from if a rule has none.
var identities = []string{"project_path", "repository", "sub"}

// Check says what is wrong with a rule; nil: nothing.
func (r Rule) Check() error {
	if len(r.Claims) == 0 {
		return failure.WithHint(failure.Input("it names no claim: whoever the issuer gives tokens to would be let in"), "claims: {project_path: [team/**]} for GitLab, {repository: [team/*]} for GitHub")
	}
	for _, name := range slices.Sorted(maps.Keys(r.Claims)) {
		if len(r.Claims[name]) == 0 {
			return failure.Input("the claim %q has no value that fits", name)
		}
		for _, pattern := range r.Claims[name] {
			if pattern == "" || !glob.Valid(pattern) {
				return failure.Input("%q is no glob for the claim %q", pattern, name)
			}
		}
	}
	if err := CheckName(r.Name); err != nil {
		return err
	}
	if len(r.Roles) == 0 {
		return failure.WithHint(failure.Input("it gives no role"), "submit, read or admin")
	}
	for _, role := range r.Roles {
		if _, err := ParseRole(string(role)); err != nil {
			return err
		}
	}
	for _, pattern := range r.Registries {
		if err := CheckRegistry(pattern); err != nil {
			return err
		}
	}
	if r.Priority < 0 || r.Tasks < 0 || r.Runs < 0 {
		return failure.Input("a number is below 0")
	}
	return nil
}

// CheckName says what is wrong with the name that a rule gives; nil: nothing.
func CheckName(name string) error {
	plain := placeholder.ReplaceAllString(name, "x")
	if len(plain) > maxName || strings.ContainsAny(plain, "{}") || strings.ContainsFunc(plain, unnamable) {
		return failure.WithHint(failure.Input("%q is no name for those whom a rule fits", name), "letters, digits and signs without blanks; {project_path} stands for a claim")
	}
	return nil
}

// CheckRegistry says what is wrong with a pattern of repositories that may
// have claims in it; nil: nothing.
func CheckRegistry(pattern string) error {
	plain := placeholder.ReplaceAllString(pattern, "x")
	if strings.ContainsAny(plain, "{}") {
		return failure.WithHint(failure.Input("%q is no pattern of repositories", pattern), "{project_path} stands for a claim")
	}
	return CheckPattern(plain)
}

func unnamable(r rune) bool { return unicode.IsControl(r) || unicode.IsSpace(r) || !unicode.IsPrint(r) }

// claims are those of a token, as texts.
type claims map[string][]string

func decodeClaims(payload []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(payload))
	dec.SetNumberType(json.UnmarshalJSONNumber)
	return dec.Decode(into)
}

// claimsOf takes what is text, a number, true or false, or a list of them.
func claimsOf(all map[string]any) claims {
	out := claims{}
	for name, value := range all {
		list, ok := value.([]any)
		if !ok {
			list = []any{value}
		}
		for _, v := range list {
			switch v := v.(type) {
			case string:
				out[name] = append(out[name], v)
			case bool:
				out[name] = append(out[name], strconv.FormatBool(v))
			case json.Number:
				out[name] = append(out[name], v.String())
			}
		}
	}
	return out
}

// one gives a claim that has one value, and is not empty.
func (c claims) one(name string) (string, bool) {
	if v := c[name]; len(v) == 1 && v[0] != "" {
		return v[0], true
	}
	return "", false
}

// misses gives the claims of a rule that do not fit, sorted.
func (r Rule) misses(c claims) []string {
	var names []string
	for name, patterns := range r.Claims {
		if !slices.ContainsFunc(c[name], func(value string) bool {
			return slices.ContainsFunc(patterns, func(pattern string) bool { return value == pattern || glob.Match(pattern, value) })
		}) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// admit gives the principal that the first rule makes of a token whose claims
// fit.
func (i *issuer) admit(c claims) (Principal, error) {
	for n, r := range i.Rules {
		if len(r.misses(c)) > 0 {
			continue
		}
		p, err := r.principal(c, i.Name)
		if err != nil {
			return p, &Refusal{Reason: ErrForbidden, Text: fmt.Sprintf("rule %d for %s: %v", n+1, quote.Text(i.Name), err)}
		}
		return p, nil
	}
	return Principal{}, i.unfit(c)
}

// unfit tells of a token that no rule is for: to its bearer what it says of
// itself and which claims are at fault, to the operator what rules want too.
func (i *issuer) unfit(c claims) error {
	asked := map[string]bool{}
	for _, r := range i.Rules {
		for name := range r.Claims {
			asked[name] = true
		}
	}
	for _, name := range identities {
		asked[name] = asked[name] || len(c[name]) > 0
	}
	var came, told, wanted []string
	for _, name := range slices.Sorted(maps.Keys(asked)) {
		if len(c[name]) > 0 {
			came = append(came, name+"="+shorten(strings.Join(c[name], ",")))
		}
	}
	for n, r := range i.Rules {
		if n == maxRules {
			told = append(told, fmt.Sprintf("and %d more", len(i.Rules)-n))
			break
		}
		var faults, wants []string
		for _, name := range r.misses(c) {
			fault := "another " + name
			if len(c[name]) == 0 {
				fault = name + " (the token has none)"
			}
			faults = append(faults, quote.Text(fault))
			wants = append(wants, quote.Text(name+"="+strings.Join(r.Claims[name], "|")))
		}
		told = append(told, fmt.Sprintf("rule %d wants %s", n+1, strings.Join(faults, ", ")))
		wanted = append(wanted, fmt.Sprintf("rule %d wants %s", n+1, strings.Join(wants, ", ")))
	}
	if len(told) == 0 {
		told = []string{"there are none"}
	}
	r := &Refusal{
		Reason: ErrForbidden,
		Text:   fmt.Sprintf("no rule for tokens of %s fits this one, which says %s: %s", quote.Text(i.Name), strings.Join(came, ", "), strings.Join(told, "; ")),
		Detail: strings.Join(wanted, "; "),
	}
	return failure.WithHint(r, "the rules are in server.oidc of the controller's configuration; its log has what they want, under the id of the request")
}

// principal makes one of a token that fits.
func (r Rule) principal(c claims, issuer string) (Principal, error) {
	name := r.Name
	if name == "" {
		i := slices.IndexFunc(identities, func(name string) bool { _, ok := c.one(name); return ok })
		if i < 0 {
			return Principal{}, fmt.Errorf("the token has none of %s to be named by", strings.Join(identities, ", "))
		}
		name = "{" + identities[i] + "}"
	}
	name, err := c.expand(name, func(_, value string) (string, error) { return value, nil })
	if err != nil {
		return Principal{}, err
	}
	name += "@" + issuer
	if len(name) > maxName || !utf8.ValidString(name) || strings.ContainsFunc(name, unnamable) {
		return Principal{}, fmt.Errorf("%s cannot be the name of anybody", shorten(name))
	}
	p := Principal{Name: name, Roles: r.Roles, Runners: r.Runners, Priority: r.Priority, Tasks: r.Tasks, Runs: max(r.Runs, 1)}
	for _, pattern := range r.Registries {
		if pattern, err = c.expand(pattern, repositoryPart); err != nil {
			return Principal{}, err
		}
		p.Registries = append(p.Registries, pattern)
	}
	return p, nil
}

// expand puts claims in their places.
func (c claims) expand(text string, fit func(name, value string) (string, error)) (string, error) {
	var fault error
	out := placeholder.ReplaceAllStringFunc(text, func(at string) string {
		name := at[1 : len(at)-1]
		value, ok := c.one(name)
		if !ok {
			fault = fmt.Errorf("the token has no %s", quote.Text(name))
			return ""
		}
		value, err := fit(name, value)
		if err != nil {
			fault = err
		}
		return value
	})
	return out, fault
}

// repositoryNames are what repositories are called: of it no glob can be made,
// nor a way up.
var repositoryNames = lazyregexp.New(`^[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*$`)

// repositoryPart makes a claim a part of a repository's name, as the registries
// of GitLab and GitHub do: in small letters.
func repositoryPart(name, value string) (string, error) {
	value = strings.ToLower(value)
	if !repositoryNames.MatchString(value) {
		return "", fmt.Errorf("%s=%s cannot be a part of a repository's name", quote.Text(name), shorten(value))
	}
	return value, nil
}

// shorten makes a value of a token safe to show.
func shorten(value string) string {
	if len(value) > maxShown {
		value = value[:maxShown] + "…"
	}
	return quote.Text(quote.URL(value))
}
