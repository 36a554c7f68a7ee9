package submission

import (
	"errors"
	"io/fs"
	"maps"
	"strings"

	"github.com/compose-spec/compose-go/v2/dotenv"

	"github.com/pipegen/pipegen/internal/lazyregexp"
	"github.com/pipegen/pipegen/pkg/failure"
)

// Environment gives variables as a process has them (NAME=VALUE) by name, with
// those of an .env file under them. A file that is not there has none. The file
// is read as Docker Compose reads it: NAME=VALUE lines, export, comments,
// quotes, and ${NAME} outside of single quotes. Errors wrap failure.ErrInput,
// and do not show values.
func Environment(environ []string, file string) (map[string]string, error) {
	env := make(map[string]string, len(environ))
	for _, kv := range environ {
		if name, value, found := strings.Cut(kv, "="); found {
			env[name] = value
		}
	}
	return withFile(env, file)
}

func withFile(env map[string]string, file string) (map[string]string, error) {
	data, err := read(file)
	if errors.Is(err, fs.ErrNotExist) {
		return env, nil
	}
	if err != nil {
		return nil, err
	}
	under, err := readEnvironment(string(data), env)
	if err != nil {
		return nil, failure.WithHint(failure.Input("%s: %w", file, err), "write NAME=value lines, values with blanks in quotes")
	}
	maps.Copy(under, env)
	return under, nil
}

// Where the library says what is wrong it quotes the line, which may hold a
// secret.
var wrongLine = lazyregexp.New(`^line (\d+): (unexpected character|unterminated quoted value|key cannot contain a space)`)

func readEnvironment(text string, env map[string]string) (map[string]string, error) {
	vars, err := dotenv.UnmarshalWithLookup(text, func(name string) (string, bool) {
		v, ok := env[name]
		return v, ok
	})
	if err == nil {
		return vars, nil
	}
	if m := wrongLine.FindStringSubmatch(err.Error()); m != nil {
		what := m[2]
		if what == "unexpected character" {
			what = "the name of a variable has an unexpected character"
		}
		return nil, errors.New("line " + m[1] + ": " + what)
	}
	return nil, errors.New("it is no list of variables")
}
