package diff

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestDelta(t *testing.T) {
	base := bytes.Repeat([]byte("0123456789abcdef"), 8<<10) // 128 KB
	size := func(n int) string { return string(binary.AppendUvarint(nil, uint64(n))) }
	for name, test := range map[string]struct {
		delta, want string // want "" is an error
	}{
		"insert":                  {size(len(base)) + size(3) + "\x03abc", "abc"},
		"copy":                    {size(len(base)) + size(4) + "\x91\x0a\x04", "abcd"},
		"copy from far":           {size(len(base)) + size(4) + "\x97\x01\x00\x01\x04", "1234"},
		"copy with size 0":        {size(len(base)) + size(0x10000) + "\x80", string(base[:0x10000])},
		"copy with a larger size": {size(len(base)) + size(0x1ffff) + "\xf0\xff\xff\x01", string(base[:0x1ffff])},
		"to the end":              {size(len(base)) + size(1) + "\x97\xff\xff\x01\x01", "f"},
		"beyond the end":          {size(len(base)) + size(2) + "\x97\xff\xff\x01\x02", ""},
		"too much":                {size(len(base)) + size(2) + "\x03abc", ""},
		"too little":              {size(len(base)) + size(4) + "\x03abc", ""},
		"for another base":        {size(5) + size(3) + "\x03abc", ""},
		"reserved":                {size(len(base)) + size(3) + "\x03abc\x00", ""},
		"insertion cut off":       {size(len(base)) + size(3) + "\x03ab", ""},
		"copy cut off":            {size(len(base)) + size(3) + "\xff\x01", ""},
		"no size":                 {"\xff", ""},
		"endless size":            {strings.Repeat("\xff", 20), ""},
		"no instructions":         {size(len(base)) + size(3), ""},
	} {
		object := whole(base)
		made, err := object.apply([]byte(test.delta))
		if got := string(made.bytes()); got != test.want || (err == nil) != (test.want != "") || err != nil && !errors.Is(err, errDamaged) {
			t.Errorf("%s: got %.40q, %v, want %.40q", name, got, err, test.want)
		}
	}
	object := whole(base)
	if _, err := object.apply([]byte(size(len(base)) + size(maxObject+1) + "\x80")); !errors.Is(err, errTooLarge) {
		t.Errorf("too large: %v", err)
	}
}

// patch applies a delta as git's patch_delta does, byte by byte.
func patch(base, delta []byte) ([]byte, bool) {
	number := func() (n int) {
		for shift := 0; ; shift += 7 {
			if len(delta) == 0 || shift > 49 {
				return -1
			}
			c := delta[0]
			delta = delta[1:]
			if n |= int(c&0x7f) << shift; c < 0x80 {
				return n
			}
		}
	}
	if from := number(); from != len(base) {
		return nil, false
	}
	size := number()
	var made []byte
	for len(delta) > 0 && len(made) <= size {
		op := delta[0]
		delta = delta[1:]
		switch {
		case op == 0:
			return nil, false
		case op < 0x80:
			if int(op) > len(delta) {
				return nil, false
			}
			made, delta = append(made, delta[:op]...), delta[op:]
		default:
			var at [7]int
			for i := range at {
				if op>>i&1 == 1 {
					if len(delta) == 0 {
						return nil, false
					}
					at[i], delta = int(delta[0]), delta[1:]
				}
			}
			from, n := at[0]|at[1]<<8|at[2]<<16|at[3]<<24, at[4]|at[5]<<8|at[6]<<16
			if n == 0 {
				n = 0x10000
			}
			if from+n > len(base) {
				return nil, false
			}
			made = append(made, base[from:from+n]...)
		}
	}
	return made, size == len(made)
}

// Two deltas one after the other make what they make one by one.
func FuzzDelta(f *testing.F) {
	f.Add([]byte("0123456789"), []byte("\x0a\x05\x91\x02\x03\x02ab"), []byte("\x05\x04\x91\x01\x04"))
	f.Add([]byte("0123456789"), []byte("\x0a\x0a\x90\x0a"), []byte("\x0a\x14\x90\x0a\x90\x0a"))
	f.Add([]byte(""), []byte("\x00\x00"), []byte("\x00\x01\x01a"))
	f.Add([]byte("a"), []byte("\x01\x80"), []byte("\x01\x01\xff"))
	f.Fuzz(func(t *testing.T, base, one, two []byte) {
		object := whole(base)
		want := base
		for _, delta := range [][]byte{one, two} {
			var ok bool
			if want, ok = patch(want, delta); len(want) > 1<<20 {
				return
			}
			var err error
			object, err = object.apply(delta)
			if (err == nil) != ok || ok && !bytes.Equal(object.bytes(), want) {
				t.Fatalf("%q, %q, %q: got %q, %v, want %q, %v", base, one, two, object.bytes(), err, want, ok)
			}
			if !ok {
				return
			}
		}
	})
}

