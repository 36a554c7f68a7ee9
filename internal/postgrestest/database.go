package postgrestest

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
)

// Variable names the environment variable with the URL of a server, in whose
// databases tests then run that otherwise take SQLite.
const Variable = "PIPEGEN_TEST_POSTGRES"

var made atomic.Int64

// Database gives the database of a test: a new one of the server that
// [Variable] names, which is gone when the test ends, or else a file of SQLite.
func Database(t *testing.T) string {
	t.Helper()
	server := os.Getenv(Variable)
	if server == "" {
		return filepath.Join(t.TempDir(), "pipegen.db")
	}
	name := fmt.Sprintf("test_%d_%d", os.Getpid(), made.Add(1))
	where, err := Create(t.Context(), server, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Query(context.Background(), server, "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
			t.Error(err)
		}
	})
	return where
}

// Create makes a database, and gives its URL.
func Create(ctx context.Context, server, name string) (string, error) {
	u, err := url.Parse(server)
	if err != nil {
		return "", err
	}
	u.Path = "/" + name
	return u.String(), Query(ctx, server, "CREATE DATABASE "+name)
}

// Query runs a statement in a database, and scans the row that it gives, if dest
// is given.
func Query(ctx context.Context, where, query string, dest ...any) error {
	conn, err := pgx.Connect(ctx, where)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	if len(dest) > 0 {
		return conn.QueryRow(ctx, query).Scan(dest...)
	}
	_, err = conn.Exec(ctx, query)
	return err
}
