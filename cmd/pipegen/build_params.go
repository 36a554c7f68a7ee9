package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/pipegen/pipegen/pkg/archive"
	"github.com/pipegen/pipegen/pkg/failure"
)

// fromParams takes the parameters of Concourse's oci-build task from the
// environment, as its README documents them
// (https://github.com/concourse/oci-build-task).
func (d *directory) fromParams(environ []string, flags *pflag.FlagSet) (err error) {
	set := map[string]string{}
	for _, kv := range environ {
		k, v, _ := strings.Cut(kv, "=")
		set[k] = v
		for prefix, list := range map[string]*[]string{"BUILD_ARG_": &d.args, "LABEL_": &d.labels} {
			if name, ok := strings.CutPrefix(k, prefix); ok && name != "" {
				*list = append(*list, name+"="+v)
			}
		}
		if id, ok := strings.CutPrefix(k, "BUILDKIT_SECRET_"); ok {
			d.secrets = append(d.secrets, "id="+id+",file="+v)
		}
		if id, ok := strings.CutPrefix(k, "BUILDKIT_SECRETTEXT_"); ok {
			d.secrets = append(d.secrets, "id="+id+",env="+k)
		}
		if strings.HasPrefix(k, "IMAGE_ARG_") {
			return unsupported(k)
		}
	}
	for _, name := range []string{"ADDITIONAL_TARGETS", "BUILDKIT_ADD_HOSTS"} {
		if set[name] != "" {
			return unsupported(name)
		}
	}
	d.context, d.dockerfile = orElse(set["CONTEXT"], "."), set["DOCKERFILE"]
	for name, list := range map[string]*[]string{"BUILD_ARGS_FILE": &d.args, "LABELS_FILE": &d.labels} {
		if set[name] == "" {
			continue
		}
		lines, err := linesOf(name, set[name])
		if err != nil {
			return err
		}
		*list = append(*list, lines...)
	}
	if file := set["TARGET_FILE"]; file != "" {
		text, err := os.ReadFile(file)
		if err != nil {
			return failure.Input("parameter TARGET_FILE: %w", err)
		}
		d.target = strings.TrimSpace(string(text))
	} else if set["TARGET"] != "" {
		d.target = set["TARGET"]
	}
	if d.platform = orElse(set["IMAGE_PLATFORM"], d.platform); strings.Contains(d.platform, ",") {
		return failure.WithHint(failure.Input("parameter IMAGE_PLATFORM: %s: one build is for one platform", d.platform),
			"one task for each platform, or a pipeline that pipegen renders, which joins them")
	}
	if set["REGISTRY_MIRRORS"] != "" {
		d.mirrors = append(d.mirrors, strings.Split(set["REGISTRY_MIRRORS"], ",")...)
	}
	if set["BUILDKIT_SSH"] != "" {
		d.ssh = append(d.ssh, set["BUILDKIT_SSH"])
	}
	if info, err := os.Stat("cache"); err == nil && info.IsDir() && d.engine == "buildkit" {
		if d.cache, err = filepath.Abs("cache"); err != nil {
			return err
		}
	}
	if !flags.Changed("output-dir") {
		d.output = "image"
	}
	if d.task.oci, err = yes("OUTPUT_OCI", set["OUTPUT_OCI"]); err != nil {
		return err
	}
	if d.task.rootfs, err = yes("UNPACK_ROOTFS", set["UNPACK_ROOTFS"]); err != nil {
		return err
	}
	if !flags.Changed("outputs") {
		d.outputs = d.task.kinds()
	}
	d.task.asked = true
	return nil
}

func yes(param, value string) (bool, error) {
	if value == "" {
		return false, nil
	}
	b, err := strconv.ParseBool(value)
	if err != nil {
		return false, failure.Input("parameter %s: %q is neither true nor false", param, value)
	}
	return b, nil
}

// taskOutputs is what Concourse's oci-build task leaves otherwise than pipegen.
type taskOutputs struct{ asked, oci, rootfs bool }

func (t taskOutputs) kinds() []string {
	kinds := []string{"docker-tar", "digest"}
	if t.oci {
		kinds[0] = "oci-layout"
	}
	if t.rootfs {
		kinds = append(kinds, "rootfs")
	}
	return kinds
}

// renamed is what an output is called.
func (t taskOutputs) renamed(path string) string {
	if t.asked && path == "oci" {
		return "image"
	}
	return path
}

// finish makes of the outputs what the task leaves: the layout in the directory
// image, the digest of the image's configuration, by which docker tag finds it,
// and metadata.json beside the root file system.
func (t taskOutputs) finish(ctx context.Context, dir string) error {
	if !t.asked {
		return nil
	}
	file := filepath.Join(dir, "image.tar")
	if t.oci {
		file = filepath.Join(dir, t.renamed("oci"))
		if err := os.RemoveAll(file); err != nil {
			return err
		}
		if err := os.Rename(filepath.Join(dir, "oci"), file); err != nil {
			return err
		}
	}
	if _, err := os.Stat(file); err != nil {
		return nil //nolint:nilerr // --outputs asks for something else
	}
	a, err := archive.Open(ctx, file)
	if err != nil {
		return err
	}
	defer a.Close() //nolint:errcheck // only read from
	img := a.Images()[0].Image
	digest, err := img.ConfigName()
	if err != nil {
		return fmt.Errorf("reading %s: %w", file, err)
	}
	if err := writeFile(filepath.Join(dir, "digest"), []byte(digest.String())); err != nil || !t.rootfs {
		return err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return fmt.Errorf("reading %s: %w", file, err)
	}
	metadata, err := json.Marshal(struct {
		Env  []string `json:"env"`
		User string   `json:"user"`
	}{slices.Concat([]string{}, config.Config.Env), config.Config.User})
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, "metadata.json"), append(metadata, '\n'))
}
