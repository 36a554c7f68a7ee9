//go:build e2e

package e2e

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/pipegen/pipegen/test/toolcache"
)

// engines are all that there are.
var engines = []string{"kaniko", "buildkit", "make"}

// imageCase is a project that every engine must make the same image of.
type imageCase struct {
	name string
	// build-config.yaml without the engine. In it and in files @UPSTREAM@ stands
	// for the URL of the upstream repository, @COMMIT@ for a commit of it,
	// @REGISTRY@ for the repository that is published to, and @ENGINE@.
	config string
	// The same for the project's own make, where that cannot be the same.
	forMake string
	files   map[string]string
	// Files of the image by platform; of all platforms if the key is empty.
	want map[string]map[string]string
	// Paths that the image must not have.
	lacks []string
	// Labels of the image.
	labels map[string]string
	// Whatever else is to be seen of it; may be nil.
	check func(t *testing.T, s *site, image string, platforms map[string]v1.Image)
}

// awkward are values that do not survive a shell, a comma-separated list or a
// trim.
var awkward = map[string]string{
	"COMMA": "a,b=c,,d", "QUOTES": `"a" 'b' \ $HOME $(id) ` + "`id`", "BLANKS": "  a  b ", "LINES": "one\ntwo\n\nfour", "EMPTY": "", "DASH": "--opt",
}

// table holds what every engine must do. The projects are built by one pipegen
// run.
func table() []imageCase {
	const upstream = "upstream_repo: @UPSTREAM@\ndockerfile_path: docker/Dockerfile\ncontext_path: src\nupstream_ref: "
	const below = "command: make release DOCKERFILE=../docker/Dockerfile\n"
	hello := func(text string) map[string]map[string]string { return all(map[string]string{"hello.txt": text}) }
	arguments := "build_args: " + yamlMap(awkward) + "\nlabels: {org.example.text: \"a, b \\\"c\\\"\\nd=e\"}\n"
	return []imageCase{
		{
			name:    "arguments",
			config:  arguments,
			forMake: arguments + "command: make clean by-pipegen\n",
			files: map[string]string{"Dockerfile": "FROM @REGISTRY@:busybox\nARG COMMA QUOTES BLANKS LINES EMPTY=not DASH\n" +
				`RUN mkdir /args; for n in COMMA QUOTES BLANKS LINES EMPTY DASH; do eval "printf %s \"\$$n\"" > /args/$n; done` + "\n"},
			want:   all(prefixed("args/", awkward)),
			labels: map[string]string{"org.example.text": "a, b \"c\"\nd=e"},
		},
		{
			name:   "target",
			config: "target: first\n", forMake: "command: make clean release TARGET=first\n",
			files: map[string]string{"Dockerfile": "FROM @REGISTRY@:busybox AS first\nRUN echo first > /which\nFROM first AS second\nRUN echo second > /which && echo second > /second\n"},
			want:  all(map[string]string{"which": "first\n"}),
			lacks: []string{"second"},
		},
		{
			name: "stages",
			files: map[string]string{
				"Dockerfile": "FROM @REGISTRY@:busybox AS build\nCOPY src/ /src/\nRUN cat /src/a.txt /src/b.txt > /joined\n" +
					"FROM @REGISTRY@:busybox\nRUN mkdir /kept /gone && echo x > /gone/x && echo x > /kept/x && echo y > /kept/y\n" +
					"RUN busybox rm -r /gone /kept/x\nCOPY --from=build /joined /joined\nRUN busybox ln -s joined /link && busybox chown 1000:1000 /kept/y\n",
				"src/a.txt": "a\n", "src/b.txt": "b\n",
			},
			want:  all(map[string]string{"joined": "a\nb\n", "kept/y": "y\n"}),
			lacks: []string{"gone/x", "kept/x", "src/a.txt"},
		},
		{
			name: "ignored",
			files: map[string]string{
				"Dockerfile": "FROM scratch\nCOPY . /\n", ".dockerignore": "**/*.secret\n!keep.secret\nbuild-config.yaml\nMakefile\nimage.sh\nrelease\n",
				"a.txt": "a\n", "a.secret": "a\n", "dir/b.secret": "b\n", "keep.secret": "k\n",
			},
			want:  all(map[string]string{"a.txt": "a\n", "keep.secret": "k\n"}),
			lacks: []string{"a.secret", "dir/b.secret", "build-config.yaml", "release/image.tar"},
		},
		{name: "tag", config: upstream + "v1\n", forMake: upstream + "v1\n" + below, want: hello("of v1\n")},
		{name: "branch", config: upstream + "next\n", forMake: upstream + "next\n" + below, want: hello("of next\n")},
		{name: "commit", config: upstream + "@COMMIT@\n", forMake: upstream + "@COMMIT@\n" + below, want: hello("of a commit\n")},
		{
			name: "overrides",
			config: "platforms: [linux/amd64, linux/arm64]\nbuild_args: {WHO: everybody, MORE: more}\n" +
				"overrides: {linux/arm64: {dockerfile_path: Dockerfile.arm64, target: last, build_args: {WHO: arm}}}\n",
			forMake: "platforms: [linux/amd64, linux/arm64]\nbuild_args: {WHO: everybody, MORE: more}\n" +
				"overrides: {linux/arm64: {command: make release DOCKERFILE=Dockerfile.arm64 TARGET=last, build_args: {WHO: arm}}}\n",
			files: map[string]string{
				"Dockerfile":       "FROM @REGISTRY@:busybox\nARG WHO MORE TARGETARCH\nRUN echo $WHO $MORE $TARGETARCH > /who\n",
				"Dockerfile.arm64": "FROM @REGISTRY@:busybox AS last\nARG WHO MORE TARGETARCH\nCOPY arm.txt /who\nLABEL who=$WHO more=$MORE arch=$TARGETARCH\nFROM last\nCOPY arm.txt /second\n",
				"arm.txt":          "of a file\n",
			},
			want:  map[string]map[string]string{"linux/amd64": {"who": "everybody more amd64\n"}, "linux/arm64": {"who": "of a file\n"}},
			lacks: []string{"second"},
			check: func(t *testing.T, _ *site, _ string, platforms map[string]v1.Image) {
				got := labels(t, platforms["linux/arm64"])
				if got["who"] != "arm" || got["more"] != "more" || got["arch"] != "arm64" {
					t.Errorf("the labels for arm64 are %v", got)
				}
			},
		},
		{
			name: "scripts",
			config: "env: {GREETING: \"good, \\\"day\\\"\"}\npre_script: |\n  printf %s \"$GREETING\" > made.txt\n" +
				"post_script: |\n  echo \"after $PIPEGEN_DIGEST\"\n  test -n \"$PIPEGEN_REF\"\n",
			files: map[string]string{"Dockerfile": "FROM scratch\nCOPY made.txt /\n"},
			want:  all(map[string]string{"made.txt": `good, "day"`}),
			check: func(t *testing.T, s *site, image string, platforms map[string]v1.Image) {
				digest, err := platforms["linux/amd64"].Digest()
				if log := s.log(t, image+"@amd64"); err != nil || !strings.Contains(log, "after "+digest.String()) {
					t.Errorf("post_script left no trace of %s (%v):\n%s", digest, err, log)
				}
				if status := s.git(t, "status", "--porcelain"); status != "" {
					t.Errorf("the checkout is not clean: %s", status)
				}
			},
		},
		{
			// On the image of the case above, as this run publishes it.
			name:   "dependent",
			config: "depends_on: [stages-@ENGINE@]\n",
			files:  map[string]string{"Dockerfile": "ARG PIPEGEN_REGISTRY\nFROM ${PIPEGEN_REGISTRY}:stages-@ENGINE@-latest\nCOPY more.txt /\n", "more.txt": "more\n"},
			want:   all(map[string]string{"joined": "a\nb\n", "more.txt": "more\n"}),
			check: func(t *testing.T, s *site, image string, platforms map[string]v1.Image) {
				base := s.image(t, strings.Replace(image, "dependent", "stages", 1)+"-latest", remote.WithPlatform(v1.Platform{OS: "linux", Architecture: "amd64"}))
				standsOn(t, platforms["linux/amd64"], base)
			},
		},
	}
}