// Many pieces are put together before they become too many.
func TestDeltaOfManyPieces(t *testing.T) {
	base := []byte("0123456789abcdef")
	object, want := whole(base), base
	for range 12 {
		// Each doubles the object, out of pieces of 5 bytes.
		delta := binary.AppendUvarint(nil, uint64(len(want)))
		delta = binary.AppendUvarint(delta, uint64(2*len(want)))
		for range 2 {
			for at := 0; at < len(want); at += 5 {
				delta = append(delta, 0x97, byte(at), byte(at>>8), byte(at>>16), byte(min(5, len(want)-at)))
			}
		}
		var err error
		if object, err = object.apply(delta); err != nil {
			t.Fatal(err)
		}
		want = slices.Concat(want, want)
		if !bytes.Equal(object.bytes(), want) {
			t.Fatalf("%d bytes are wrong", len(want))
		}
	}
	object, err := new(patched).apply([]byte("\x00\x02\x01a\x01b"))
	if err != nil || len(object.pieces) != 2 {
		t.Fatalf("%d pieces, %v", len(object.pieces), err)
	}
	const times = manyPieces + 10
	delta := binary.AppendUvarint([]byte{2}, 2*times)
	object, err = object.apply(append(delta, strings.Repeat("\x90\x02", times)...))
	if err != nil || len(object.pieces) != times || string(object.bytes()) != strings.Repeat("ab", times) {
		t.Errorf("%d pieces, %v", len(object.pieces), err)
	}
}

// newIndex makes a pack index of version 2, or 1.
func newIndex(version int, objects map[oid]uint64) []byte {
	var ids []oid
	for id := range objects {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b oid) int { return bytes.Compare(a[:], b[:]) })
	var b, large []byte
	if version == 2 {
		b = append(b, indexMagic...)
	}
	for first := range 256 {
		n := 0
		for _, id := range ids {
			if int(id[0]) <= first {
				n++
			}
		}
		b = binary.BigEndian.AppendUint32(b, uint32(n))
	}
	for _, id := range ids {
		if version == 1 {
			b = binary.BigEndian.AppendUint32(b, uint32(objects[id]))
		}
		b = append(b, id[:]...)
	}
	if version == 2 {
		b = append(b, make([]byte, 4*len(ids))...)
		for _, id := range ids {
			if at := objects[id]; at < 1<<31 {
				b = binary.BigEndian.AppendUint32(b, uint32(at))
			} else {
				b = binary.BigEndian.AppendUint32(b, 1<<31|uint32(len(large)/8))
				large = binary.BigEndian.AppendUint64(large, at)
			}
		}
	}
	return append(append(b, large...), make([]byte, 2*idSize)...)
}

func FuzzPackIndex(f *testing.F) {
	some := map[oid]uint64{{0, 1}: 12, {0, 2}: 1 << 33, {7}: 99, {255, 255}: 1 << 31}
	for _, version := range []int{1, 2} {
		f.Add(newIndex(version, nil), []byte{7})
		f.Add(newIndex(version, some), []byte{0, 2})
	}
	f.Add(append([]byte{0xff, 't', 'O', 'c', 0, 0, 0, 3}, make([]byte, 2000)...), []byte{})
	f.Fuzz(func(t *testing.T, data, prefix []byte) {
		x, err := parseIndex(data)
		if err != nil {
			return
		}
		var id oid
		copy(id[:], prefix)
		if i := x.find(id); i >= 0 && !bytes.Equal(x.id(i), id[:]) {
			t.Errorf("found %x for %s", x.id(i), id)
		}
		for _, found := range x.withPrefix(id.String()[:4]) {
			if !strings.HasPrefix(found.String(), id.String()[:4]) {
				t.Errorf("found %s", found)
			}
		}
		for i := range x.count {
			if at, err := x.offset(i); err == nil && at < 0 {
				t.Errorf("offset %d", at)
			}
		}
	})
}

func TestPackIndex(t *testing.T) {
	objects := map[oid]uint64{}
	for i := range 3000 {
		id := hashObject(kindBlob, []byte{byte(i), byte(i >> 8)})
		objects[id] = uint64(12 + i)
		if i%10 == 0 {
			objects[id] |= 1 << 30
		}
	}
	for _, version := range []int{1, 2} {
		if version == 2 {
			objects[oid{1, 2, 3}] = 1 << 40
		}
		x, err := parseIndex(newIndex(version, objects))
		if err != nil {
			t.Fatal(err)
		}
		for id, want := range objects {
			i := x.find(id)
			if i < 0 {
				t.Fatalf("version %d: %s is not found", version, id)
			}
			if at, err := x.offset(i); err != nil || at != int64(want) {
				t.Fatalf("version %d: %s is at %d, %v, want %d", version, id, at, err, want)
			}
			if found := x.withPrefix(id.String()[:6]); !slices.Contains(found, id) {
				t.Fatalf("version %d: %s is not among %v", version, id, found)
			}
		}
		if i := x.find(oid{9, 9, 9}); i >= 0 {
			t.Errorf("version %d: found what is not there", version)
		}
	}
}

