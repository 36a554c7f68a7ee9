package web

import (
	commandline "flag"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/plan"
)

func readFile(path string) ([]byte, error) { return os.ReadFile(path) }

// All tests together see every answer that the document names, and a refusal
// of every route that wants a token.
func TestMain(m *testing.M) {
	commandline.Parse()
	code := m.Run()
	if whole := commandline.Lookup("test.run").Value.String() == "" && commandline.Lookup("test.fuzz").Value.String() == ""; code == 0 && whole {
		for _, missing := range unanswered() {
			fmt.Println("no test has seen", missing)
			code = 1
		}
	}
	os.Exit(code)
}

func unanswered() (missing []string) {
	doc, err := document()
	if err != nil {
		return []string{err.Error()}
	}
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			want := []string{}
			for status := range op.Responses.Map() {
				if status != "default" {
					want = append(want, status)
				}
			}
			if op.Security == nil {
				want = append(want, "401")
			}
			for _, status := range want {
				if _, ok := answered.Load(method + " " + path + " " + status); !ok {
					missing = append(missing, method+" "+path+" "+status)
				}
			}
		}
	}
	slices.Sort(missing)
	return missing
}

// Every route is in the document, and nothing else is.
func TestRoutesAreDocumented(t *testing.T) {
	doc, err := document()
	if err != nil {
		t.Fatal(err)
	}
	var documented, served []string
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			documented = append(documented, method+" "+path)
			if op.OperationID == "" || op.Summary == "" || len(op.Tags) != 1 {
				t.Errorf("%s %s has no id, summary or tag", method, path)
			}
		}
	}
	s, err := New(Options{Anonymous: true, Compile: func([]byte, string) (*Compiled, error) { return nil, nil }})
	if err != nil {
		t.Fatal(err)
	}
	for _, rt := range s.routes() {
		served = append(served, rt.pattern)
	}
	slices.Sort(documented)
	slices.Sort(served)
	if !slices.Equal(documented, served) {
		t.Errorf("in the document:\n%s\nserved:\n%s", strings.Join(documented, "\n"), strings.Join(served, "\n"))
	}
}

// The document's schemas have the fields of the types, and want those that are
// always there.
func TestSchemasAreThoseOfTheTypes(t *testing.T) {
	doc, err := document()
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string]any{
		"RunRequest": api.RunRequest{}, "Credential": api.Credential{}, "Run": api.Run{}, "RunImage": api.RunImage{}, "Task": api.Task{}, "Transition": api.Transition{},
		"Usage": api.Usage{}, "Published": plan.Published{}, "RunList": api.RunList{}, "CancelRequest": api.CancelRequest{}, "LogLine": api.LogLine{},
		"ContextRequest": api.ContextRequest{}, "ContextUpload": api.ContextUpload{}, "SignedURL": api.SignedURL{}, "ContextComplete": api.ContextComplete{},
		"Claim": api.Claim{}, "Assignment": api.Assignment{}, "ContextSource": api.ContextSource{}, "TaskLog": api.TaskLog{}, "TaskLine": api.TaskLine{}, "LogAck": api.LogAck{},
		"Heartbeat": api.Heartbeat{}, "HeartbeatAck": api.HeartbeatAck{}, "TaskResult": api.TaskResult{}, "Problem": api.Problem{}, "BuildLogLine": buildLine{},
	} {
		schema := doc.Components.Schemas[name]
		if schema == nil {
			t.Errorf("there is no %s", name)
			continue
		}
		all, needed := jsonFields(reflect.TypeOf(v))
		if got := slices.Sorted(maps.Keys(schema.Value.Properties)); !slices.Equal(got, all) {
			t.Errorf("%s has %v, the type %v", name, got, all)
		}
		for _, want := range schema.Value.Required {
			if !slices.Contains(needed, want) {
				t.Errorf("%s wants %s, which may be left out", name, want)
			}
		}
		if has := schema.Value.AdditionalProperties.Has; has == nil || *has {
			t.Errorf("%s lets other fields through", name)
		}
	}
}

// jsonFields gives the names of a type's fields, and of those always written.
func jsonFields(t reflect.Type) (all, needed []string) {
	for f := range t.Fields() {
		if f.Anonymous {
			a, n := jsonFields(f.Type)
			all, needed = append(all, a...), append(needed, n...)
			continue
		}
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		all = append(all, name)
		if opts == "" {
			needed = append(needed, name)
		}
	}
	slices.Sort(all)
	return all, needed
}

func TestFields(t *testing.T) {
	got := fields(reflect.TypeFor[*struct {
		A time.Time `json:"a"`
		B []map[string]*struct {
			C int `json:"c"`
		} `json:"b"`
		D int `json:"-"`
	}]())
	if !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Error(got)
	}
}
