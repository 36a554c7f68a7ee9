package blob_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/pkg/controller/blob"
)

// An upload that was begun and not ended goes on with the parts that are there,
// as far as they are as long as they have to be.
func TestUploadGoesOn(t *testing.T) {
	const mib = 1 << 20
	full, last := make([]byte, 8*mib), make([]byte, 3*mib)
	const size = 35 * mib // four parts and a shorter one
	for name, c := range map[string]struct {
		parts map[int][]byte
		left  []string
		deny  string
		id    string
		have  []int // numbers of parts
	}{
		"nothing":           {id: "u1"},
		"all but one":       {parts: map[int][]byte{1: full, 2: full, 3: full, 5: last}, left: []string{"old"}, id: "old", have: []int{1, 2, 3, 5}},
		"all":               {parts: map[int][]byte{1: full, 2: full, 3: full, 4: full, 5: last}, left: []string{"old"}, id: "old", have: []int{1, 2, 3, 4, 5}},
		"the newest":        {parts: map[int][]byte{1: full}, left: []string{"old", "newer"}, id: "newer", have: []int{1}},
		"no part":           {left: []string{"old"}, id: "u1"},
		"of another size":   {parts: map[int][]byte{1: last, 2: full, 5: full, 6: full}, left: []string{"old"}, id: "old", have: []int{2}},
		"only such parts":   {parts: map[int][]byte{1: last, 5: full, 6: full}, left: []string{"old"}, id: "u1"},
		"not to be looked":  {parts: map[int][]byte{1: full}, left: []string{"old"}, deny: "uploads", id: "u1"},
		"no look at parts":  {parts: map[int][]byte{1: full}, left: []string{"old"}, deny: "parts", id: "u1"},
		"more than a page":  {parts: map[int][]byte{1: full, 2: full, 3: full, 4: full}, left: []string{"old"}, id: "old", have: []int{1, 2, 3, 4}},
		"four that are old": {parts: map[int][]byte{1: full}, left: []string{"a", "b", "c", "d"}, id: "d", have: []int{1}},
	} {
		t.Run(name, func(t *testing.T) {
			in := &standIn{parts: c.parts, left: c.left, deny: c.deny}
			server := httptest.NewServer(in)
			defer server.Close()
			u, err := bucketAt(t, server.URL, nil).Upload(t.Context(), "a", size)
			if err != nil {
				t.Fatal(err)
			}
			if u.ID != c.id || u.PartSize != 8*mib || len(u.Parts) != 5 {
				t.Errorf("upload %s in %d parts of %d", u.ID, len(u.Parts), u.PartSize)
			}
			for _, p := range u.Parts {
				if !strings.Contains(p.URL, "uploadId="+c.id) {
					t.Errorf("a part goes to %s", p.URL)
				}
			}
			var have []int
			for i, tag := range u.Have {
				if tag == "" {
					continue
				}
				if tag != etag(c.parts[i+1]) {
					t.Errorf("part %d has the ETag %s", i+1, tag)
				}
				have = append(have, i+1)
			}
			if !slices.Equal(have, c.have) {
				t.Errorf("has the parts %v, want %v", have, c.have)
			}
			if begun := slices.Contains(in.requests, http.MethodPost+" /builds/a"); begun != (c.id == "u1") {
				t.Errorf("began another: %v", begun)
			}
		})
	}
}

// What is written says how it is to be encrypted, and no part of an upload does.
func TestEncryption(t *testing.T) {
	yes := true
	for _, c := range []struct {
		e    blob.Encryption
		want map[string]string
	}{
		{blob.Encryption{}, map[string]string{"": "", "-Aws-Kms-Key-Id": "", "-Bucket-Key-Enabled": ""}},
		{blob.Encryption{Algorithm: "AES256"}, map[string]string{"": "AES256", "-Aws-Kms-Key-Id": "", "-Bucket-Key-Enabled": ""}},
		{blob.Encryption{Algorithm: "aws:kms", KMSKey: "alias/builds", BucketKey: &yes}, map[string]string{"": "aws:kms", "-Aws-Kms-Key-Id": "alias/builds", "-Bucket-Key-Enabled": "true"}},
	} {
		in := &standIn{}
		server := httptest.NewServer(in)
		s := bucketAt(t, server.URL, func(o *blob.S3Options) { o.Encryption = c.e })
		large := bytes.NewReader(make([]byte, 9<<20))
		for _, body := range []io.Reader{strings.NewReader("small"), large} {
			if err := s.Put(t.Context(), "a", body, -1); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.Upload(t.Context(), "a", 1); err != nil {
			t.Fatal(err)
		}
		server.Close()
		for i, request := range in.requests {
			begins := request == "POST /builds/a" && in.headers[i].Get("Content-Type") != "application/xml" || i == 0
			for name, want := range c.want {
				if !begins {
					want = ""
				}
				if got := in.headers[i].Get("X-Amz-Server-Side-Encryption" + name); got != want {
					t.Errorf("%+v: request %d, %s: %q, want %q", c.e, i, request, got, want)
				}
			}
		}
	}
}
