package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/quote"
	"github.com/pipegen/pipegen/pkg/registry"
)

// addCredentials adds those that this machine has for the registries that the
// run writes to, whose repositories it makes where the plan asks for that, and
// those that the flags name. What the request has already counts.
func (a *app) addCredentials(ctx context.Context, s sending, r *api.RunRequest) error {
	hosts := map[string]bool{}
	if s.own {
		for _, host := range written(r.Plan) {
			hosts[host] = false
		}
	}
	further := s.credentials
	if len(further) == 0 {
		further = strings.FieldsFunc(a.getenv("PIPEGEN_CREDENTIALS_FOR"), func(r rune) bool { return r == ',' || r == ' ' })
	}
	for _, host := range further {
		hosts[host] = true
	}
	for _, c := range r.Credentials {
		delete(hosts, c.Registry)
	}
	access := a.registryClient(r.Plan.Publish)
	if s.own {
		if err := createWritten(ctx, access, r); err != nil {
			return err
		}
	}
	for _, host := range slices.Sorted(maps.Keys(hosts)) {
		text, err := access.DockerConfig(ctx, []string{host})
		if err != nil && (hosts[host] || ctx.Err() != nil) {
			return err
		}
		if err != nil {
			a.warn(fmt.Sprintf("no credentials are sent for %s: %v", quote.Text(host), err))
			continue
		}
		var config struct {
			Auths map[string]authn.AuthConfig `json:"auths"`
		}
		if err := json.Unmarshal(text, &config); err != nil {
			return fmt.Errorf("reading the credentials for %s: %w", quote.Text(host), err)
		}
		for _, auth := range config.Auths {
			if auth.Username == "" || auth.Password == "" {
				a.warn(fmt.Sprintf("the credentials for %s are not sent: they are a token for this machine, and no name and password", quote.Text(host)))
				continue
			}
			r.Credentials = append(r.Credentials, api.Credential{Registry: host, Username: auth.Username, Password: auth.Password})
		}
	}
	return nil
}

// createWritten makes the repositories that a run writes to, where its plan asks
// for that: what the controller is given opens repositories, and makes none.
func createWritten(ctx context.Context, client *registry.Client, r *api.RunRequest) error {
	for i := range r.Plan.Images {
		img := &r.Plan.Images[i]
		if slices.ContainsFunc(r.Published, func(p plan.Published) bool { return p.Name == img.Name }) {
			continue
		}
		for j := range img.Builds {
			if err := createRepositories(ctx, client, r.Plan, &img.Builds[j]); err != nil {
				return err
			}
		}
		for _, c := range r.Plan.Copies(img) {
			if err := client.CreateRepository(ctx, c.Repository, false); err != nil {
				return err
			}
		}
	}
	return nil
}

// written gives the registries that a plan writes to: of images, of their
// copies, and of layers.
func written(p *plan.Plan) []string {
	var hosts []string
	add := func(repository string) {
		if ref, err := registry.ParseReference(repository); err == nil {
			host := ref.Host
			if host == name.DefaultRegistry {
				host = "docker.io"
			}
			hosts = append(hosts, host)
		}
	}
	for i := range p.Images {
		img := &p.Images[i]
		if img.Pushes() {
			add(img.Repository)
		}
		for _, c := range p.Copies(img) {
			add(c.Repository)
		}
		for j := range img.Builds {
			b := &img.Builds[j]
			if b.Pushes() {
				add(b.Destination)
			}
			if cache := p.CacheRepository(b); cache != "" {
				add(cache)
			}
		}
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}
