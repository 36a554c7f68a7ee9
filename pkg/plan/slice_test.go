package plan

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/pkg/failure"
)

func sliced() *Plan {
	image := func(name, engine string, needs ...string) Image {
		img := Image{
			Name: name, Dir: "projects/" + name, Key: strings.Repeat("a", 64), Reasons: []Reason{{Kind: All}}, Repository: "r.example/images",
			Tags: []string{name + "-20261121-abc1234", name + "-latest"}, Aliases: []string{name + "-alias"}, KeyTag: name + "-key-aaaaaaaaaaaa", Needs: append([]string{}, needs...), Index: true,
		}
		for _, arch := range []string{"amd64", "arm64"} {
			img.Builds = append(img.Builds, Build{
				ID: name + "@" + arch, Platform: "linux/" + arch, Engine: engine, Destination: "r.example/images:" + name + "-20261121-abc1234-" + arch,
				Context: "projects/" + name, Dockerfile: "projects/" + name + "/Dockerfile", PreScript: "echo " + name, Outputs: []string{"image"}, Runner: "ci", Timeout: "1h",
			})
		}
		return img
	}
	return &Plan{
		Version: Version, Event: "local", Registry: "r.example/images", Layout: "tag", CI: CI{Image: "pipegen"},
		Images:  []Image{image("base", "kaniko"), image("other", "kaniko"), image("tool", "make", "base"), image("app", "kaniko", "base", "tool")},
		Skipped: []Skipped{{Name: "tool-left", Reason: "unchanged"}},
	}
}

func TestSlice(t *testing.T) {
	whole := sliced()
	before, err := json.Marshal(whole)
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]string{
		"app@arm64": "base tool app", "base@amd64": "base", "tool@amd64": "base other tool app",
	} {
		s, err := whole.Slice(id)
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := s.Write(&b); err != nil {
			t.Fatal(err)
		}
		if s, err = Read(&b, id); err != nil {
			t.Fatalf("%s: %v", id, err)
		}
		var names []string
		for _, img := range s.Images {
			names = append(names, img.Name)
		}
		img, build, ok := s.Find(id)
		full, fullBuild, _ := whole.Find(id)
		if got := strings.Join(names, " "); got != want || !ok {
			t.Errorf("%s: images %s", id, got)
			continue
		}
		if len(img.Builds) != 1 || build.PreScript != fullBuild.PreScript || build.Destination != fullBuild.Destination || strings.Join(img.Needs, " ") != strings.Join(full.Needs, " ") {
			t.Errorf("%s: %+v", id, build)
		}
		for _, other := range s.Images {
			for _, ob := range other.Builds {
				if other.Name != img.Name && ob.PreScript != "" {
					t.Errorf("%s: knows how %s is built", id, ob.ID)
				}
			}
		}
		// Parts are judged as by the whole plan.
		for _, part := range []string{img.Name + "-new", img.Name + "-left", img.Name + "-20261121-abc1234", "app-x"} {
			got, gotErr := s.Part(img, part)
			want, wantErr := whole.Part(full, part)
			if build.Engine == "make" && (gotErr == nil) != (wantErr == nil) || gotErr == nil && wantErr == nil && got.Repository+got.Tags[0] != want.Repository+want.Tags[0] {
				t.Errorf("%s: part %s: %v, but %v", id, part, gotErr, wantErr)
			}
		}
	}
	if _, err := whole.Slice("app@s390x"); !errors.Is(err, failure.ErrInput) {
		t.Error(err)
	}
	if after, _ := json.Marshal(whole); !bytes.Equal(before, after) {
		t.Error("slicing changed the plan")
	}
}

func TestOnly(t *testing.T) {
	whole := sliced()
	for names, want := range map[string]struct{ images, needed, skipped string }{
		"app":      {"base tool app", "base tool", "tool-left other"},
		"base":     {"base", "", "tool-left other tool app"},
		"app tool": {"base tool app", "base", "tool-left other"},
	} {
		part, needed, err := whole.Only(strings.Fields(names)...)
		if err != nil {
			t.Fatal(err)
		}
		var images, skipped []string
		for i := range part.Images {
			img := &part.Images[i]
			images = append(images, img.Name)
			full, _ := whole.Image(img.Name)
			if named := slices.Contains(strings.Fields(names), img.Name); named != (img.Builds[0].PreScript != "") || len(img.Tags) != 2 || img.Tags[0] != full.Tags[0] {
				t.Errorf("%s: image %s is %+v", names, img.Name, img)
			}
		}
		for _, s := range part.Skipped {
			skipped = append(skipped, s.Name)
		}
		if got := strings.Join(images, " "); got != want.images || strings.Join(needed, " ") != want.needed || strings.Join(skipped, " ") != want.skipped {
			t.Errorf("%s: images %s, needed %s, skipped %s", names, got, needed, skipped)
		}
		if err := part.Check(); err != nil {
			t.Errorf("%s: %v", names, err)
		}
	}
	if len(whole.Images) != 4 || len(whole.Skipped) != 1 || whole.Images[0].Builds[0].PreScript == "" {
		t.Error("the whole plan was changed")
	}
	if _, _, err := whole.Only("app", "none"); !errors.Is(err, failure.ErrInput) {
		t.Errorf("got %v", err)
	}
}
