package gittest

import (
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
)

// BuildFile makes a project of the directory that holds it.
const BuildFile = "build-config.yaml"

// History is a random history of a repository with projects: branches and
// merges, renames, deletions, changed modes, symbolic links, submodules, files
// that become directories and back, and names of all kinds.
type History struct {
	// Trees of the commits: path to mode, a blank, and content.
	Trees []map[string]string
	// Numbers of the parents of each commit.
	Parents [][]int

	rand *rand.Rand
}

// Parts of names, odd ones among them.
var parts = []string{
	"a", "b", "c", "A", "B", "a-b", "a.b", "a0", "ab", "x y", " ", `q"`, "t\tt", "n\nn", "日本", "e\u0301", "\u202etxt", "\xff\xfe", "-d", "--", "'", `\`, "*",
	":(top)", "$(id)", "#c", "a.", ".x",
}

// Names that files alone have.
var files = []string{BuildFile, BuildFile, BuildFile, ".gitattributes", "Dockerfile"}

// What symbolic links lead to, beside each other.
var targets = []string{"/nonexistent", "..", "../../x", ".", "a", "b/c"}

var attributes = []string{"* text=auto eol=crlf\n", "*.b -text diff=x export-ignore\n", "* filter=none\n*.b working-tree-encoding=UTF-16\n", "a merge=union linguist-generated\n"}

// Random makes a history of that many commits.
func Random(r *rand.Rand, commits int) *History {
	h := &History{rand: r}
	for i := range commits {
		tree := map[string]string{}
		var parents []int
		if i > 0 && r.IntN(20) > 0 {
			parents = append(parents, i-1-r.IntN(min(i, 3)))
			maps.Copy(tree, h.Trees[parents[0]])
			if other := r.IntN(i); other != parents[0] && r.IntN(3) == 0 {
				parents = append(parents, other)
				for _, p := range slices.Sorted(maps.Keys(h.Trees[other])) {
					if r.IntN(2) == 0 {
						put(tree, p, h.Trees[other][p])
					}
				}
			}
		}
		if i == 0 || r.IntN(12) > 0 {
			h.mutate(tree)
		}
		h.Trees, h.Parents = append(h.Trees, tree), append(h.Parents, parents)
	}
	return h
}

// Path makes up a path.
func (h *History) Path() string {
	p := parts[h.rand.IntN(len(parts))]
	for h.rand.IntN(3) > 0 && strings.Count(p, "/") < 3 {
		p += "/" + parts[h.rand.IntN(len(parts))]
	}
	if h.rand.IntN(3) == 0 {
		p = path.Join(path.Dir(p), files[h.rand.IntN(len(files))])
	}
	return p
}

// put makes room for a path as git would: a file of the name of one of its
// directories goes, and what is below it.
func put(tree map[string]string, name, content string) {
	for other := range tree {
		if strings.HasPrefix(other, name+"/") || strings.HasPrefix(name, other+"/") {
			delete(tree, other)
		}
	}
	switch path.Base(name) {
	case BuildFile: // always one that can be read, and needs no other file
		mode, text, _ := strings.Cut(content, " ")
		if mode != "100755" {
			mode = "100644"
		}
		content = fmt.Sprintf("%s name: p%08x\nupstream_repo: https://git.example.org/x.git\nupstream_ref: v%d\n", mode, sum(name), sum(text)%50)
	case ".gitattributes":
		content = "100644 " + attributes[len(content)%len(attributes)]
	}
	tree[name] = content
}

func sum(text string) uint32 {
	h := fnv.New32a()
	h.Write([]byte(text))
	return h.Sum32()
}

func (h *History) mutate(tree map[string]string) {
	known := slices.Sorted(maps.Keys(tree))
	for range 1 + h.rand.IntN(5) {
		some := h.Path()
		if len(known) > 0 && h.rand.IntN(3) > 0 {
			some = known[h.rand.IntN(len(known))]
		}
		content := fmt.Sprint(h.rand.IntN(50))
		switch h.rand.IntN(12) {
		case 0, 1:
			delete(tree, some)
		case 2: // rename
			if was, ok := tree[some]; ok {
				delete(tree, some)
				put(tree, h.Path(), was)
			}
		case 3: // rename in case only
			if was, ok := tree[some]; ok {
				delete(tree, some)
				put(tree, strings.Map(otherCase, some), was)
			}
		case 4: // another mode
			if was, ok := tree[some]; ok {
				_, text, _ := strings.Cut(was, " ")
				put(tree, some, []string{"100644 ", "100755 ", "120000 "}[h.rand.IntN(3)]+text)
			}
		case 5:
			to := h.Path()
			if h.rand.IntN(2) == 0 {
				to = targets[h.rand.IntN(len(targets))]
			}
			put(tree, some, "120000 "+to)
		case 6:
			put(tree, some, fmt.Sprintf("160000 %040x", 1+h.rand.IntN(9)))
		case 7: // a whole directory
			dir, _, _ := strings.Cut(some, "/")
			to := h.Path()
			if path.Base(to) == BuildFile {
				to = "d" // a directory of that name is no project and no file
			}
			for _, p := range slices.Sorted(maps.Keys(tree)) {
				if rest, below := strings.CutPrefix(p, dir+"/"); below {
					was := tree[p]
					delete(tree, p)
					if h.rand.IntN(2) == 0 {
						put(tree, to+"/"+rest, was)
					}
				}
			}
		case 8: // a project, nested perhaps
			put(tree, path.Join(path.Dir(some), BuildFile), "100644 "+content)
		default:
			put(tree, some, "100644 "+content)
		}
	}
}

func otherCase(r rune) rune {
	switch {
	case r >= 'a' && r <= 'z':
		return r - 'a' + 'A'
	case r >= 'A' && r <= 'Z':
		return r - 'A' + 'a'
	}
	return r
}

// Stream gives the history as git fast-import reads it. Commit i is the branch c<i>.
func (h *History) Stream() string {
	var b strings.Builder
	quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)
	for i, tree := range h.Trees {
		// Clocks go wrong at times.
		when := 1_000_000_000 + 10*i - h.rand.IntN(2)*h.rand.IntN(60)
		fmt.Fprintf(&b, "reset refs/heads/c%d\ncommit refs/heads/c%d\nmark :%d\ncommitter C <c@example.org> %d +0000\ndata 0\n", i, i, i+1, when)
		for n, p := range h.Parents[i] {
			fmt.Fprintf(&b, "%s :%d\n", []string{"from", "merge"}[n], p+1)
		}
		b.WriteString("deleteall\n")
		for _, p := range slices.Sorted(maps.Keys(tree)) {
			mode, content, _ := strings.Cut(tree[p], " ")
			if mode == "160000" {
				fmt.Fprintf(&b, "M 160000 %s \"%s\"\n", content, quoted.Replace(p))
			} else {
				fmt.Fprintf(&b, "M %s inline \"%s\"\ndata %d\n%s\n", mode, quoted.Replace(p), len(content), content)
			}
		}
	}
	return b.String()
}
