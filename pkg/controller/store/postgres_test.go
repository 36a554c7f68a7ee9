package store

import (
	"errors"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/pkg/failure"
)

func TestRebind(t *testing.T) {
	for query, want := range map[string]string{
		"SELECT 1": "SELECT 1", "a = ? AND b IN (?,?)": "a = $1 AND b IN ($2,$3)", "?": "$1", marks(11): "$1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11",
	} {
		if got := (server{}).rebind(query); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
}

func TestPostgresURL(t *testing.T) {
	// What the environment says of servers is none of these tests' affair.
	for _, name := range []string{"PGHOST", "PGUSER", "PGPASSWORD", "PGSSLMODE", "PGSERVICE", "PGPASSFILE"} {
		t.Setenv(name, "")
	}
	for _, c := range []struct {
		url, shown      string
		password, clear bool
	}{
		{"postgres://me:hush@db.example.com/pipegen?sslmode=verify-full", "postgres://db.example.com/pipegen", true, false},
		{"postgresql://me@db.example.com:5433/pipegen", "postgresql://db.example.com:5433/pipegen", false, true},
		{"postgres://db.example.com/pipegen?user=me&password=hush&sslmode=require", "postgres://db.example.com/pipegen", true, false},
		{"postgres://me:hush@127.0.0.1/pipegen", "postgres://127.0.0.1/pipegen", true, false},
		{"postgres:///pipegen?host=/run/postgresql", "postgres:///pipegen", false, false},
		{"postgres://me:hush@localhost,db.example.com/pipegen?sslmode=disable", "postgres://localhost,db.example.com/pipegen", true, true},
		{"postgres://a.example.com,b.example.com/pipegen?sslmode=require&target_session_attrs=read-write", "postgres://a.example.com,b.example.com/pipegen", false, false},
	} {
		shown, password, clear, err := Postgres(c.url)
		if err != nil || shown != c.shown || password != c.password || clear != c.clear {
			t.Errorf("%s: %s, password %t, clear %t, %v", c.url, shown, password, clear, err)
		}
	}
	for _, url := range []string{
		"postgres://me:hush%zz@db/x", "postgres://me:hush@db:hush/x", "postgres://me:hu:s@h@db:port/x", "mysql://me:hush@db/x", "postgres://me:hush@db/x?sslmode=hush-not",
		"postgres://me:hush@db/x?sslrootcert=/nowhere/ca.pem&sslmode=verify-full", "://", "postgres://me:hush@db/x?connect_timeout=soon",
	} {
		_, err := Open(t.Context(), url)
		if !errors.Is(err, failure.ErrInput) || failure.Hint(err) == "" || strings.Contains(strings.ReplaceAll(err.Error(), "hush-not", ""), "hush") {
			t.Errorf("%s: %v; hint: %s", url, err, failure.Hint(err))
		}
	}
}

func TestUnfitServers(t *testing.T) {
	for want, f := range map[string]facts{
		"":                  {170002, "17.2", "UTF8", false},
		"PostgreSQL 13.22":  {130022, "13.22 (Debian 13.22-1)", "UTF8", false},
		"a standby":         {140000, "14.0", "UTF8", true},
		"encoding is LATIN": {140000, "14.0", "LATIN1", false},
	} {
		err := f.check("pipegen")
		if want == "" {
			if err != nil {
				t.Error(err)
			}
		} else if !errors.Is(err, failure.ErrInput) || !strings.Contains(err.Error(), want) || failure.Hint(err) == "" {
			t.Errorf("%+v: %v", f, err)
		}
	}
}

func FuzzPostgresURL(f *testing.F) {
	f.Add("hush", "db.example.com:5432")
	f.Add("p@ss:w`ord", "h")
	f.Fuzz(func(t *testing.T, password, host string) {
		marked := "QZX" + password
		_, _, _, err := Postgres("postgres://me:" + marked + "@" + host + "/x")
		if err != nil && !strings.Contains(host, "QZX") && strings.Contains(err.Error()+failure.Hint(err), "QZX") && !strings.ContainsAny(password, "/?#@") {
			t.Errorf("%v says the password %q", err, marked)
		}
	})
}

var column = regexp.MustCompile(`^    (\w+) +(TEXT|BIGINT|BLOB|BYTEA)( COLLATE "C")?(.*)`)

// Both databases have the same tables, columns and indexes.
func TestSameSchema(t *testing.T) {
	read := func(dialect string) map[string]string {
		files, err := filepath.Glob("migrations/" + dialect + "/*.sql")
		if err != nil || len(files) == 0 {
			t.Fatal(files, err)
		}
		schema := map[string]string{}
		for _, file := range files {
			text, err := migrations.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var lines []string
			for line := range strings.Lines(string(text)) {
				line, _, _ = strings.Cut(strings.TrimRight(line, "\n"), "--")
				if m := column.FindStringSubmatch(line); m != nil {
					if m[2] == "TEXT" && dialect == "postgres" && m[3] == "" {
						t.Errorf("%s: %s is not compared by its bytes", file, m[1])
					}
					line = m[1] + " " + strings.ReplaceAll(m[2], "BYTEA", "BLOB") + " " + m[4]
				}
				line = strings.Join(strings.Fields(line), " ")
				if strings.HasPrefix(line, ")") {
					line = ");" // what comes after is how it is kept
				}
				if line != "" && !strings.HasPrefix(line, "ALTER TABLE") {
					lines = append(lines, line)
				}
			}
			schema[filepath.Base(file)] = strings.Join(lines, "\n")
		}
		return schema
	}
	lite, post := read("sqlite"), read("postgres")
	if a, b := slices.Sorted(maps.Keys(lite)), slices.Sorted(maps.Keys(post)); !slices.Equal(a, b) {
		t.Errorf("SQLite has %q, PostgreSQL %q", a, b)
	}
	for file, want := range lite {
		if post[file] != want {
			t.Errorf("%s: SQLite:\n%s\nPostgreSQL:\n%s", file, want, post[file])
		}
	}
}
