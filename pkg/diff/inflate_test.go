package diff

import (
	"bytes"
	"compress/flate"
	"compress/zlib"
	"errors"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
)

// deflated is data at a level of compression.
func deflated(t testing.TB, data []byte, level int) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := zlib.NewWriterLevel(&b, level)
	if err == nil {
		_, err = w.Write(data)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

var levels = []int{flate.NoCompression, flate.BestSpeed, flate.DefaultCompression, flate.BestCompression, flate.HuffmanOnly}

func TestInflate(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 200_000)
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	skewed := make([]byte, 300_000) // has codes of all lengths
	for i := range skewed {
		for skewed[i] = 0; random.IntN(2) == 0 && skewed[i] < 200; skewed[i]++ {
		}
	}
	for name, data := range map[string][]byte{
		"nothing": {}, "one": {1}, "text": []byte("tree abc\nparent def\n"), "zeros": make([]byte, 100_000),
		"noise": noise, "skewed": skewed, "words": []byte(strings.Repeat("a bb ccc dddd ", 9999)), "short": noise[:300],
	} {
		for _, level := range levels {
			z := deflated(t, data, level)
			size := int64(len(data))
			got, err := inflate(append(bytes.Clone(z), "what follows"...), size)
			if err != nil || !bytes.Equal(got, data) {
				t.Fatalf("%s, level %d: %v", name, level, err)
			}
			wrong := bytes.Clone(z)
			wrong[len(wrong)-1]++
			for what, err := range map[string]error{
				"one byte too many": second(inflate(z, size+1)),
				"one byte too few":  second(inflate(deflated(t, append(bytes.Clone(data), 0), level), size)),
				"checksum":          second(inflate(wrong, size)),
				"more than can be":  second(inflate(z[:3], 4*maxRatio)),
			} {
				if !errors.Is(err, errDamaged) {
					t.Errorf("%s, level %d, %s: %v", name, level, what, err)
				}
			}
			for range 50 {
				end := random.IntN(len(z))
				if _, err := inflate(z[:end], size); !errors.Is(err, errDamaged) {
					t.Errorf("%s, level %d: the first %d of %d bytes: %v", name, level, end, len(z), err)
				}
			}
		}
	}
	if _, err := inflate(nil, maxObject+1); !errors.Is(err, errTooLarge) {
		t.Errorf("too large: %v", err)
	}
}

func second[A any](_ A, err error) error { return err }

// Whatever the standard library decompresses comes out the same here, and what
// it refuses is refused.
func FuzzInflate(f *testing.F) {
	for _, level := range levels {
		for _, text := range []string{"", "a", "tree 12\x00", strings.Repeat("abc", 400), strings.Repeat("\x00", 70_000)} {
			f.Add(deflated(f, []byte(text), level))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var want []byte
		r, err := zlib.NewReader(bytes.NewReader(data))
		if err == nil {
			want, err = io.ReadAll(io.LimitReader(r, 1<<20))
		}
		got, ours := inflate(data, int64(len(want)))
		if err == nil && len(want) < 1<<20 && (ours != nil || !bytes.Equal(got, want)) {
			t.Fatalf("%x: got %x, %v, want %x", data, got, ours, want)
		}
		if err != nil && ours == nil {
			t.Fatalf("%x: got %x, the standard library says %v", data, got, err)
		}
		some := make([]byte, 32)
		if n, err := inflateSome(some, data); err == nil && !bytes.HasPrefix(want, some[:n]) {
			t.Fatalf("%x begins with %x, want %x", data, some[:n], want)
		}
	})
}

func FuzzLoose(f *testing.F) {
	for _, text := range []string{"", "blob 3\x00abc", "tree 0\x00", "commit 5\x00tree ", "blob +3\x00abc", "blob -1\x00", "blob 9999999999999999999\x00", "blob 3\x00ab", "none 1\x00a"} {
		f.Add(deflated(f, []byte(text), flate.DefaultCompression))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		k, content, err := parseLoose(data)
		if err != nil {
			return
		}
		// What is accepted is what git would write, but for leading zeros of the size.
		again := deflated(t, append([]byte(k.String()+" "+strconv.Itoa(len(content))+"\x00"), content...), flate.BestSpeed)
		if k2, content2, err := parseLoose(again); err != nil || k2 != k || !bytes.Equal(content, content2) {
			t.Errorf("got %s %q, %v", k2, content2, err)
		}
	})
}
