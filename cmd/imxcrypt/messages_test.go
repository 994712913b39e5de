// SPDX-License-Identifier: Apache-2.0

package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"imxcrypt/caam"
	"imxcrypt/dmcrypt"
	"imxcrypt/internal/fault"
)

// messages are the texts in the program's sources: the texts used with each code, and all
// texts.
type messages struct {
	codes  map[string]fault.Code // by the constant's name
	kinds  map[string]fault.Code // of package caam, by the constant's name
	coded  map[fault.Code][]string
	texts  []string
	causes map[string]string // package-level errors of one package, by name
}

// readMessages reads all sources of the module except tests and their helpers.
func readMessages(t *testing.T) *messages {
	t.Helper()
	m := &messages{codes: codes(t), kinds: caamKinds(t), coded: map[fault.Code][]string{}}
	packages := map[string][]*ast.File{}
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			// The table of faults quotes the texts of other packages.
			if name := d.Name(); path == "../../internal/fault" || path != "../.." && (strings.HasPrefix(name, ".") || name == "build" || name == "test" || strings.HasSuffix(name, "test") && name != "test") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err == nil {
			packages[filepath.Dir(path)] = append(packages[filepath.Dir(path)], file)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for dir, files := range packages {
		m.causes = map[string]string{}
		for _, f := range files {
			ast.Inspect(f, m.cause)
		}
		// Doctor's findings and the configuration's mistakes are tested elsewhere.
		listed := dir != "../../internal/doctor" && dir != "../../configs"
		for _, f := range files {
			ast.Inspect(f, func(n ast.Node) bool { m.visit(n, dir == "../../caam", listed); return true })
		}
	}
	return m
}

// caamKinds returns the codes of package caam's errors by the names of their kinds.
func caamKinds(t *testing.T) map[string]fault.Code {
	t.Helper()
	kinds := map[string]fault.Code{}
	for name, text := range constants(t, "../../caam/error.go", "Kind") {
		kinds[name] = (&caam.Error{Kind: caam.Kind(text)}).FaultCode()
	}
	return kinds
}

// codes returns the codes by the names of their constants.
func codes(t *testing.T) map[string]fault.Code {
	t.Helper()
	all := map[string]fault.Code{}
	for name, text := range constants(t, "../../internal/fault/codes.go", "Code") {
		all[name] = fault.Code(text)
	}
	return all
}

// constants returns a file's text constants of a type, by their names.
func constants(t *testing.T, path, ofType string) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if of, ok := spec.Type.(*ast.Ident); ok && of.Name == ofType && len(spec.Values) == 1 {
			all[spec.Names[0].Name] = sourceText(spec.Values[0], nil)
		}
		return true
	})
	if len(all) == 0 {
		t.Fatalf("no constants of type %s in %s", ofType, path)
	}
	return all
}

// cause records a package-level errors.New.
func (m *messages) cause(n ast.Node) bool {
	if spec, ok := n.(*ast.ValueSpec); ok && len(spec.Names) == 1 && len(spec.Values) == 1 {
		if call, ok := spec.Values[0].(*ast.CallExpr); ok {
			m.causes[spec.Names[0].Name] = sourceText(call, nil)
		}
	}
	return true
}

// visit records every text, and those that are next to a code in a call, a composite
// literal or an assignment.
func (m *messages) visit(n ast.Node, inCAAM, listed bool) {
	var beside []ast.Expr
	switch n := n.(type) {
	case *ast.BasicLit:
		if n.Kind == token.STRING {
			m.texts = append(m.texts, sourceText(n, nil))
		}
		return
	case *ast.CallExpr:
		beside = n.Args
	case *ast.AssignStmt:
		beside = n.Rhs
	case *ast.CompositeLit:
		for _, e := range n.Elts {
			if kv, ok := e.(*ast.KeyValueExpr); ok {
				if key, ok := kv.Key.(*ast.Ident); ok && key.Name != "Op" {
					beside = append(beside, kv.Value)
				}
			}
		}
	default:
		return
	}
	var code fault.Code
	for _, e := range beside {
		switch e := e.(type) {
		case *ast.SelectorExpr:
			if x, ok := e.X.(*ast.Ident); ok && x.Name == "fault" {
				code = m.codes[e.Sel.Name]
			}
		case *ast.Ident:
			if inCAAM && m.kinds[e.Name] != "" {
				code = m.kinds[e.Name]
			}
		}
	}
	if code == "" || !listed {
		return
	}
	for _, e := range beside {
		if text := sourceText(e, m.causes); len(strings.Trim(text, "… :,;()\"")) > 7 && strings.Contains(text, " ") {
			m.coded[code] = append(m.coded[code], text)
		}
	}
}

// sourceText returns a text as in the source, with … for what is filled in, or "" if the
// expression is not a text.
func sourceText(e ast.Expr, causes map[string]string) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		text, err := strconv.Unquote(e.Value)
		if e.Kind != token.STRING || err != nil {
			return ""
		}
		text = regexp.MustCompile(`%[-+# 0-9.]*q`).ReplaceAllString(text, `"…"`)
		text = regexp.MustCompile(`%[-+# 0-9.]*[a-zA-Z]`).ReplaceAllString(text, "…")
		return strings.ReplaceAll(text, "%%", "%")
	case *ast.Ident:
		return causes[e.Name]
	case *ast.BinaryExpr:
		text := func(e ast.Expr) string {
			if t := sourceText(e, causes); t != "" {
				return t
			}
			return "…"
		}
		return strings.ReplaceAll(text(e.X)+text(e.Y), "……", "…")
	case *ast.CallExpr:
		if f, ok := e.Fun.(*ast.SelectorExpr); ok && len(e.Args) > 0 && slices.Contains([]string{"Sprintf", "Errorf", "New"}, f.Sel.Name) {
			return sourceText(e.Args[0], causes)
		}
	}
	return ""
}

// byCode returns the messages of each code, in alphabetical order.
func (m *messages) byCode(t *testing.T) map[fault.Code][]string {
	t.Helper()
	for _, text := range constants(t, "../../dmcrypt/errors.go", "Kind") {
		code := (&dmcrypt.Error{Kind: dmcrypt.Kind(text)}).FaultCode()
		m.coded[code] = append(m.coded[code], text)
	}
	count := 0
	for code, list := range m.coded {
		for i, text := range list {
			list[i] = oneLine(text)
		}
		slices.Sort(list)
		m.coded[code] = slices.Compact(list)
		count += len(m.coded[code])
	}
	if count < 200 {
		t.Fatalf("only %d messages were found", count)
	}
	return m.coded
}

// Users see the name of the volume, never a placeholder for it. Only the help has
// placeholders, and the table of faults, where they are filled in.
func TestMessagesNameTheVolume(t *testing.T) {
	t.Parallel()
	help := map[string]bool{"NO NAME": true} // FAT's text for no label
	for _, c := range shown((&app{}).root()) {
		help[c.Use], help[c.Short], help[c.Long], help[c.Example] = true, true, true, true
		c.Flags().VisitAll(func(f *pflag.Flag) { help[f.Usage] = true })
	}
	allowed := func(text string) bool {
		for h := range help {
			if strings.Contains(h, text) {
				return true
			}
		}
		return false
	}
	word := regexp.MustCompile("[ `/](NAME|VOLUME|MAPPING)\\b")
	for _, text := range readMessages(t).texts {
		if word.MatchString(text) && !allowed(text) {
			t.Errorf("a person reads %q", text)
		}
	}
}
