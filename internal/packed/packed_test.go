package packed

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
)

type pairs map[string]string

type inner struct {
	Text  string
	Count int
}

type outer struct {
	Name    string
	On      bool
	Maybe   *bool
	Inner   *inner
	List    []string
	Inners  []inner
	Pairs   pairs
	By      map[string]inner
	Numbers []int
}

func samples() []outer {
	return []outer{
		{},
		{Name: "a", On: true, Maybe: new(false), Inner: &inner{"x\x00y", -3}},
		{List: []string{}, Inners: []inner{}, Pairs: pairs{}, By: map[string]inner{}, Numbers: []int{}},
		{
			List: []string{"", "b"}, Inners: []inner{{"é", 1 << 40}, {}}, Pairs: pairs{"k": "v", "": "", "b": "c"},
			By: map[string]inner{"x": {"y", 1}, "a": {}}, Numbers: []int{0, -1},
		},
	}
}

func TestRoundTrip(t *testing.T) {
	for i, want := range samples() {
		data, ok := Append([]byte("before"), want)
		if !ok {
			t.Fatalf("%d: not packed", i)
		}
		again, _ := Append([]byte("before"), want)
		if !bytes.Equal(again, data) {
			t.Errorf("%d: not the same bytes twice", i)
		}
		got := outer{Name: "what was there", List: []string{"x"}, On: true}
		if err := Decode(strings.TrimPrefix(string(data), "before"), &got); err != nil {
			t.Fatalf("%d: %v", i, err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%d: got %+v, want %+v", i, got, want)
		}
	}
}

func TestWhatIsTooLong(t *testing.T) {
	if _, ok := Append(nil, make([]string, maxElements)); ok {
		t.Error("a list of any length is packed")
	}
	if data, ok := Append(nil, make([]string, maxElements-1)); !ok {
		t.Error("a list of the greatest length is not packed")
	} else if err := Decode(string(data), new([]string)); err != nil {
		t.Error(err)
	}
}

func TestMalformed(t *testing.T) {
	data, _ := Append(nil, samples()[3])
	for n := range data {
		if err := Decode(string(data[:n]), new(outer)); err == nil {
			t.Errorf("%d of %d bytes are decoded", n, len(data))
		}
	}
	if err := Decode(string(data)+"x", new(outer)); err == nil {
		t.Error("more than a value is decoded")
	}
	if err := Decode("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", new(string)); err == nil {
		t.Error("an endless number is decoded")
	}
}

// What is decoded from any bytes can be packed, and is the same again.
func FuzzDecode(f *testing.F) {
	for _, s := range samples() {
		data, _ := Append(nil, s)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var first, second outer
		if Decode(string(data), &first) != nil {
			return
		}
		packed, ok := Append(nil, first)
		if !ok {
			t.Fatalf("%+v was decoded and cannot be packed", first)
		}
		if err := Decode(string(packed), &second); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(first, second) {
			t.Fatalf("got %+v, want %+v", second, first)
		}
	})
}
