package uploadpack

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/internal/gittest"
)

// served is a repository of three commits on main, the newest first, and its
// address on a server.
func served(t *testing.T, wrap ...func(http.Handler) http.Handler) (ids []string, address string) {
	t.Helper()
	r := gittest.Init(t, "--bare")
	r.Import("commit refs/heads/main\ncommitter C <c@example.org> 1 +0000\ndata 0\nM 644 inline f\ndata 1\n1\n" +
		"commit refs/heads/main\ncommitter C <c@example.org> 2 +0000\ndata 0\nM 644 inline f\ndata 1\n2\n" +
		"commit refs/heads/main\ncommitter C <c@example.org> 3 +0000\ndata 0\nM 644 inline f\ndata 1\n3\n" +
		"reset refs/heads/other\nfrom refs/heads/main\n")
	r.Git("config", "uploadpack.allowFilter", "true")
	return strings.Fields(r.Git("rev-list", "main")), gittest.Serve(t, r.Dir, wrap...).URL
}

func dialled(t *testing.T, address string) *Remote {
	t.Helper()
	r, err := Dial(t.Context(), http.DefaultTransport, address, http.Header{"X-Test": {"1"}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestFetch(t *testing.T) {
	for name, wrap := range map[string][]func(http.Handler) http.Handler{"version 2": nil, "version 0": {gittest.Version0}} {
		t.Run(name, func(t *testing.T) {
			ids, address := served(t, wrap...)
			r := dialled(t, address+"/")
			if r.two != (wrap == nil) || !r.Filters() {
				t.Fatalf("got %+v", r)
			}
			refs, err := r.Refs(t.Context(), "refs/heads/m", "HEAD")
			want := []Ref{{"HEAD", ids[0]}, {"refs/heads/main", ids[0]}}
			if err != nil || !slices.Equal(refs, want) {
				t.Errorf("refs %v, %v", refs, err)
			}
			for _, test := range []struct {
				name    string
				req     Request
				objects byte
				shallow []string
			}{
				{"all", Request{Wants: ids[:1]}, 9, nil},
				{"one commit", Request{Wants: ids[:1], Depth: 1}, 3, ids[:1]},
				{"commits alone", Request{Wants: ids[:1], Filter: "tree:0"}, 3, nil},
				{"two commits with trees", Request{Wants: ids[:1], Depth: 2, Filter: "blob:none"}, 4, ids[1:2]},
				{"what is not there", Request{Wants: ids[:1], Haves: ids[1:2]}, 3, nil},
				{"behind a shallow commit", Request{Wants: ids[:1], Haves: ids[:1], Shallow: ids[:1], Depth: 2}, 3, ids[1:2]},
			} {
				var pack bytes.Buffer
				shallow, err := r.Fetch(t.Context(), test.req, &pack)
				if err != nil || !slices.Equal(shallow, test.shallow) || pack.Len() < 12 || pack.String()[:4] != "PACK" || pack.Bytes()[11] != test.objects {
					t.Errorf("%s: %d bytes, shallow %v, %v: %.12q", test.name, pack.Len(), shallow, err, pack.Bytes())
				}
			}
			if _, err := r.Fetch(t.Context(), Request{}, io.Discard); err == nil {
				t.Error("nothing was fetched")
			}
			_, err = r.Fetch(t.Context(), Request{Wants: []string{strings.Repeat("ab", 20)}}, io.Discard)
			if wrap == nil && !errors.Is(err, ErrRefused) || wrap != nil && !errors.Is(err, ErrUnadvertised) {
				t.Errorf("what there is not: %v", err)
			}
			full := errors.New("full")
			if _, err := r.Fetch(t.Context(), Request{Wants: ids[:1]}, writer(func([]byte) (int, error) { return 0, full })); !errors.Is(err, full) {
				t.Errorf("no room: %v", err)
			}
		})
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

func TestRedirects(t *testing.T) {
	ids, address := served(t)
	var sent []string
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { sent = append(sent, r.Header.Get("X-Test")) }))
	defer elsewhere.Close()
	_, real, _ := strings.Cut(address, "://")
	for _, test := range []struct{ name, to, want string }{
		{"within the server", "http://" + real, ""},
		{"elsewhere", elsewhere.URL, "the server redirects to " + elsewhere.Listener.Addr().String()},
		{"in a circle", "", "the server redirects on and on"},
	} {
		t.Run(test.name, func(t *testing.T) {
			mux := http.NewServeMux()
			server := httptest.NewServer(mux)
			defer server.Close()
			to := test.to
			if test.want == "" {
				// The same server, another path.
				mux.HandleFunc("/new/", func(w http.ResponseWriter, r *http.Request) {
					r.URL.Path = strings.TrimPrefix(r.URL.Path, "/new")
					proxied(t, w, r, address)
				})
				to = server.URL + "/new"
			}
			if to == "" {
				to = server.URL + "/old"
			}
			mux.HandleFunc("/old/", func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, to+strings.TrimPrefix(r.URL.RequestURI(), "/old"), http.StatusMovedPermanently)
			})
			r, err := Dial(t.Context(), http.DefaultTransport, server.URL+"/old", http.Header{"X-Test": {"secret"}})
			if test.want != "" {
				if err == nil || err.Error() != test.want {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := r.Fetch(t.Context(), Request{Wants: ids[:1]}, io.Discard); err != nil {
				t.Error(err)
			}
		})
	}
	if len(sent) > 0 {
		t.Errorf("the other server was sent %q", sent)
	}
}

func proxied(t *testing.T, w http.ResponseWriter, r *http.Request, address string) {
	t.Helper()
	req, err := http.NewRequestWithContext(r.Context(), r.Method, address+r.URL.RequestURI(), r.Body)
	if err != nil {
		t.Error(err)
		return
	}
	req.Header, req.ContentLength = r.Header, r.ContentLength
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Error(err)
		return
	}
	defer res.Body.Close()
	w.Header().Set("Content-Type", res.Header.Get("Content-Type"))
	if _, err := io.Copy(w, res.Body); err != nil {
		t.Error(err)
	}
}

func TestRefusals(t *testing.T) {
	const advertisement, result = "application/x-git-upload-pack-advertisement", "application/x-git-upload-pack-result"
	const two = "000eversion 2\n0010fetch=filter0000"
	for _, test := range []struct {
		name, greeting, answer, want string
	}{
		{"error", "002eERR access denied or repository gone away.", "", "the server refuses: access denied or repository gone away"},
		{"no protocol", "hello", "", `the answer is no git protocol: "hell"`},
		{"cut off", "000eversion", "", "the answer is cut off: unexpected EOF"},
		{"nothing", "", "", "the answer is cut off: unexpected EOF"},
		{"length", "0003", "", `the answer is no git protocol: "0003"`},
		{"too long", "fff5", "", `the answer is no git protocol: "fff5"`},
		{"another section", two, "000dwaitfor\n\n0000", `the server answers with "waitfor\n", not with a pack`},
		{"band of errors", two, "000dpackfile\n000b\x03no way0000", "the server refuses: no way"},
		{"no band", two, "000dpackfile\n0004", "the server's pack comes in no band"},
		{"end before the pack", two, "0000", `the server answers with "", not with a pack`},
		{"pack is cut off", two, "000dpackfile\n0009\x01PACK", "the answer is cut off: unexpected EOF"},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", advertisement)
				text := test.greeting
				if r.Method == http.MethodPost {
					w.Header().Set("Content-Type", result)
					text = test.answer
				}
				_, _ = io.WriteString(w, text)
			}))
			defer server.Close()
			r, err := Dial(t.Context(), http.DefaultTransport, server.URL, nil)
			if test.answer != "" && err == nil {
				_, err = r.Fetch(t.Context(), Request{Wants: []string{strings.Repeat("ab", 20)}}, io.Discard)
			}
			if err == nil || err.Error() != test.want && err.Error() != test.want+"." {
				t.Errorf("got %v\nwant %s", err, test.want)
			}
		})
	}
}

