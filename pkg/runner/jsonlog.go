package runner

import (
	"encoding/json"
	"io"
	"time"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// jsonLog writes one object a line.
type jsonLog struct {
	enc     *json.Encoder
	logPath func(string) string
}

// jsonLine is a line of the JSON format. Times are in seconds.
type jsonLine struct {
	TS      time.Time `json:"ts"`
	Level   string    `json:"level"`
	Build   string    `json:"build,omitempty"`
	Image   string    `json:"image,omitempty"`
	Event   EventKind `json:"event"`
	Message string    `json:"message"`
	State   State     `json:"state,omitempty"`
	Elapsed *float64  `json:"elapsed,omitempty"`
	Digest  string    `json:"digest,omitempty"`
	Tags    []string  `json:"tags,omitempty"`
	Hint    string    `json:"hint,omitempty"`
	// Path of the whole log of a build that failed.
	Log string `json:"log,omitempty"`
	// Of the run's end.
	Images []jsonImage `json:"images,omitempty"`
}

type jsonImage struct {
	Name    string   `json:"name"`
	State   State    `json:"state"`
	Digest  string   `json:"digest,omitempty"`
	Tags    []string `json:"tags,omitempty"`
	Reason  string   `json:"reason,omitempty"`
	Elapsed float64  `json:"elapsed"`
}

func newJSONLog(w io.Writer, logPath func(string) string) *jsonLog {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return &jsonLog{enc, logPath}
}

// Observe writes e.
func (j *jsonLog) Observe(e Event) {
	l := jsonLine{TS: e.Time.UTC(), Level: "info", Event: e.Kind, State: e.State}
	if e.Image != nil {
		l.Image = e.Image.Name
	}
	if e.Build != nil {
		l.Build = e.Build.ID
	}
	l.Message, _ = message(e)
	if e.Err != nil {
		l.Level, l.Hint = "error", quote.Text(failure.Hint(e.Err))
	}
	switch e.Kind {
	case BuildFinished, ImagePublished, ImageFailed, RunFinished:
		seconds := e.Elapsed.Seconds()
		l.Elapsed = &seconds
	case ImageSkipped:
		l.Level = "warning"
	case Note:
		l.Message = clean(e.Line)
		if e.Warning {
			l.Level = "warning"
		}
	}
	switch {
	case e.Result != nil:
		l.Digest = e.Result.Digest
	case e.Published != nil:
		l.Digest, l.Tags = e.Published.Digest, e.Published.Tags
	case e.State == Failed && j.logPath != nil:
		l.Log = j.logPath(e.Build.ID)
	}
	if e.Summary != nil {
		l.State = Succeeded
		if err := e.Summary.Err(); err != nil {
			l.Level, l.State, l.Message = "error", Failed, oneLine(err)
			if e.Summary.Cause != nil {
				l.State = Interrupted
			}
		}
		for _, img := range e.Summary.Images {
			out := jsonImage{Name: img.Name, State: img.State, Elapsed: img.Elapsed.Seconds()}
			if img.Published != nil {
				out.Digest, out.Tags = img.Published.Digest, img.Published.Tags
			} else {
				out.Reason = outcome(img)
			}
			l.Images = append(l.Images, out)
		}
	}
	_ = j.enc.Encode(l)
}
