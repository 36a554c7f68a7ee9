package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/awslabs/amazon-ecr-credential-helper/ecr-login/api"

	"github.com/pipegen/pipegen/pkg/quote"
)

// TemporaryCredentials gives credentials of AWS for a process that cannot ask
// for its own, as variables of its environment (NAME=VALUE): those in force
// here, which for a web identity last one hour, while the identity itself may
// end after minutes. For a host that is not ECR's it gives nothing.
func TemporaryCredentials(ctx context.Context, host string) ([]string, error) {
	ecr, err := api.ExtractRegistry(host)
	if err != nil {
		return nil, nil //nolint:nilerr // not ECR's
	}
	aws, err := config.LoadDefaultConfig(ctx, func(o *config.LoadOptions) error {
		o.Region = ecr.Region
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the configuration of AWS: %w", err)
	}
	c, err := aws.Credentials.Retrieve(ctx)
	if err != nil {
		return nil, &keychainError{
			fmt.Errorf("getting credentials of AWS for %s: %w", quote.Text(host), err),
			"AWS needs credentials: environment, profile, web identity or instance role",
		}
	}
	env := []string{"AWS_ACCESS_KEY_ID=" + c.AccessKeyID, "AWS_SECRET_ACCESS_KEY=" + c.SecretAccessKey, "AWS_REGION=" + ecr.Region}
	if c.SessionToken != "" {
		env = append(env, "AWS_SESSION_TOKEN="+c.SessionToken)
	}
	return env, nil
}

// ConfiguredHosts gives the registries that the Docker configuration of this
// machine names: $DOCKER_CONFIG/config.json, else ~/.docker/config.json. One
// that is not there names none.
func ConfiguredHosts(getenv func(string) string) ([]string, error) {
	dir := getenv("DOCKER_CONFIG")
	if dir == "" {
		dir = filepath.Join(getenv("HOME"), ".docker")
	}
	data, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the Docker configuration: %w", err)
	}
	var c struct {
		Auths       map[string]json.RawMessage `json:"auths"`
		CredHelpers map[string]string          `json:"credHelpers"`
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, fmt.Errorf("reading the Docker configuration: %w", err)
	}
	hosts := map[string]bool{}
	for _, key := range slices.Concat(slices.Collect(maps.Keys(c.Auths)), slices.Collect(maps.Keys(c.CredHelpers))) {
		// Docker writes some as URLs: https://index.docker.io/v1/.
		_, host, found := strings.Cut(key, "://")
		if !found {
			host = key
		}
		host, _, _ = strings.Cut(host, "/")
		if host != "" {
			hosts[host] = true
		}
	}
	return slices.Sorted(maps.Keys(hosts)), nil
}
