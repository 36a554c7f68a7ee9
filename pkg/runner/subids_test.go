package runner

import (
	"strings"
	"testing"
)

func TestFindSubIDs(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       uint32 // 0: none
	}{
		{"by name", "other:100000:65536\nme:165536:65536\n", 165536},
		{"by number", "1001:200000:65536", 200000},
		{"the first that is large enough", "me:1000:100\nme:300000:65536\nme:400000:65536\n", 300000},
		{"just large enough, since 0 is the user", "me:100000:65535", 100000},
		{"too small", "me:100000:65534", 0},
		{"nobody", "", 0},
		{"a prefix of the name", "melissa:100000:65536\nm:100000:65536", 0},
		{"blanks and comments", "\n# me:1:65536\n  me:100000:65536  \r\n", 100000},
		{"no numbers", "me:x:65536\nme:100000:y\nme:-5:65536\nme:100000", 0},
		{"root's own", "me:0:65536", 0},
		{"beyond what fits", "me:4294967295:65536\nme:4294900000:99999999999", 0},
	} {
		got, ok := findSubIDs(c.text, "me", "1001")
		if ok != (c.want != 0) || got.first != c.want {
			t.Errorf("%s: %d, %v; want %d", c.name, got.first, ok, c.want)
		}
	}
}

func TestFreeSubIDs(t *testing.T) {
	if got := freeSubIDs("", "x"); got != 100000 {
		t.Errorf("where nothing is taken: %d", got)
	}
	if got := freeSubIDs("a:100000:65536\nb:165536:65536\n", "a:300000:65536\nc:1:y"); got != 365536 {
		t.Errorf("after those that are taken: %d", got)
	}
}

func FuzzFindSubIDs(f *testing.F) {
	f.Add("me:100000:65536\n")
	f.Add("me:4294967295:4294967295")
	f.Fuzz(func(t *testing.T, text string) {
		got, ok := findSubIDs(text, "me", "1001")
		if ok && (got.first == 0 || uint64(got.first)+idCount-2 > 1<<32-1 || !strings.Contains(text, ":")) {
			t.Errorf("%q gives %d", text, got.first)
		}
	})
}
