package config

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

// TestEveryKeyIsRead writes each key of each struct once and reads it back,
// so that a new field cannot lack a key, nor have a type that nothing reads.
func TestEveryKeyIsRead(t *testing.T) {
	for typ, keys := range keysOf() {
		if len(keys.index) != typ.NumField() {
			t.Errorf("%s has %d fields and %d keys", typ, typ.NumField(), len(keys.index))
		}
		for i := range typ.NumField() {
			field := typ.Field(i)
			key, _, _ := strings.Cut(field.Tag.Get("yaml"), ",")
			if key == "" || key == "-" || strings.ToLower(key) != key && typ != reflect.TypeFor[ServerK8s]() {
				t.Errorf("%s.%s has the key %q", typ, field.Name, key)
				continue
			}
			doc := parse("f", []byte(fmt.Sprintf("%s: %s\n", key, sample(t, field.Type))), false)
			out := reflect.New(typ)
			decode(doc, doc.root, out.Interface())
			if len(doc.faults) > 0 {
				t.Errorf("%s.%s: %v", typ, field.Name, doc.faults)
			}
			if out.Elem().Field(i).IsZero() {
				t.Errorf("%s.%s is not read", typ, field.Name)
			}
		}
	}
	for _, typ := range []reflect.Type{reflect.TypeFor[BuildConfig](), reflect.TypeFor[Override](), reflect.TypeFor[Pipegen](), reflect.TypeFor[Target](), reflect.TypeFor[Publish]()} {
		if len(keysOf()[typ].names) == 0 {
			t.Errorf("%s is not known", typ)
		}
	}
}

// sample writes a value of a type in YAML's flow style.
func sample(t *testing.T, typ reflect.Type) string {
	t.Helper()
	switch typ.Kind() {
	case reflect.Pointer:
		return sample(t, typ.Elem())
	case reflect.String, reflect.Interface:
		return "x"
	case reflect.Bool:
		return "true"
	case reflect.Int:
		return "1"
	case reflect.Slice:
		return "[" + sample(t, typ.Elem()) + "]"
	case reflect.Map:
		return "{k: " + sample(t, typ.Elem()) + "}"
	case reflect.Struct:
		keys := keysOf()[typ]
		return "{" + keys.names[0] + ": " + sample(t, typ.Field(keys.index[keys.names[0]]).Type) + "}"
	}
	t.Fatalf("no sample of %s", typ)
	return ""
}

// TestOverridesHoldKeysOfBuildConfig: an override is laid over a build
// configuration by its keys, and judged as one.
func TestOverridesHoldKeysOfBuildConfig(t *testing.T) {
	over, build := reflect.TypeFor[Override](), reflect.TypeFor[BuildConfig]()
	filled := reflect.New(over).Elem()
	for i := range over.NumField() {
		field := over.Field(i)
		same, ok := build.FieldByName(field.Name)
		if !ok || same.Type != field.Type || same.Tag.Get("yaml") != field.Tag.Get("yaml") {
			t.Errorf("%s is another key in BuildConfig", field.Name)
		}
		var n yaml.Node
		if err := yaml.Unmarshal([]byte(sample(t, field.Type)), &n); err != nil {
			t.Fatal(err)
		}
		(&decoder{&document{}}).value(filled.Field(i), n.Content[0], field.Name)
	}
	config := reflect.ValueOf(filled.Interface().(Override).config()).Elem()
	for i := range over.NumField() {
		name := over.Field(i).Name
		if !reflect.DeepEqual(config.FieldByName(name).Interface(), filled.Field(i).Interface()) {
			t.Errorf("%s is not judged in an override", name)
		}
	}
}
