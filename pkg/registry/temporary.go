package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

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
