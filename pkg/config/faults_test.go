package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestBuildConfigFaults has for each rule a file, the position and rule of
// each fault, and after a blank a piece of its hint or message.
func TestBuildConfigFaults(t *testing.T) {
	const upstream = "upstream_repo: https://example.org/x\nupstream_ref: v1\n"
	long := strings.Repeat("a", 100)
	for _, tt := range []struct {
		name, text string
		want       []string // "line:column rule|piece"
	}{
		{"nothing wrong", "index: true\n", nil},
		// The file as a whole.
		{"empty", "", []string{"1:1 empty-file|use_local_context"}},
		{"only comments", "# a\n\n", []string{"1:1 empty-file|"}},
		{"null", "---\n~\n", []string{"1:1 empty-file|"}},
		{"a list", "- a\n- b\n", []string{"1:1 wrong-type|a list, not a map"}},
		{"a text", "a\n", []string{"1:1 wrong-type|text, not a map"}},
		{"two documents", "index: true\n---\nindex: true\n", []string{"2:1 several-documents|"}},
		{"too large", "# " + strings.Repeat("x", maxFileSize), []string{"0:0 too-large|1 MiB"}},
		{"latin-1", "# a\nname: \xe4\n", []string{"2:7 not-utf8|UTF-8"}},
		{"utf-16", "\xff\xfea\x00", []string{"1:1 not-utf8|"}},
		{"binary", "index: true\nname: a\x00b\n", []string{"2:8 syntax|control"}},
		{"syntax", "index: true\nname: a: b\n", []string{"2:1 syntax|quotes"}},
		{"tab", "index: true\ncache:\n\tenable: true\n", []string{"3:1 syntax|indent with blanks"}},
		{"indentation", "outputs:\n  - image\n index: true\n", []string{"3:1 syntax|indentation"}},
		{"open bracket", "index: true\noutputs: [image\n", []string{"2:1 syntax|bracket"}},
		{"open quote", "name: 'x\n", []string{"1:1 syntax|quote"}},
		{"unknown anchor", "index: true\ntarget: *a\n", []string{"2:9 syntax|no anchor &a"}},
		{"anchor bomb", bomb(), []string{"6:57 expansion|"}},
		{"anchor in itself", "outputs: &a [image, *a]\n", []string{"1:21 expansion|"}},
		{"braces of a template", "{{ name }}: x\n", []string{"1:1 wrong-type|quotes"}},
		{"fault in an alias", "overrides:\n  linux/amd64: &a {engin: kaniko}\n  linux/arm64: *a\n", []string{"2:20 unknown-key|engine"}},
		// Keys and types.
		{"unknown key", "platform: [linux/amd64]\n", []string{`1:1 unknown-key|"platforms"`}},
		{"dash in a key", "build-args: [A=1]\n", []string{`1:1 unknown-key|"build_args"`}},
		{"unlike any", "xyzzy: 1\n", []string{"1:1 unknown-key|xyzzy"}},
		{"part of a key", "dockerfile: x\n", []string{`1:1 unknown-key|"dockerfile_path"`}},
		{"in cache", "cache:\n  enable: true\n  ttll: 1h\n", []string{`3:3 unknown-key|"ttl"`}},
		{"in resources", "resources: {gpu: 1}\n", []string{"1:13 unknown-key|"}},
		{"in a target", "targets:\n- name: a\n  stage: b\n", []string{"3:3 unknown-key|known keys: additional_tags, name, target"}},
		{"in a secret", "secrets: [{id: a, env: A, value: x}]\n", []string{"1:27 unknown-key|"}},
		{"in upstream_auth", upstream + "upstream_auth: {token: x, token_env: X}\n", []string{`3:17 unknown-key|"token_env"`}},
		{"not per platform", "overrides:\n  linux/arm64:\n    platforms: []\n", []string{"3:5 unknown-key|cannot differ per platform"}},
		{"twice", "index: true\nname: a\nindex: true\n", []string{`3:1 duplicate-key|"index" is written twice, first in line 1`}},
		{"twice below", "cache: {enable: true, enable: false}\n", []string{"1:23 duplicate-key|"}},
		{"no value", "build_args:\n", []string{"1:12 wrong-type|no value"}},
		{"text for a list", "additional_tags: latest\n", []string{"1:18 wrong-type|a list"}},
		{"map for a list", "depends_on: {a: b}\n", []string{"1:13 wrong-type|a list"}},
		{"list for text", "target: [a]\n", []string{"1:9 wrong-type|text, not a list"}},
		{"list for a map", "cache: [enable]\n", []string{"1:8 wrong-type|a map"}},
		{"boolean for text", "name: true\n", []string{"1:7 wrong-type|quotes"}},
		{"yes", "index: yes\n", []string{"1:8 wrong-type|true or false"}},
		{"null in a list", "engine_args: [--a, ~]\n", []string{"1:20 wrong-type|engine_args[1]"}},
		{"tag", "target: !!binary aGk=\n", []string{"1:9 wrong-type|YAML tag"}},
		{"control character", "target: \"a\\u0007\"\n", []string{"1:9 control-character|U+0007"}},
		{"newline in a name", "target: \"a\\nb\"\n", []string{"1:9 control-character|U+000A"}},
		{"NUL in a script", "pre_script: \"a\\0\"\n", []string{"1:13 control-character|U+0000"}},
		{"control character in a key", "build_args: {\"a\\u001b\": b}\n", []string{"1:14 control-character|"}},
		// Pairs.
		{"pair without =", "build_args: [A=1, B]\n", []string{"1:19 bad-pair|NAME=value"}},
		{"pair without name", "build_args: ['=1']\n", []string{"1:14 bad-pair|no name"}},
		{"pair twice", "build_args:\n- A=1\n- A=2\n", []string{"3:3 duplicate-key|line 2"}},
		{"pair twice in a map", "build_args:\n  A: 1\n  A: 2\n", []string{"3:3 duplicate-key|line 2"}},
		{"map in a list of pairs", "build_args:\n- A: 1\n", []string{"2:3 bad-pair|NAME=value"}},
		{"null in pairs", "build_args:\n  A:\n", []string{`2:5 bad-pair|""`}},
		{"nested pairs", "labels:\n  A: {b: c}\n  D: [e]\n", []string{"2:6 bad-pair|a map", "3:6 bad-pair|a list"}},
		{"= in a name", "build_args: {A=B: c}\n", []string{"1:14 bad-pair|"}},
		{"blank in a name", "build_args: ['A B=c']\n", []string{"1:14 bad-pair|"}},
		{"env name", "env:\n  1A: x\n  a-b: y\n  _ok: z\n", []string{"2:3 bad-env-name|", "3:3 bad-env-name|"}},
		{"env name in a list", "env: [a.b=c]\n", []string{"1:7 bad-env-name|"}},
		{"NUL in a pair", "env: {A: \"\\0\"}\n", []string{"1:10 control-character|"}},
		{"text for pairs", "build_args: A=1\n", []string{"1:13 wrong-type|a map or a list"}},
		// The source.
		{"upstream without ref", "upstream_repo: https://example.org/x\n", []string{"1:16 missing-key|upstream_ref"}},
		{"ref without upstream", "upstream_ref: v1\n", []string{"1:15 missing-key|upstream_repo"}},
		{"local context with upstream", upstream + "use_local_context: true\n", []string{"3:20 context|"}},
		{"no local context, no upstream", "use_local_context: false\n", []string{"1:20 context|"}},
		{"local path for a URL", "upstream_repo: ../x\nupstream_ref: v1\n", []string{"1:16 bad-git-url|"}},
		{"dash", "upstream_repo: --upload-pack=x\nupstream_ref: -x\n", []string{"1:16 bad-git-url|dash", "2:15 bad-ref|dash"}},
		{"transport that runs a command", "upstream_repo: 'ext::sh -c x'\nupstream_ref: v1\n", []string{"1:16 bad-git-url|"}},
		{"password", "upstream_repo: https://u:geheim@example.org/x\nupstream_ref: v1\n", []string{"1:16 bad-git-url|upstream_auth"}},
		{"ref", "upstream_repo: git@example.org:x\nupstream_ref: a..b\n", []string{"2:15 bad-ref|"}},
		{"both credentials", upstream + "upstream_auth: {token_env: A, ssh_key_env: B}\n", []string{"3:1 bad-auth|"}},
		{"no credential", upstream + "upstream_auth: {}\n", []string{"3:1 bad-auth|"}},
		{"a token in place of its variable", upstream + "upstream_auth: {token_env: glpat-x}\n", []string{"3:28 bad-env-name|not its value"}},
		{"credential for nothing", "upstream_auth: {token_env: A}\n", []string{"1:1 unused-key|"}},
		// Paths.
		{"missing Dockerfile", "dockerfile_path: docker/Dockerfile\n", []string{"1:18 missing-dockerfile|projects/app/docker/Dockerfile"}},
		{"nearly the Dockerfile", "dockerfile_path: Dockerfil\n", []string{`1:18 missing-dockerfile|did you mean "Dockerfile"`}},
		{"missing for one platform", "overrides: {linux/arm64: {dockerfile_path: x}}\n", []string{"1:44 missing-dockerfile|projects/app/x"}},
		{"a directory for a Dockerfile", "dockerfile_path: src\n", []string{"1:18 missing-dockerfile|no regular file"}},
		{"missing context", "context_path: nowhere\n", []string{"1:15 missing-context|"}},
		{"a file for a context", "context_path: Dockerfile\n", []string{"1:15 missing-context|no directory"}},
		{"out of the context", "dockerfile_path: a/../../x\ncontext_path: ..\n", []string{"1:18 bad-path|leaves", "2:15 bad-path|leaves"}},
		{"absolute", "dockerfile_path: /x\ncontext_path: C:/x\n", []string{"1:18 bad-path|absolute", "2:15 bad-path|absolute"}},
		{"backslashes", `dockerfile_path: ..\x` + "\n", []string{"1:18 bad-path|backslash"}},
		{"no file", "dockerfile_path: ./\n", []string{"1:18 bad-path|directory"}},
		{"out of the upstream", upstream + "context_path: ../x\n", []string{"3:15 bad-path|leaves"}},
		// Platforms.
		{"unknown platform", "platforms: [linux/amd64, linux/arm65]\n", []string{`1:26 unknown-platform|"linux/arm64"`}},
		{"no system", "platforms: [amd64]\n", []string{"1:13 unknown-platform|os/arch"}},
		{"unknown variant", "platforms: [linux/amd64/v9]\n", []string{"1:13 unknown-platform|variant"}},
		{"system version", "platforms: [windows(10.0)/amd64]\n", []string{"1:13 unknown-platform|"}},
		{"no platforms", "platforms: []\n", []string{"1:1 empty|"}},
		{"platform twice", "platforms:\n- linux/arm64\n- linux/arm64/v8\n", []string{`3:3 duplicate-platform|"linux/arm64"`}},
		{"override for none", "platforms: [linux/amd64]\noverrides: {linux/arm64: {target: x}}\n", []string{"2:13 unused-override|"}},
		{"override for an unknown one", "overrides: {linux/arm65: {target: x}}\n", []string{"1:13 unknown-platform|"}},
		{"override twice", "overrides:\n  linux/arm64: {target: x}\n  linux/aarch64: {target: y}\n", []string{"3:3 duplicate-platform|"}},
		{"index of several", "index: false\n", []string{"1:8 index|2"}},
		// Names and tags.
		{"bad tag", "additional_tags: [v1, a/b, -x, '']\n", []string{"1:23 bad-tag|", "1:28 bad-tag|", "1:32 bad-tag|"}},
		{"tag twice", "additional_tags: [v1, v1]\n", []string{"1:23 duplicate-tag|"}},
		{"long tag", "additional_tags: [" + long + long[:25] + "]\n", []string{"1:19 long-tag|129 characters"}},
		{"bad name", "name: my app\n", []string{"1:7 bad-name|"}},
		{"long name", "name: " + long + "\nadditional_tags: [" + long[:28] + "]\n", []string{"2:19 long-tag|129 characters"}},
		{"too long name", "name: " + long + long[:10] + "\n", []string{"1:7 long-tag|"}},
		{"target without name", "targets: [{target: a}]\n", []string{"1:11 missing-key|name"}},
		{"bad target name", "targets: [{name: a/b}]\n", []string{"1:18 bad-name|"}},
		{"target twice", "targets:\n- name: a\n- name: a\n", []string{"3:9 duplicate-target|"}},
		{"tag of a target", "targets: [{name: a, additional_tags: ['!']}]\n", []string{"1:39 bad-tag|"}},
		{"target and targets", "target: x\ntargets: [{name: a}]\n", []string{"1:9 target-and-targets|"}},
		{"target of a platform and targets", "targets: [{name: a}]\noverrides: {linux/arm64: {target: x}}\n", []string{"2:35 target-and-targets|"}},
		{"no targets", "targets: []\n", []string{"1:1 empty|"}},
		{"depends on itself", "depends_on: [base, app]\n", []string{"1:20 depends-on-itself|"}},
		{"dependency twice", "depends_on: [base, base]\n", []string{"1:20 duplicate-value|"}},
		// Values from sets, and the rest.
		{"engine", "engine: kanico\n", []string{`1:9 unknown-value|"kaniko"`}},
		{"engine far off", "engine: docker\n", []string{"1:9 unknown-value|one of: kaniko, buildkit, make"}},
		{"engine in an override", "overrides: {linux/arm64: {engine: mak}}\n", []string{`1:35 unknown-value|"make"`}},
		{"runner", "runner: kubernets\n", []string{`1:9 unknown-value|"kubernetes"`}},
		{"ecs", "runner: ecs\noutputs: [image]\n", nil},
		{"BuildKit without privilege", "runner: ecs\nengine: buildkit\n", []string{"2:9 runner-engine|buildkit.addresses"}},
		{"two runners", "runner: ecs\noverrides: {linux/arm64: {runner: ci}}\n", []string{"2:35 runners|"}},
		{"two runners of platforms", "overrides: {linux/amd64: {runner: kubernetes}, linux/arm64: {runner: ecs}}\n", []string{"1:70 runners|one runner"}},
		{"one runner of platforms", "overrides: {linux/amd64: {runner: kubernetes}, linux/arm64: {runner: kubernetes}}\n", nil},
		{"files of a runner", "runner: kubernetes\noutputs: [image, oci-tar]\n", []string{"2:1 runner-outputs|runner: ci"}},
		{"files of a runner and platform", "runner: kubernetes\noverrides: {linux/arm64: {outputs: [digest]}}\n", []string{"2:27 runner-outputs|"}},
		{"output", "outputs: [image, tar]\n", []string{"1:18 unknown-value|docker-tar"}},
		{"output twice", "outputs: [image, image]\n", []string{"1:18 duplicate-value|"}},
		{"frontend", "frontend: x\n", []string{"1:11 other-engine|", "1:11 unknown-value|dockerfile.v0"}},
		{"keys of other engines", "contexts: {a: b}\nfrontend_opts: [a=b]\ncommand: make\ncache: {mode: max}\n", []string{"1:1 other-engine|buildkit", "2:1 other-engine|buildkit", "3:10 other-engine|make", "4:15 other-engine|"}},
		{"keys of buildkit alone", "output_opts: {a: b}\nssh: [{}]\n", []string{"1:1 other-engine|buildkit", "2:1 other-engine|buildkit"}},
		{"keys of kaniko alone", "engine: buildkit\ncache: {ttl: 1h, copy_layers: true, run_layers: false, compressed: false}\n", []string{"2:14 other-engine|kaniko", "2:31 other-engine|", "2:49 other-engine|", "2:68 other-engine|"}},
		{"cache of another engine", "cache: {type: inline}\n", []string{"1:15 other-engine|buildkit"}},
		{"cache without a place", "engine: buildkit\ncache: {type: local}\n", []string{"2:1 missing-key|"}},
		{"place of no local cache", "engine: buildkit\ncache: {path: x}\n", []string{"2:15 bad-cache|local"}},
		{"inline cache of all stages", "engine: buildkit\ncache: {type: inline, mode: max}\n", []string{"2:29 bad-cache|registry"}},
		{"ssh", "engine: buildkit\nssh: [{}, {id: default}, {id: 'a,b', env: '-'}, {id: c, env: A, file: b}]\n", []string{"2:11 duplicate-secret|", "2:31 bad-secret|", "2:43 bad-env-name|", "2:49 bad-secret|"}},
		{"mirrors", "registry_mirrors: ['https://m', m, m, 'a b']\n", []string{"1:20 bad-registry|HOST", "1:36 duplicate-value|", "1:39 bad-registry|"}},
		{"cache", "cache: {ttl: 1d, mode: maximum, repo: 'https://x/y'}\n", []string{"1:14 bad-duration|45m", "1:24 other-engine|", "1:24 unknown-value|max", "1:39 bad-registry|"}},
		{"timeout", "timeout: 0s\n", []string{"1:10 bad-duration|not positive"}},
		{"timeout without unit", "timeout: 30\n", []string{"1:10 bad-duration|"}},
		{"resources", "resources:\n  cpu: 1Gi\n  memory: 512\n  ephemeral_storage: -1Gi\n", []string{"2:8 bad-quantity|500m", "3:11 bad-quantity|2Gi", "4:22 bad-quantity|"}},
		{"thousandths of a byte", "resources: {memory: 512m}\n", []string{"1:21 bad-quantity|512M"}},
		{"secret without id", "secrets: [{env: A}]\n", []string{"1:11 missing-key|id"}},
		{"secret from two", "secrets: [{id: a, env: A, file: b}]\n", []string{"1:11 bad-secret|"}},
		{"secret from two, one an ARN", "secrets: [{id: a, file: b, arn: 'arn:aws:ssm:eu-central-1:123456789012:parameter/a'}]\n", []string{"1:11 bad-secret|"}},
		{"secret of no ARN", "secrets: [{id: a, env: A, arn: 'arn:aws:s3:::b'}]\n", []string{"1:32 bad-arn|arn:aws:secretsmanager"}},
		{"secret from nowhere", "secrets: [{id: a}, {id: a, env: 'x y'}]\n", []string{"1:11 bad-secret|", "1:25 duplicate-secret|", "1:33 bad-env-name|"}},
		{"id of a secret", "secrets: [{id: 'a,b', env: A}]\n", []string{"1:16 bad-secret|comma"}},
		{"blank in an image", "builder_image: a b\n", []string{"1:16 bad-image|"}},
		{"empty entry", "depends_on: ['']\n", []string{"1:14 empty|"}},
		{"merge of no map", "<<: [a]\nindex: true\n", []string{"1:6 wrong-type|<<"}},
		{"second document is no YAML", "index: true\n---\n@\n", []string{"3:1 syntax|"}},
		{"text for a number", "overrides: x\n", []string{"1:12 wrong-type|a map"}},
		{"force", "engine_args: [--verbosity=info, --force, --force=true, --forced]\n", []string{"1:33 forbidden-flag|--force", "1:42 forbidden-flag|"}},
		{"force in an override", "overrides: {linux/arm64: {engine_args: [--force]}}\n", []string{"1:41 forbidden-flag|"}},
		{"end of life", "builder_image: gcr.io/kaniko-project/executor:latest\ncache: {repo: gcr.io/kaniko-project/cache}\n", []string{"1:16 end-of-life|maintained fork", "2:15 end-of-life|"}},
		{"globs", "watch: ['a[', /a, ../a, a/, ./a, 'x/**', '']\n", []string{"1:9 bad-glob|brackets", "1:15 bad-glob|relative", "1:19 bad-glob|relative", "1:25 bad-glob|a/**", "1:29 bad-glob|write a", "1:34 no-match|no file", "1:42 bad-glob|empty"}},
		{"a directory as a glob", "watch: [shared]\n", []string{"1:9 glob-directory|shared/**"}},
		{"globs that match nothing", "watch: [shared/**, 'sharde/**', shared/no.txt, '**/Dockerfile']\n", []string{"1:20 no-match|no file", "1:33 no-match|no file"}},
		// Several at once.
		{"five", "platforms: [linux/amd46]\nadditional_tags: [a b]\nengine: kanico\nbuild_arg: [A=1]\ndockerfile_path: ../x\n", []string{
			"1:13 unknown-platform|linux/amd64", "2:19 bad-tag|", "3:9 unknown-value|kaniko", "4:1 unknown-key|build_args", "5:18 bad-path|",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fsys := tree(map[string]string{
				"projects/app/build-config.yaml": tt.text, "projects/app/Dockerfile": "", "projects/app/src/x": "", "shared/x": "",
			})
			repo, err := Load(fsys, paths(fsys), Options{})
			sameWithCache(t, fsys, paths(fsys), Options{})
			all := faultsOf(t, err, repo)
			got := make([]string, len(all))
			for i, f := range all {
				if f.File != "projects/app/build-config.yaml" {
					t.Errorf("the file is %q", f.File)
				}
				got[i] = fmt.Sprintf("%d:%d %s", f.Line, f.Column, f.Rule)
				if i < len(tt.want) {
					if _, piece, _ := strings.Cut(tt.want[i], "|"); !strings.Contains(f.Message+"\n"+f.Hint, piece) {
						t.Errorf("%q is in neither message nor hint of %s", piece, f)
					}
				}
				if strings.Contains(f.String(), "geheim") || strings.Contains(f.String(), "glpat") {
					t.Errorf("a secret is in %s", f)
				}
			}
			want := make([]string, len(tt.want))
			for i, w := range tt.want {
				want[i], _, _ = strings.Cut(w, "|")
			}
			if !slices.Equal(got, want) {
				t.Errorf("got  %q\nwant %q\n%s", got, want, all.Error())
			}
		})
	}
}

