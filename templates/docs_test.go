package templates_test

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/pkg/config"
)

// The reference names every key of every file.
func TestConfigurationReference(t *testing.T) {
	text, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[reflect.Type]bool{}
	var walk func(reflect.Type)
	walk = func(typ reflect.Type) {
		switch typ.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Map:
			walk(typ.Elem())
		case reflect.Struct:
			for field := range typ.Fields() {
				key, _, _ := strings.Cut(field.Tag.Get("yaml"), ",")
				if !strings.Contains(string(text), "`"+key+"`") {
					t.Errorf("docs/configuration.md does not have `%s` of %s", key, typ.Name())
				}
				if !seen[field.Type] {
					seen[field.Type] = true
					walk(field.Type)
				}
			}
		}
	}
	walk(reflect.TypeFor[config.BuildConfig]())
	walk(reflect.TypeFor[config.Pipegen]())
}
