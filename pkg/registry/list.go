package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

const (
	// pageSize is how many tags are asked for at once; registries give less
	// as they like. ECR refuses more.
	pageSize = 1000
	// maxPages ends a list that has no end.
	maxPages = 10_000
)

// List gives all tags of a repository, in the registry's order. A repository
// that does not exist is ErrNotFound. Pages are followed within the registry
// alone, and a list that goes in a circle is an error.
func (c *Client) List(ctx context.Context, repository string) ([]string, error) {
	const op = "listing the tags of"
	r, err := ParseReference(repository)
	if err != nil {
		return nil, err
	}
	if r.identifier() != "" {
		return nil, failure.Input("%q names more than a repository", repository)
	}
	var tags []string
	seen := map[string]bool{}
	for next := fmt.Sprintf("tags/list?n=%d", pageSize); next != ""; {
		if seen[next] || len(seen) >= maxPages {
			return nil, c.explain(ctx, op, r, errors.New("the registry's list of tags goes in a circle"))
		}
		seen[next] = true
		var page []string
		if page, next, err = c.page(ctx, r, next); err != nil {
			return nil, c.explain(ctx, op, r, err)
		}
		tags = append(tags, page...)
	}
	return tags, nil
}

// page fetches one page of tags, again when its connection breaks; next is
// the path of the following one below the repository.
func (c *Client) page(ctx context.Context, r Reference, path string) (tags []string, next string, err error) {
	header, raw, err := c.fetchUpTo(ctx, r, path, "application/json", maxAnswer)
	if err != nil {
		return nil, "", err
	}
	var list struct {
		Tags []string `json:"tags"`
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, "", errors.New("its list of tags cannot be read: " + quote.Text(err.Error()))
	}
	for _, tag := range list.Tags {
		if !tagPattern.MatchString(tag) {
			return nil, "", fmt.Errorf("its list of tags has %q, which is none", quote.Text(line(tag)))
		}
	}
	link, ok, err := nextLink(header.Values("Link"))
	if err != nil || !ok {
		return list.Tags, "", err
	}
	next, err = within(r, path, link)
	return list.Tags, next, err
}

// nextLink gives the target of the link to the next page (RFC 8288; the OCI
// distribution specification: Link: <url>; rel="next"). A link without a
// relation counts as that, since some registries leave it out.
func nextLink(values []string) (target string, ok bool, err error) {
	for _, value := range values {
		for rest := strings.TrimSpace(value); rest != ""; {
			if rest[0] != '<' {
				return "", false, fmt.Errorf("cannot read the header Link %q", quote.Text(line(value)))
			}
			target, after, closed := strings.Cut(rest[1:], ">")
			if !closed {
				return "", false, fmt.Errorf("cannot read the header Link %q", quote.Text(line(value)))
			}
			var parameters string
			parameters, rest = cutLink(after)
			if relation, said := relationOf(parameters); !said || relation == "next" {
				return target, target != "", nil
			}
		}
	}
	return "", false, nil
}

// cutLink ends the parameters of a link at the comma before the next one,
// which may not stand in quotes.
func cutLink(s string) (parameters, rest string) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && quoted:
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == ',' && !quoted:
			return s[:i], strings.TrimLeft(s[i+1:], ", \t")
		}
	}
	return s, ""
}

// relationOf gives the parameter rel of a link.
func relationOf(parameters string) (relation string, said bool) {
	for parameter := range strings.SplitSeq(parameters, ";") {
		name, value, ok := strings.Cut(parameter, "=")
		if ok && strings.EqualFold(strings.TrimSpace(name), "rel") {
			return strings.ToLower(strings.Trim(strings.TrimSpace(value), `"`)), true
		}
	}
	return "", false
}

// within resolves a link against the page that has it, and gives it as a path
// below the repository. Credentials are for that place alone: a link that
// leads to another host or repository is refused.
func within(r Reference, page, link string) (string, error) {
	refused := func() (string, error) {
		return "", fmt.Errorf("its list of tags goes on at %q, which is elsewhere", quote.Text(line(link)))
	}
	root := "/v2/" + r.Path + "/"
	base, err := url.Parse("https://" + r.Host + root + page)
	if err != nil {
		return refused()
	}
	to, err := base.Parse(link)
	// Behind a proxy that ends TLS a registry may take itself for plain HTTP;
	// the path is all that is used of the link.
	if err != nil || to.User != nil || to.Scheme != "https" && to.Scheme != "http" || !sameHost(to.Host, r.Host) {
		return refused()
	}
	rest, ok := strings.CutPrefix(to.EscapedPath(), root)
	if !ok || rest != "tags/list" {
		return refused()
	}
	return rest + "?" + to.RawQuery, nil
}

// sameHost says whether two hosts are one; 443 is the port without a port.
func sameHost(a, b string) bool {
	return strings.EqualFold(strings.TrimSuffix(a, ":443"), strings.TrimSuffix(b, ":443"))
}
