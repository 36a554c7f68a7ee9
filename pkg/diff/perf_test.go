package diff
import ("testing";"time";"os/exec")
func TestPerf(t *testing.T) {
	for range 4 {
	t0 := time.Now(); exec.Command("git","-C","/tmp/bigrepo","diff","--name-only","HEAD~2","HEAD~1").Output(); t.Log("git diff 10", time.Since(t0))
	t0 = time.Now(); exec.Command("git","--version").Output(); t.Log("git version", time.Since(t0))
	t0 = time.Now(); exec.Command("git","-C","/tmp/bigrepo","status","--porcelain").Output(); t.Log("git status", time.Since(t0))
	t0 = time.Now(); exec.Command("git","-C","/tmp/bigrepo","ls-tree","-r", "-z", "HEAD").Output(); t.Log("git ls-tree", time.Since(t0))
	t0 = time.Now(); exec.Command("git","-C","/tmp/bigrepo","diff-files","-z", "--raw").Output(); t.Log("git diff-files", time.Since(t0))
	t0 = time.Now(); exec.Command("git","-C","/tmp/bigrepo","ls-files","-z","-t","-s","-c", "-o", "--exclude-standard").Output(); t.Log("git ls-files -s -c -o", time.Since(t0))
		t0 = time.Now()
		r, err := open(t.Context(), "/tmp/bigrepo", "/usr/bin/git")
		if err != nil { t.Fatal(err) }
		t.Log("open", time.Since(t0))
		t0 = time.Now()
		a, _ := r.Commit(t.Context(), "HEAD~2")
		b, _ := r.Commit(t.Context(), "HEAD~1")
		t.Log("commits", time.Since(t0))
		t0 = time.Now()
		r.backend.changes(t.Context(), a.Tree, b.Tree)
		t.Log("changes", time.Since(t0))
		t0 = time.Now()
		e,_ := r.backend.entries(t.Context(), b.Tree)
		t.Log("entries", time.Since(t0), len(e))
		t0 = time.Now()
		r.backend.work(t.Context())
		t.Log("work", time.Since(t0))
		t0 = time.Now()
		r.Close()
		t.Log("close", time.Since(t0))
	}
}
