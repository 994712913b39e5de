// SPDX-License-Identifier: Apache-2.0

package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imxcrypt/caam"
	"imxcrypt/dmcrypt"
	"imxcrypt/internal/fault"
)

// messages are what the program's sources say, read out of them: which texts
// come with which code, and every text there is.
type messages struct {
	codes  map[string]fault.Code // by the constant's name
	kinds  map[string]fault.Code // of package caam, by the constant's name
	coded  map[fault.Code][]string
	texts  []string
	causes map[string]string // package-level errors of one package, by name
}

// readMessages reads all sources of the module but tests and what serves them.
func readMessages(t *testing.T) *messages {
	t.Helper()
	m := &messages{codes: codes(t), kinds: caamKinds(t), coded: map[fault.Code][]string{}}
	packages := map[string][]*ast.File{}
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); path != "../.." && (strings.HasPrefix(name, ".") || name == "build" || name == "test" || strings.HasSuffix(name, "test") && name != "test") {
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
		// Doctor's findings and the configuration's mistakes are told elsewhere.
		listed := dir != "../../internal/doctor" && dir != "../../configs"
		for _, f := range files {
			ast.Inspect(f, func(n ast.Node) bool { m.visit(n, dir == "../../caam", listed); return true })
		}
	}
	for _, list := range m.coded {
		slices.Sort(list)
	}
	for code, list := range m.coded {
		m.coded[code] = slices.Compact(list)
	}
	return m
}

// caamKinds are the codes of package caam's errors by the names of their kinds.
func caamKinds(t *testing.T) map[string]fault.Code {
	t.Helper()
	kinds := map[string]fault.Code{}
	for name, text := range constants(t, "../../caam/error.go", "Kind") {
		kinds[name] = (&caam.Error{Kind: caam.Kind(text)}).FaultCode()
	}
	return kinds
}

// constants are a file's text constants of a type, by their names.
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
			all[spec.Names[0].Name] = said(spec.Values[0], nil)
		}
		return true
	})
	if len(all) == 0 {
		t.Fatalf("no constants of type %s in %s", ofType, path)
	}
	return all
}

// cause notes a package-level errors.New.
func (m *messages) cause(n ast.Node) bool {
	if spec, ok := n.(*ast.ValueSpec); ok && len(spec.Names) == 1 && len(spec.Values) == 1 {
		if call, ok := spec.Values[0].(*ast.CallExpr); ok {
			m.causes[spec.Names[0].Name] = said(call, nil)
		}
	}
	return true
}

// visit notes every text, and those that stand beside a code in a call, in a
// composite literal or in an assignment.
func (m *messages) visit(n ast.Node, inCAAM, listed bool) {
	var beside []ast.Expr
	switch n := n.(type) {
	case *ast.BasicLit:
		if n.Kind == token.STRING {
			m.texts = append(m.texts, said(n, nil))
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
		if text := said(e, m.causes); len(strings.Trim(text, "… :,;()\"")) > 7 && strings.Contains(text, " ") {
			m.coded[code] = append(m.coded[code], text)
		}
	}
}

// said is a text as it stands in the source, with … for what is filled in; empty
// for what is no text.
func said(e ast.Expr, causes map[string]string) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		text, err := strconv.Unquote(e.Value)
		if e.Kind != token.STRING || err != nil {
			return ""
		}
		text = regexp.MustCompile(`%[-+# 0-9.]*[a-zA-Z]`).ReplaceAllString(text, "…")
		return strings.NewReplacer(`"…"`, "…", "%%", "%").Replace(text)
	case *ast.Ident:
		return causes[e.Name]
	case *ast.BinaryExpr:
		text := func(e ast.Expr) string {
			if t := said(e, causes); t != "" {
				return t
			}
			return "…"
		}
		return strings.ReplaceAll(text(e.X)+text(e.Y), "……", "…")
	case *ast.CallExpr:
		if f, ok := e.Fun.(*ast.SelectorExpr); ok && len(e.Args) > 0 && slices.Contains([]string{"Sprintf", "Errorf", "New"}, f.Sel.Name) {
			return said(e.Args[0], causes)
		}
	}
	return ""
}

// Everything that an error of the program can say stands on the troubleshooting
// page, under its code.
//
// Not parallel: another test writes the page's other part.
func TestTroubleshootingPageHasEveryMessage(t *testing.T) {
	m := readMessages(t)
	for _, text := range constants(t, "../../dmcrypt/errors.go", "Kind") {
		code := (&dmcrypt.Error{Kind: dmcrypt.Kind(text)}).FaultCode()
		if !slices.Contains(m.coded[code], text) {
			m.coded[code] = append(m.coded[code], text)
		}
	}
	var b strings.Builder
	count := 0
	for _, code := range sortedCodes(m.coded) {
		list := m.coded[code]
		slices.Sort(list)
		b.WriteString("\n**" + string(code) + "**\n\n")
		for _, text := range list {
			b.WriteString("    " + oneLine(text) + "\n")
		}
		count += len(list)
	}
	if count < 200 {
		t.Fatalf("only %d messages were found", count)
	}
	b.WriteString("\n")
	troubleshooting(t, "messages", b.String())
}

func sortedCodes(m map[fault.Code][]string) []fault.Code {
	var all []fault.Code
	for c := range m {
		all = append(all, c)
	}
	slices.Sort(all)
	return all
}

// What the page says that the program says, it says: each part of a message that
// does not vary is a text of the sources, or the kernel's for an errno.
func TestTroubleshootingPageQuotesTheProgram(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	entries, _, ok := strings.Cut(string(page), "\n## What `imxcrypt doctor` says\n")
	if !ok {
		t.Fatal("the page has no findings of doctor")
	}
	texts := readMessages(t).texts
	for errno := unix.Errno(1); errno < 134; errno++ {
		texts = append(texts, errno.Error())
	}
	// cobra's and pflag's.
	texts = append(texts, "unknown flag: …")
	known := func(part string) bool {
		return slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(text, part) })
	}
	for line := range strings.Lines(entries) {
		message, ok := strings.CutPrefix(line, "    ")
		if !ok {
			continue
		}
		for _, part := range strings.FieldsFunc(message, func(r rune) bool { return strings.ContainsRune("…:;\"\n", r) }) {
			part = strings.TrimSpace(part)
			for _, varies := range []string{"FILE", "LINE", "COLUMN", "volumes[0].FIELD", "/", "--"} {
				if strings.HasPrefix(part, varies) {
					_, part, _ = strings.Cut(part, " ")
				}
			}
			if len(part) > 6 && strings.Contains(part, " ") && !known(part) {
				t.Errorf("the program nowhere says %q of %q", part, strings.TrimSpace(message))
			}
		}
	}
}
