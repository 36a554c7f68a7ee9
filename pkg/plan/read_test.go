package plan

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/pkg/failure"
)

const valid = `{"version":1,"event":"push","base":"","head":"abc","committed":"2026-11-21T01:02:03Z","created":"2026-11-21T02:03:04Z","pipeline":"","registry":"r","layout":"tag",
"ci":{"runner":{}},"publish":{},"skipped":[],"images":[{"name":"app","dir":"p/app","key":"","reasons":[],"repository":"r","tags":["app-1"],"needs":[],"index":true,"builds":[
{"id":"app@arm64","platform":"linux/arm64","engine":"kaniko","destination":"r:app-1-arm64","context":"p/app","dockerfile":"p/app/Dockerfile","outputs":[],"runner":"ci","runs_on":{},"timeout":"1h0m0s"}]}]}`

func TestRead(t *testing.T) {
	_, oneBuild, _ := strings.Cut(valid, `"index":true,`)
	p, err := Read(strings.NewReader(valid), "plan.json")
	if err != nil {
		t.Fatal(err)
	}
	if _, b, ok := p.Find("app@arm64"); !ok || b.Platform != "linux/arm64" {
		t.Errorf("found %+v", b)
	}
	for name, tc := range map[string]struct{ old, new, want string }{
		"another version":  {`"version":1`, `"version":2`, "plan plan.json has version 2, this pipegen reads version 1"},
		"no version":       {`"version":1,`, ``, "plan.json is not a plan: it has no version"},
		"unknown field":    {`"event"`, `"evnt"`, `unknown field "evnt"`},
		"wrong type":       {`"needs":[]`, `"needs":7`, "plan.json:2:"},
		"bad name":         {`"name":"app"`, `"name":"../app"`, `image "../app" has no valid name`},
		"bad id":           {`"id":"app@arm64"`, `"id":"../x@arm64"`, `should have the id "app@arm64"`},
		"bad platform":     {`"platform":"linux/arm64"`, `"platform":"arm64"`, "unknown platform"},
		"outside context":  {`"context":"p/app"`, `"context":"p/../../etc"`, "leaves the source"},
		"absolute file":    {`"dockerfile":"p/app/Dockerfile"`, `"dockerfile":"/etc/passwd"`, "leaves the source"},
		"outside dir":      {`"dir":"p/app"`, `"dir":".."`, "leaves the checkout"},
		"bad tag":          {`"app-1"]`, `"app 1"]`, `"app 1" is no valid tag`},
		"unknown need":     {`"needs":[]`, `"needs":["base"]`, "does not stand before it"},
		"something behind": {`"timeout":"1h0m0s"}]}]}`, `"timeout":"1h0m0s"}]}]} {}`, "plan.json"},
		"no builds":        {oneBuild, `"builds":[]}]}`, "has no builds"},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(valid, tc.old, tc.new, 1)
			if text == valid {
				t.Fatal("nothing replaced")
			}
			_, err := Read(strings.NewReader(text), "plan.json")
			if !errors.Is(err, failure.ErrInput) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %s", err, tc.want)
			}
		})
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(valid))
	f.Add([]byte(`{"version":1}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Read(bytes.NewReader(data), "plan.json")
		if err != nil {
			if !errors.Is(err, failure.ErrInput) {
				t.Errorf("%v is not a fault of the input", err)
			}
			return
		}
		again, err := p.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Read(bytes.NewReader(again), "again"); err != nil {
			t.Errorf("what was read and written cannot be read: %v", err)
		}
	})
}