// faultsOf gives the faults of both severities.
func faultsOf(t *testing.T, err error, repo *Repository) Faults {
	t.Helper()
	var all Faults
	if err != nil && !errors.As(err, &all) {
		t.Fatalf("the error is %T", err)
	}
	all = append(slices.Clone(all), repo.Warnings...)
	all.Sort()
	return all
}

// bomb is a file of a few hundred bytes that grows tenfold with every line.
func bomb() string {
	var b strings.Builder
	b.WriteString("overrides:\n  a: &a0 [x, x, x, x, x, x, x, x, x, x]\n")
	for i := range 9 {
		fmt.Fprintf(&b, "  b%d: &a%d [%s*a%d]\n", i, i+1, strings.Repeat(fmt.Sprintf("*a%d, ", i), 9), i)
	}
	return b.String()
}

func TestPipegenFaults(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       []string
	}{
		{"unknown key", "registy: x\n", []string{"1:1 unknown-key"}},
		{"not a map", "registry\n", []string{"1:1 wrong-type"}},
		{"registry", "registry: https://x/y\n", []string{"1:11 bad-registry"}},
		{"registry with a slash", "registry: x/y/\n", []string{"1:11 bad-registry"}},
		{"layout", "layout: tags\n", []string{"1:9 unknown-value"}},
		{"globs", "ignore: ['[']\nrebuild_all: [../x, x/]\n", []string{"1:10 bad-glob", "2:15 bad-glob", "2:21 bad-glob"}},
		{"globs that match nothing", "ignore: ['*.md', '*.yaml']\nrebuild_all:\n  - ci/**\ndefaults: {watch: ['x*', 'pipegen.*']}\n", []string{
			"1:10 no-match", "3:5 no-match", "4:20 no-match",
		}},
		{"defaults", "defaults:\n  platform: []\n  platforms: [x]\n  engine: make\n  overrides: {linux/arm64: {timeout: x}}\n", []string{
			"2:3 unknown-key", "3:15 unknown-platform", "5:38 bad-duration",
		}},
		{"runners", "runners:\n  linux/arm64: {gitlab: [a], tags: [b]}\n  linux/arm64/v8: {}\n  arm64: {}\n", []string{
			"2:30 unknown-key", "3:3 duplicate-platform", "4:3 unknown-platform",
		}},
		{"images", "images:\n  kaniko: gcr.io/kaniko-project/executor:v1\n  docker: x\n", []string{"2:11 end-of-life", "3:3 unknown-key"}},
		{"overlays", "overlays:\n  gitlb: {}\n  gitlab:\n    builds: {}\n    build: [a]\n    manifest: {a: .nan}\n", []string{
			"2:3 unknown-key", "4:5 unknown-key", "5:12 wrong-type", "6:19 wrong-type",
		}},
		{"overlay twice", "overlays: {gitlab: {build: {a: 1, a: 2}}}\n", []string{"1:35 duplicate-key"}},
		{"publish", "publish:\n  media_type: oci2\n  keys: 1\n  insecure: ['http://x']\n", []string{"2:15 unknown-value", "3:9 wrong-type", "4:14 bad-registry"}},
		{"buildkit", "buildkit: {address: x}\n", []string{"1:12 unknown-key"}},
		{"addresses of buildkit", "buildkit:\n  addresses: [unix:///s, 'unix://host/s', tcp://b:1, tcp://b, ssh://b, 'docker-container://', 'docker-container://-x', 'kube-pod://p?namespace=n', unix:///s]\n", []string{
			"2:26 bad-address", "2:43 bad-address", "2:54 bad-address", "2:63 bad-address", "2:72 bad-address", "2:95 bad-address", "2:148 duplicate-value",
		}},
		{"plain tcp to buildkit", "buildkit: {addresses: [tcp://b:1], insecure: true}\n", nil},
		{"certificates of buildkit", "buildkit: {addresses: [tcp://b:1], ca_cert: a, cert: $B, key: c}\n", nil},
		{"half of the certificates", "buildkit: {ca_cert: a, cert: $2, key: '-----BEGIN X'}\nlayout: tag\n", []string{"1:30 bad-path", "1:39 bad-path"}},
		{"one certificate", "buildkit: {cert: a}\n", []string{"1:1 missing-key", "1:1 missing-key"}},
		{"server", "server: x\n", []string{"1:9 wrong-type"}},
		{"no number in an overlay", "overlays: {gitlab: {build: {a: !!int x}}}\n", []string{"1:32 wrong-type"}},
		{"control character in an overlay", "overlays: {gitlab: {build: {a: \"\\0\"}}}\n", []string{"1:32 control-character"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, got := load(t, tree(map[string]string{"pipegen.yaml": tt.text}), []string{"pipegen.yaml"}, Options{})
			for i := range tt.want {
				tt.want[i] = "pipegen.yaml:" + tt.want[i]
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}

func TestNamesOfDirectoriesAreNotNormalised(t *testing.T) {
	for _, tt := range []struct {
		dir, layout string
		good        bool
	}{
		{"app", "tag", true},
		{"App_1.x-y", "tag", true},
		{"my app", "tag", false},
		{"-app", "tag", false},
		{".app", "tag", false},
		{"äpp", "tag", false},
		{"app", "repository", true},
		{"a--b__c.d", "repository", true},
		{"App", "repository", false},
		{"app-", "repository", false},
		{"a..b", "repository", false},
		{"a___b", "repository", false},
	} {
		fsys := tree(map[string]string{"pipegen.yaml": "layout: " + tt.layout, tt.dir + "/build-config.yaml": "index: true", tt.dir + "/Dockerfile": ""})
		repo, err := Load(fsys, paths(fsys), Options{})
		sameWithCache(t, fsys, paths(fsys), Options{})
		all := faultsOf(t, err, repo)
		if tt.good != (len(all) == 0) {
			t.Errorf("%s in layout %s: %v", tt.dir, tt.layout, all)
		}
		if !tt.good && (all[0].Rule != "bad-name" || !strings.Contains(all[0].Hint, "name:")) {
			t.Errorf("%s in layout %s: %s", tt.dir, tt.layout, all[0])
		}
	}
}

func TestTwoImagesOfOneName(t *testing.T) {
	fsys := tree(map[string]string{
		"a/app/build-config.yaml": "index: true\nname: app\n", "a/app/Dockerfile": "",
		"b/app/build-config.yaml": "index: true\n", "b/app/Dockerfile": "",
		"c/build-config.yaml": "index: true\nname: app-x\n", "c/Dockerfile": "",
		"d/build-config.yaml": "name: app\ntargets:\n- name: y\n- name: x\n", "d/Dockerfile": "",
	})
	_, err := Load(fsys, paths(fsys), Options{})
	sameWithCache(t, fsys, paths(fsys), Options{})
	const hint = "\n  hint: give one of them another name:"
	want := strings.Join([]string{
		`a/app/build-config.yaml:2:7: the image "app" is also made by b/app/build-config.yaml:1:1` + hint,
		`b/app/build-config.yaml:1:1: the image "app" is also made by a/app/build-config.yaml:2:7` + hint,
		`c/build-config.yaml:2:7: the image "app-x" is also made by d/build-config.yaml:4:9` + hint,
		`d/build-config.yaml:4:9: the image "app-x" is also made by c/build-config.yaml:2:7` + hint,
	}, "\n")
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

func TestFaultsForATerminal(t *testing.T) {
	fsys := tree(map[string]string{"a\x1b[31m/build-config.yaml": "\"x\\u001b[0m\u202e\": 1\n"})
	_, err := Load(fsys, paths(fsys), Options{})
	sameWithCache(t, fsys, paths(fsys), Options{})
	if err == nil || strings.ContainsAny(err.Error(), "\x1b\u202e") {
		t.Errorf("%q", err)
	}
}

func TestNearest(t *testing.T) {
	known := []string{"additional_tags", "build_args", "platforms", "dockerfile_path", "cache"}
	for word, want := range map[string]string{
		"platform": "platforms", "plaftorms": "platforms", "buildArgs": "build_args", "build-args": "build_args",
		"tags": "additional_tags", "dockerfile": "dockerfile_path", "cach": "cache", "CACHE": "cache",
		"x": "", "": "", "engine": "", strings.Repeat("platforms", 100): "",
	} {
		if got := Nearest(word, known); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", word, got, want)
		}
	}
}

func TestManyFaultsOfOneFile(t *testing.T) {
	var text strings.Builder
	for i := range 40_000 {
		fmt.Fprintf(&text, "plat%d: 1\n", i)
	}
	fsys := tree(map[string]string{"a/build-config.yaml": text.String(), "a/Dockerfile": ""})
	_, faults := load(t, fsys, paths(fsys), Options{})
	if len(faults) != maxFaults+1 || faults[0] != "a/build-config.yaml:0:0 many-faults" || faults[1] != "a/build-config.yaml:1:1 unknown-key" {
		t.Errorf("%d faults, first %q", len(faults), faults[:min(2, len(faults))])
	}
}