// TestEngines makes the same images with each engine, and pulls and compares
// what was published.
func TestEngines(t *testing.T) {
	t.Parallel()
	h := newHub(t, nil)
	s := newSite(t, h)
	s.use(buildKit(t, []*hub{h}, ""))
	upstream, commit := s.upstream(t)
	cases := table()
	for _, c := range cases {
		for _, engine := range engines {
			s.add(t, c, engine, strings.NewReplacer("@UPSTREAM@", upstream, "@COMMIT@", commit, "@ENGINE@", engine))
		}
	}
	s.commit(t)
	s.pipegen(t, "run", "--select", "all")
	for _, c := range cases {
		for _, engine := range engines {
			t.Run(c.name+"/"+engine, func(t *testing.T) { c.verify(t, s, c.name+"-"+engine) })
		}
	}
}

// add writes the project of a case for an engine.
func (s *site) add(t *testing.T, c imageCase, engine string, replace *strings.Replacer) {
	t.Helper()
	files := maps.Clone(c.files)
	if files == nil {
		files = map[string]string{}
	}
	config := c.config
	if engine == "make" {
		maps.Copy(files, ownMake)
		config = cmp.Or(c.forMake, c.config)
		daemon := fmt.Sprintf("PIPEGEN: %s, BUILDCTL: %s, BUILDKIT_HOST: %q", binary(t), tool(t, toolcache.BuildCtl), s.daemon.address)
		if before, after, ok := strings.Cut(config, "env: {"); ok && (before == "" || strings.HasSuffix(before, "\n")) {
			config = before + "env: {" + daemon + ", " + after
		} else {
			config += "env: {" + daemon + "}\n"
		}
	}
	files["build-config.yaml"] = "engine: " + engine + "\nadditional_tags: [latest]\n" + config
	for name, text := range files {
		files[name] = replace.Replace(text)
	}
	s.project(t, c.name+"-"+engine, files)
}

