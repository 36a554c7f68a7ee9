// Package packed turns values into few bytes and back, for caches: what one
// build of a program writes only the same build reads. Values consist of
// structs whose fields are all exported, pointers, lists, maps with text as
// keys, texts, whole numbers and bools.
package packed

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
)

// maxElements bounds lists and maps, so that bytes that were tampered with
// cannot fill the memory.
const maxElements = 1 << 14

// Append appends the form of v to b; ok is false for a list or map that is too
// long. The same value gives the same bytes. A type that this package does not
// know is a panic.
func Append(b []byte, v any) (_ []byte, ok bool) {
	e := encoder{b, true}
	e.value(reflect.ValueOf(v))
	return e.b, e.ok
}

type encoder struct {
	b  []byte
	ok bool
}

func (e *encoder) value(v reflect.Value) {
	switch v.Kind() {
	case reflect.Bool:
		n := uint64(0)
		if v.Bool() {
			n = 1
		}
		e.number(n)
	case reflect.Int:
		e.b = binary.AppendVarint(e.b, v.Int())
	case reflect.String:
		e.text(v.String())
	case reflect.Pointer:
		if v.IsNil() {
			e.number(0)
			return
		}
		e.number(1)
		e.value(v.Elem())
	case reflect.Slice:
		if e.length(v) {
			for i := range v.Len() {
				e.value(v.Index(i))
			}
		}
	case reflect.Map:
		if !e.length(v) {
			return
		}
		all := make(map[string]reflect.Value, v.Len())
		for it := v.MapRange(); it.Next(); {
			all[it.Key().String()] = it.Value()
		}
		for _, key := range slices.Sorted(maps.Keys(all)) {
			e.text(key)
			e.value(all[key])
		}
	case reflect.Struct:
		e.structure(v)
	default:
		panic(unknown(v.Type()))
	}
}

// structure writes how many fields are skipped, as most are zero, and the next
// one, until there are no more.
func (e *encoder) structure(v reflect.Value) {
	skipped := uint64(0)
	for i := range v.NumField() { //nolint:modernize // Fields describes each field anew
		f := v.Field(i)
		if f.IsZero() {
			skipped++
			continue
		}
		e.number(skipped)
		skipped = 0
		e.value(f)
	}
	e.number(skipped)
}

func (e *encoder) number(n uint64) { e.b = binary.AppendUvarint(e.b, n) }

func (e *encoder) text(s string) {
	e.number(uint64(len(s)))
	e.b = append(e.b, s...)
}

// length writes how long a list or map is: 0 for nil, else one more than it
// has elements.
func (e *encoder) length(v reflect.Value) bool {
	if v.IsNil() {
		e.number(0)
		return false
	}
	e.ok = e.ok && v.Len() < maxElements
	e.number(uint64(v.Len()) + 1) //nolint:gosec // a length is not negative
	return e.ok
}

var errMalformed = errors.New("not a packed value of this type")

// Decode reads into the value that v points at what Append wrote of one of the
// same type. Texts in it share the memory of data. Anything else is an error.
func Decode(data string, v any) error {
	d := decoder{data: data}
	target := reflect.ValueOf(v).Elem()
	target.SetZero()
	d.value(target)
	if d.failed || d.data != "" {
		return errMalformed
	}
	return nil
}

type decoder struct {
	data   string
	failed bool
}

// value fills in v, which is zero.
func (d *decoder) value(v reflect.Value) {
	if d.failed {
		return
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(d.number(1) == 1)
	case reflect.Int:
		v.SetInt(d.signed())
	case reflect.String:
		v.SetString(d.text())
	case reflect.Pointer:
		if d.number(1) == 0 {
			return
		}
		below := reflect.New(v.Type().Elem())
		d.value(below.Elem())
		v.Set(below)
	case reflect.Slice:
		d.list(v)
	case reflect.Map:
		d.mapping(v)
	case reflect.Struct:
		n := v.NumField()
		for i := d.skip(n); i < n; i += d.skip(n - i) {
			d.value(v.Field(i))
			i++
		}
	default:
		panic(unknown(v.Type()))
	}
}

// skip reads how many of the fields that are left are skipped.
func (d *decoder) skip(left int) int { return int(d.number(uint64(left))) } //nolint:gosec // at most left

func (d *decoder) list(v reflect.Value) {
	n := d.length()
	if n < 0 {
		return
	}
	if texts, ok := reflect.TypeAssert[*[]string](v.Addr()); ok {
		*texts = make([]string, n)
		for i := range n {
			(*texts)[i] = d.text()
		}
		return
	}
	all := reflect.MakeSlice(v.Type(), n, n)
	for i := range n {
		d.value(all.Index(i))
	}
	v.Set(all)
}

func (d *decoder) mapping(v reflect.Value) {
	n := d.length()
	if n < 0 {
		return
	}
	t := v.Type()
	if t.Elem().Kind() == reflect.String {
		texts := make(map[string]string, n)
		for range n {
			key := d.text()
			texts[key] = d.text()
		}
		d.failed = d.failed || len(texts) != n
		v.Set(reflect.ValueOf(texts).Convert(t))
		return
	}
	all := reflect.MakeMapWithSize(t, n)
	for range n {
		key, element := reflect.New(t.Key()).Elem(), reflect.New(t.Elem()).Elem()
		key.SetString(d.text())
		d.value(element)
		all.SetMapIndex(key, element)
	}
	d.failed = d.failed || all.Len() != n
	v.Set(all)
}

// length gives how many elements follow; -1 for nil.
func (d *decoder) length() int {
	n := int(d.number(maxElements)) - 1 //nolint:gosec // at most maxElements
	// Each takes a byte at least.
	if n > len(d.data) {
		d.failed = true
		return -1
	}
	return n
}

// number reads a number that is at most limit.
func (d *decoder) number(limit uint64) uint64 {
	// binary.Uvarint, for a string.
	var n uint64
	for i := 0; i < len(d.data) && i < binary.MaxVarintLen64; i++ {
		c := d.data[i]
		n |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			d.data = d.data[i+1:]
			if n > limit {
				break
			}
			return n
		}
	}
	d.failed = true
	return 0
}

func (d *decoder) signed() int64 {
	n, size := binary.Varint([]byte(d.data[:min(len(d.data), binary.MaxVarintLen64)]))
	if size <= 0 {
		d.failed = true
		return 0
	}
	d.data = d.data[size:]
	return n
}

func (d *decoder) text() string {
	n := d.number(uint64(len(d.data)))
	if d.failed || n > uint64(len(d.data)) {
		d.failed = true
		return ""
	}
	s := d.data[:n]
	d.data = d.data[n:]
	return s
}

func unknown(t reflect.Type) string { return fmt.Sprintf("packed: no form for type %s", t) }