// newEntry is an entry as it is in a pack.
func newEntry(t testing.TB, k kind, size int, base, data string) string {
	t.Helper()
	head := []byte{byte(k)<<4 | byte(size&15)}
	for size >>= 4; size > 0; size >>= 7 {
		head[len(head)-1] |= 0x80
		head = append(head, byte(size&0x7f))
	}
	return string(head) + base + string(deflated(t, []byte(data), flate.DefaultCompression))
}

// A pack with one entry after another is read without harm, whatever it holds.
func FuzzPackEntry(f *testing.F) {
	self := oid{1}
	f.Add([]byte(newEntry(f, kindBlob, 3, "", "abc")), uint8(0))
	f.Add([]byte(newEntry(f, kindBlob, 300, "", strings.Repeat("abc", 100))+newEntry(f, offsetDelta, 3, "\x10", "\x03\x00\x00")), uint8(16))
	f.Add([]byte(newEntry(f, offsetDelta, 3, "\x80\x00", "abc")), uint8(0))
	f.Add([]byte(newEntry(f, idDelta, 3, string(self[:]), "\x03\x03\x91\x00\x03")), uint8(0))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}, uint8(0))
	f.Fuzz(func(t *testing.T, entries []byte, at uint8) {
		body := append([]byte("PACK\x00\x00\x00\x02\x00\x00\x00\x01"), entries...)
		body = append(body, make([]byte, packTail)...)
		x, err := parseIndex(newIndex(2, map[oid]uint64{self: packHead + uint64(at)}))
		if err != nil {
			t.Fatal(err)
		}
		p := &pack{name: "fuzzed", index: x, body: mapped{body, func() error { return nil }}}
		if err := p.check(); err != nil {
			t.Fatal(err)
		}
		// The index says that it is this id, so a right answer is out of reach.
		if o, found, err := p.read(self, &keptObjects{}); !found || !errors.Is(err, errDamaged) && !errors.Is(err, errTooLarge) {
			t.Errorf("got %v, %v, %v", o, found, err)
		}
		if o, err := p.readAt(packHead+int64(at), &keptObjects{}); err == nil && (o.kind < kindCommit || o.kind > kindTag) {
			t.Errorf("kind %d", o.kind)
		}
	})
}

// Deltas that are made from each other have no end.
func TestDeltasInACircle(t *testing.T) {
	a, b := oid{1}, oid{2}
	first := newEntry(t, idDelta, 3, string(b[:]), "\x03\x03\x91\x00\x03")
	second := newEntry(t, idDelta, 3, string(a[:]), "\x03\x03\x91\x00\x03")
	body := append([]byte("PACK\x00\x00\x00\x02\x00\x00\x00\x02"+first+second), make([]byte, packTail)...)
	x, err := parseIndex(newIndex(2, map[oid]uint64{a: packHead, b: packHead + uint64(len(first))}))
	if err != nil {
		t.Fatal(err)
	}
	p := &pack{name: "circle", index: x, body: mapped{body, func() error { return nil }}}
	if _, _, err := p.read(a, &keptObjects{}); !errors.Is(err, errDamaged) || !strings.Contains(err.Error(), "follow each other") {
		t.Errorf("got %v", err)
	}
}

func TestKeptObjects(t *testing.T) {
	var kept keptObjects
	p := &pack{}
	large := make([]byte, keptLarge/4)
	size := 0
	for i := range int64(1000) {
		kept.put(p, i, keptObject{kind: kindTree, data: large})
		if _, ok := kept.get(p, i); !ok {
			t.Fatalf("%d is not kept", i)
		}
		if _, ok := kept.get(p, 0); !ok {
			t.Fatalf("what is asked for all the time is gone after %d", i)
		}
	}
	for i := range int64(1000) {
		if o, ok := kept.get(p, i); ok {
			size += len(o.data)
		}
	}
	if size > keptBytes || size < keptBytes/4 {
		t.Errorf("%d bytes are kept", size)
	}
	kept.put(p, 2000, keptObject{kind: kindBlob, data: make([]byte, keptLarge+1)})
	if _, ok := kept.get(p, 2000); ok {
		t.Error("something large is kept")
	}
}