// ownMake are the files of a project's own build that makes what a Dockerfile
// says, as an archive.
var ownMake = map[string]string{
	"Makefile": `DOCKERFILE ?= Dockerfile
export DOCKERFILE TARGET
.PHONY: release by-pipegen clean
release:
	mkdir -p release
	sh ./image.sh $(BUILD_ARGS)
by-pipegen:
	"$$PIPEGEN" build --context . --platform "$$PLATFORM" --name "$$PROJECT" $(BUILD_ARGS) --build-arg PIPEGEN_REGISTRY
clean:
	rm -rf release
`,
	"image.sh": `# Says to buildctl what flags of docker build say.
set -eu
for n in $(seq $(($# / 2))); do
	test "$1" = --build-arg
	arg=$2
	shift 2
	case $arg in *=*) ;; *) eval "arg=\$arg=\$$arg" ;; esac
	set -- "$@" --opt "build-arg:$arg"
done
exec "$BUILDCTL" build --progress plain --frontend dockerfile.v0 \
	--local context=. --local dockerfile="$(dirname "$DOCKERFILE")" --opt filename="$(basename "$DOCKERFILE")" \
	--opt platform="$PLATFORM" --opt target="$TARGET" --opt build-arg:PIPEGEN_REGISTRY="$PIPEGEN_REGISTRY" "$@" \
	--output type=docker,name="$IMAGE",dest=release/image.tar"${SOURCE_DATE_EPOCH:+,rewrite-timestamp=true}"
`,
}

// verify compares the image that was published of a case with what it should
// be.
func (c imageCase) verify(t *testing.T, s *site, image string) {
	platforms := slices.Sorted(maps.Keys(c.want))
	if platforms[0] == "" {
		platforms[0] = "linux/amd64"
	}
	images := map[string]v1.Image{}
	for _, platform := range platforms {
		if _, ok := s.result(t, image+"@"+strings.TrimPrefix(platform, "linux/")); !ok {
			t.Fatalf("was not built:\n%s", s.log(t, image+"@"+strings.TrimPrefix(platform, "linux/")))
		}
		p, err := v1.ParsePlatform(platform)
		if err != nil {
			t.Fatal(err)
		}
		images[platform] = s.image(t, image+"-latest", remote.WithPlatform(*p))
		content := files(t, images[platform])
		want := c.want[platform]
		if want == nil {
			want = c.want[""]
		}
		for path, text := range want {
			if got, ok := content[path]; !ok || string(got) != text {
				t.Errorf("%s: %s holds %q (%v), want %q", platform, path, got, ok, text)
			}
		}
		for _, path := range c.lacks {
			if got, ok := content[path]; ok {
				t.Errorf("%s: %s holds %q, and should not be there", platform, path, got)
			}
		}
		got := labels(t, images[platform])
		for name, want := range c.labels {
			if got[name] != want {
				t.Errorf("%s: label %s is %q, want %q", platform, name, got[name], want)
			}
		}
	}
	if c.check != nil {
		c.check(t, s, image, images)
	}
}

// upstream serves a repository with the tag v1, the branch next and a commit
// that neither names, and gives its URL and that commit.
func (s *site) upstream(t *testing.T) (url, commit string) {
	t.Helper()
	repos := filepath.Join(s.place, "git")
	work := filepath.Join(repos, "work")
	put := func(text string) {
		for name, text := range map[string]string{
			"docker/Dockerfile": "FROM scratch\nCOPY hello.txt /\n", "src/hello.txt": text,
			"src/Makefile": ownMake["Makefile"], "src/image.sh": ownMake["image.sh"],
		} {
			path := filepath.Join(work, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		gitIn(t, work, "add", "-A")
		gitIn(t, work, "commit", "-q", "-m", text)
	}
	if err := os.MkdirAll(work, 0o755); err != nil {
		t.Fatal(err)
	}
	gitIn(t, work, "init", "-q", "-b", "main")
	put("of v1\n")
	gitIn(t, work, "tag", "-a", "-m", "v1", "v1")
	put("of a commit\n")
	commit = gitIn(t, work, "rev-parse", "HEAD")
	put("of main\n")
	gitIn(t, work, "checkout", "-q", "-b", "next")
	put("of next\n")
	gitIn(t, repos, "clone", "-q", "--bare", "work", "hello.git")
	gitIn(t, filepath.Join(repos, "hello.git"), "config", "uploadpack.allowAnySHA1InWant", "true")
	return serveGit(t, s.hub.tls, repos) + "/hello.git", commit
}

func all(files map[string]string) map[string]map[string]string {
	return map[string]map[string]string{"": files}
}

func prefixed(prefix string, m map[string]string) map[string]string {
	out := map[string]string{}
	for name, value := range m {
		out[prefix+name] = value
	}
	return out
}

// yamlMap writes a map in YAML's flow style.
func yamlMap(m map[string]string) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, fmt.Sprintf("%s: %q", name, m[name]))
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

func labels(t *testing.T, image v1.Image) map[string]string {
	t.Helper()
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	return config.Config.Labels
}
