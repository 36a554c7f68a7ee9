package api

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestTaskLogParse(t *testing.T) {
	at := time.Date(2026, 11, 21, 1, 2, 3, 456789000, time.UTC)
	for _, l := range []TaskLog{
		{From: 0, Lines: []TaskLine{{Time: at, Message: "plain"}}},
		{From: 1 << 50, Lines: []TaskLine{
			{Time: at, Level: "warning", Message: "\"quoted\" \\ \x00\n\t <&> ü \u2028", More: true},
			{Time: at.Add(time.Hour), Message: ""}, {Message: strings.Repeat("x", 1<<16)},
		}},
	} {
		data, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		var got TaskLog
		if !got.Parse(data) || !reflect.DeepEqual(got, l) {
			t.Errorf("%.200s is read as %.200v", data, got)
		}
	}
	for _, text := range []string{
		"", "{", `{"from":0}`, `{"from":0,"lines":[]}`, `{"from":0,"lines":[`, `{"from":-1,"lines":[{"ts":"2026-01-01T00:00:00Z","message":""}]}`,
		`{"from":01,"lines":[{"ts":"2026-01-01T00:00:00Z","message":""}]}`, `{"from":0,"lines":[{"ts":"now","message":""}]}`,
		`{"from":0,"lines":[{"ts":"2026-01-01T00:00:00Z","message":"","other":1}]}`, `{"from":0,"lines":[{"ts":"2026-01-01T00:00:00Z","message":"\q"}]}`,
		`{"from":0,"lines":[{"ts":"2026-01-01T00:00:00Z","message":""}],"x":1}`, `{"from":0,"lines":[{"ts":"2026-01-01T00:00:00Z","message":""},`,
	} {
		l := TaskLog{From: 7}
		if l.Parse([]byte(text)) || l.From != 7 {
			t.Errorf("%s is read as %+v", text, l)
		}
	}
}

// Whatever Parse reads, encoding/json reads as the same.
func FuzzTaskLogParse(f *testing.F) {
	for _, text := range []string{
		`{"from":3,"lines":[{"ts":"2026-11-21T01:02:03.5Z","level":"error","message":"a\u00e9\"","more":true},{"ts":"2026-11-21T01:02:03+01:00","message":"\ud83d\ude00\ud83d"}]}`,
		`{"from":0,"lines":[{"ts":"2026-11-21T01:02:03Z","message":"` + "\xff" + `"}]}`,
		`{"from":0,"lines":[{"ts":"2026-11-21T24:00:00Z","message":""}]}` + "\n",
		`{"from":1,"lines":[{"ts":"2026-11-21T1:02:03,5Z","message":"a` + "\x7f" + `"}]}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var got, want TaskLog
		if !got.Parse(data) {
			return
		}
		dec := json.NewDecoder(bytes.NewReader(data))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&want); err != nil {
			t.Fatalf("%q is read as %+v, and otherwise %v", data, got, err)
		}
		same := got.From == want.From && len(got.Lines) == len(want.Lines)
		for i := 0; same && i < len(got.Lines); i++ {
			a, b := got.Lines[i], want.Lines[i]
			same = a.Time.Equal(b.Time) && a.Level == b.Level && a.Message == b.Message && a.More == b.More
		}
		if !same {
			t.Errorf("%q is read as %+v, and otherwise as %+v", data, got, want)
		}
	})
}