func FuzzAnswers(f *testing.F) {
	f.Add([]byte("000eversion 2\n0010fetch=filter0000"), []byte("000dpackfile\n0009\x01PACK0000"))
	f.Add([]byte("001e# service=git-upload-pack\n0000"), []byte("0008NAK\n0009\x01PACK0000"))
	f.Add([]byte("0042"+strings.Repeat("ab", 20)+" HEAD\x00side-band-64k shallow0000"), []byte("0034shallow "+strings.Repeat("ab", 20)+"00000008NAK\n0005\x010000"))
	f.Fuzz(func(t *testing.T, greeting, answer []byte) {
		r := &Remote{}
		_ = r.greet(newPackets(bytes.NewReader(greeting)))
		for _, ref := range r.refs {
			if !isHash(ref.Hash) {
				t.Errorf("ref %+v", ref)
			}
		}
		for _, read := range []func(*packets, io.Writer) ([]string, error){answerTwo, answerZero} {
			var pack bytes.Buffer
			shallow, _ := read(newPackets(bytes.NewReader(answer)), &pack)
			if pack.Len() > len(answer) || slices.ContainsFunc(shallow, func(id string) bool { return !isHash(id) }) {
				t.Errorf("%d bytes of a pack, shallow %q", pack.Len(), shallow)
			}
		}
	})
}
