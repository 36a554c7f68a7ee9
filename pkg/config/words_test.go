package config

import (
	"strings"
	"testing"
)

func TestWords(t *testing.T) {
	second := func(judge func(string) (string, string)) func(string) bool {
		return func(s string) bool { problem, _ := judge(s); return problem == "" }
	}
	none := func(judge func(string) string) func(string) bool {
		return func(s string) bool { return judge(s) == "" }
	}
	for _, tt := range []struct {
		name      string
		judge     func(string) bool
		good, bad []string
	}{
		{"tag", isTag,
			[]string{"a", "_", "0", "v1.2.3", "A-b_c.d", strings.Repeat("a", 128)},
			[]string{"", ".a", "-a", "a b", "a/b", "ä", "a+b", "a\n", strings.Repeat("a", 129)}},
		{"component", isComponent,
			[]string{"a", "0", "a.b", "a_b", "a__b", "a-b", "a----b", "a-b_c.d"},
			[]string{"", "A", ".a", "a.", "-a", "a-", "a..b", "a___b", "a._b", "a-_b", "a/b", "ä", "a b"}},
		{"environment variable", isEnvName,
			[]string{"A", "_", "a1", "CI_JOB_TOKEN"},
			[]string{"", "1A", "A-B", "A.B", "Ä", "A B", "A=B"}},
		{"path", none(badPath),
			[]string{"", ".", "a", "a/b", "./a", "a/../b", "...", "..a", "a:b"},
			[]string{"..", "../a", "a/../..", "a/../../b", "/a", `a\b`, "C:/a"}},
		{"git URL", second(badGitURL),
			[]string{
				"https://example.org/x", "https://user@example.org/x.git", "http://example.org:8080/a/b", "ssh://git@example.org:22/x", "git://example.org/x",
				"git@example.org:a/b.git", "example.org:a", "file:///srv/x.git",
			},
			[]string{
				"", "x", "/srv/x", "../x", `C:\x`, "C:/x", "-x", "--upload-pack=x", "https://", "https:///x", "https://example.org", "https://example.org/", "https://u:p@example.org/x",
				"https://u:@example.org/x", "ssh://-oProxyCommand=x/y", "ssh://-u@host/y", "-u@host:y", "u@-host:y", "host:-y", "ext::sh -c x", "ext::sh", "fd::3", "ftp://example.org/x",
				"u:p@example.org:x", "https://example.org/a b", "https://example.org/\n", "file://host/x", "file:///", "https://%zz/x", "http::https://example.org/x",
			}},
		{"ref", none(badRef),
			[]string{"v1", "main", "feature/x", "refs/tags/v1", "0123456", "v1.2-rc.1+build", "ä", "a@b", "@a"},
			[]string{"", "-v1", "@", "a..b", "a b", "a~1", "a^", "a:b", "a?", "a*", "a[", `a\b`, "a@{1}", "/a", "a/", "a//b", "a.", ".a", "a/.b", "a.lock", "a.lock/b", "a\x7f"}},
		{"cpu", none(badCPU),
			[]string{"1", "0.5", "500m", "16"},
			[]string{"", "m", "0", "0m", "-1", "1.", ".5", "1k", "1Gi", "1 m", "1e3", "1.2.3", "١"}},
		{"size", none(badSize),
			[]string{"512M", "2Gi", "1.5Gi", "64Ki", "1k"},
			[]string{"", "512", "512m", "2GB", "2gi", "0Gi", "-2Gi", "Gi", "2 Gi", "1.2.3Gi"}},
		{"duration", none(badDuration),
			[]string{"45m", "1h30m", "24h", "0.5h"},
			[]string{"", "0", "0s", "-1h", "30", "1d", "x"}},
		{"end of life", func(s string) bool { return !isEndOfLife(s) },
			[]string{"", "martizih/kaniko", "registry.example.org/gcr.io-kaniko-project/executor"},
			[]string{"gcr.io/kaniko-project/executor", "gcr.io/kaniko-project/executor:debug", "mirror.example.org/gcr.io/kaniko-project/executor:v1"}},
	} {
		for _, s := range tt.good {
			if !tt.judge(s) {
				t.Errorf("%s: %q is refused", tt.name, s)
			}
		}
		for _, s := range tt.bad {
			if tt.judge(s) {
				t.Errorf("%s: %q is let through", tt.name, s)
			}
		}
	}
}

func TestParsePlatform(t *testing.T) {
	for s, want := range map[string]string{
		"linux/amd64": "linux/amd64", "linux/arm64": "linux/arm64", "linux/arm64/v8": "linux/arm64", "linux/aarch64": "linux/arm64",
		"linux/arm": "linux/arm/v7", "linux/arm/v7": "linux/arm/v7", "linux/arm/6": "linux/arm/v6", "linux/x86_64": "linux/amd64", "LINUX/AMD64": "linux/amd64",
		"linux/amd64/v1": "linux/amd64", "linux/amd64/v3": "linux/amd64/v3", "linux/arm64/v8.2": "linux/arm64/v8.2", "windows/amd64": "windows/amd64",
		"macos/arm64": "darwin/arm64", "linux/s390x": "linux/s390x",
		"": "", "amd64": "", "linux": "", "linux/": "", "/amd64": "", "linux/amd65": "", "plan9/amd64": "", "linux/amd64/v9": "", "linux/s390x/v1": "", "linux/arm64/v8.x": "",
		"linux/amd64/v3/x": "", "windows(10.0.17763)/amd64": "", "linux/*": "", "windows/s390x": "",
	} {
		p, err := ParsePlatform(s)
		if (err != nil) != (want == "") || err == nil && p.String() != want {
			t.Errorf("ParsePlatform(%q) = %s, %v; want %s", s, p, err, want)
		}
	}
	for p, want := range map[Platform]string{
		{"linux", "amd64", ""}: "amd64", {"linux", "arm", "v7"}: "arm-v7", {"windows", "amd64", ""}: "windows-amd64", {"linux", "arm64", "v8.2"}: "arm64-v8.2",
	} {
		if got := p.Suffix(); got != want {
			t.Errorf("Suffix of %s is %s, want %s", p, got, want)
		}
	}
}
