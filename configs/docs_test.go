// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"strings"
	"testing"
)

const (
	docsFile  = "../docs/configuration.md"
	docsBegin = "<!-- begin -->\n"
	docsEnd   = "<!-- end -->\n"
)

// documented returns the sections in the order of the page, each with its heading.
func documented() []struct {
	typ   reflect.Type
	title string
} {
	return []struct {
		typ   reflect.Type
		title string
	}{
		{reflect.TypeFor[Config](), "At the top"},
		{reflect.TypeFor[CAAM](), "`caam`"},
		{reflect.TypeFor[Volume](), "An item of `volumes`"},
		{reflect.TypeFor[Filesystem](), "`filesystem` of a volume"},
		{reflect.TypeFor[Mount](), "`mount` of a volume"},
	}
}

// comments maps each field, as TYPE.FIELD, to the text of its comment.
func comments(t *testing.T) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "types.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		if s, ok := spec.Type.(*ast.StructType); ok {
			for _, f := range s.Fields.List {
				text := strings.Join(strings.Fields(f.Doc.Text()), " ")
				texts[spec.Name.Name+"."+f.Names[0].Name] = text
			}
		}
		return false
	})
	return texts
}

func written(k kind) string {
	return [...]string{
		kindBool: "true or false", kindInt: "number", kindText: "text", kindSize: "size", kindDuration: "duration",
		kindList: "list of texts", kindSection: "fields, see below", kindSections: "list of fields, see below",
	}[k]
}

func TestDocumentationIsMadeOfTheTypes(t *testing.T) {
	t.Parallel()
	texts := comments(t)
	var b strings.Builder
	for _, s := range documented() {
		fmt.Fprintf(&b, "\n### %s\n\n| field | written as | |\n|---|---|---|\n", s.title)
		for _, f := range fieldsOf(s.typ) {
			text := texts[s.typ.Name()+"."+s.typ.Field(f.index).Name]
			if text == "" {
				t.Errorf("%s.%s has no comment", s.typ.Name(), f.name)
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", f.name, written(f.kind), strings.ReplaceAll(text, "|", `\|`))
		}
	}
	b.WriteString("\n")
	page, err := os.ReadFile(docsFile)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(page), docsBegin)
	have, tail, ok2 := strings.Cut(rest, docsEnd)
	if !ok || !ok2 {
		t.Fatalf("%s lacks its marks", docsFile)
	}
	if *update {
		if err := os.WriteFile(docsFile, []byte(head+docsBegin+b.String()+docsEnd+tail), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if have != b.String() {
		t.Errorf("%s is out of date with types.go; regenerate it with -update", docsFile)
	}
}

// Defaults in the comments are the ones that a volume gets.
func TestDocumentedDefaultsAreTrue(t *testing.T) {
	t.Parallel()
	texts := comments(t)
	c := parse(t, "volumes: [{name: data, device: /dev/sda}]")
	values := map[string]reflect.Value{
		"Config": reflect.ValueOf(*c), "CAAM": reflect.ValueOf(c.CAAM), "Volume": reflect.ValueOf(c.Volumes[0]),
		"Filesystem": reflect.ValueOf(c.Volumes[0].Filesystem), "Mount": reflect.ValueOf(c.Volumes[0].Mount),
	}
	inWords := map[string]string{
		"empty": "", "none": "[]",
		"the volume's name": "data",
	}
	for _, s := range documented() {
		for _, f := range fieldsOf(s.typ) {
			if f.kind == kindSection || f.kind == kindSections {
				continue
			}
			name := s.typ.Name() + "." + s.typ.Field(f.index).Name
			_, says, ok := strings.Cut(texts[name], "Default: ")
			if ok == f.must {
				t.Errorf("%s: obligatory %v, with a default %v: %s", name, f.must, ok, texts[name])
			}
			if f.must {
				continue
			}
			says, _, _ = strings.Cut(strings.TrimSuffix(says, ".")+",", ",")
			says, _, _ = strings.Cut(says, " for ")
			if words, ok := inWords[says]; ok {
				says = words
			}
			is := inline(values[s.typ.Name()].Field(f.index), f.kind, func(s string) string { return s })
			if is != says {
				t.Errorf("%s: the comment says %q, the default is %q", name, says, is)
			}
		}
	}
}
