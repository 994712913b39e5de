// SPDX-License-Identifier: Apache-2.0

// Package site builds the documentation's site, follows every link in it, and checks it
// in a browser.
package site

import (
	"html"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// site is the built site: pages by their path, and the names of all files.
type site struct {
	dir   string
	pages map[string]string
	files map[string]bool
}

func build(t *testing.T) site {
	t.Helper()
	if testing.Short() {
		t.Skip("NOT TESTED: the site, in a short run")
	}
	s := site{dir: t.TempDir(), pages: map[string]string{}, files: map[string]bool{}}
	if out, err := exec.Command("../../packaging/site/build", s.dir).CombinedOutput(); err != nil {
		t.Fatalf("packaging/site/build: %v\n%s", err, out)
	}
	if err := filepath.WalkDir(s.dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name := strings.TrimPrefix(file, s.dir+"/")
		s.files[name] = true
		if strings.HasSuffix(name, ".html") {
			text, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			s.pages[name] = string(text)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"index.html", "docs/try.html", "docs/troubleshooting.html", "docs/man/imxcrypt-unlock.1.txt", "packaging/yocto/meta-imxcrypt/README.html"} {
		if !s.files[want] {
			t.Errorf("the site has no %s", want)
		}
	}
	return s
}

func TestLinks(t *testing.T) {
	t.Parallel()
	s := build(t)
	reference := regexp.MustCompile(`(?:href|src)="([^"]*)"`)
	anchors := func(page string) map[string]bool {
		found := map[string]bool{}
		for _, m := range regexp.MustCompile(` id="([^"]*)"`).FindAllStringSubmatch(page, -1) {
			found[html.UnescapeString(m[1])] = true
		}
		return found
	}
	followed := 0
	for name, text := range s.pages {
		for _, m := range reference.FindAllStringSubmatch(text, -1) {
			link, err := url.Parse(html.UnescapeString(m[1]))
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			switch link.Scheme {
			case "https":
				// Another site: not requested here. But nothing is loaded from it.
				if strings.HasPrefix(m[0], "src") {
					t.Errorf("%s loads %s", name, link)
				}
				continue
			case "data":
				continue
			case "":
			default:
				t.Errorf("%s: link to %s", name, link)
				continue
			}
			to := name
			if link.Path != "" {
				to = path.Join(path.Dir(name), link.Path)
			}
			if path.IsAbs(link.Path) {
				t.Errorf("%s: %s leads nowhere when the site is opened from a disk", name, link)
				continue
			}
			followed++
			if !s.files[to] {
				t.Errorf("%s: %s leads nowhere", name, link)
			} else if page, ok := s.pages[to]; ok && link.Fragment != "" && !anchors(page)[link.Fragment] {
				t.Errorf("%s: %s has no such heading", name, link)
			}
		}
	}
	if followed < 500 {
		t.Errorf("only %d links were followed", followed)
	}
}

// measure is a page that opens each of the site's pages in the width of a phone, and
// records which of them can be scrolled sideways.
const measure = `<!doctype html><title>measuring</title><pre id="out"></pre><script>
(async () => {
  const out = document.getElementById("out");
  for (const page of PAGES) {
    const frame = document.createElement("iframe");
    frame.style = "width: 360px; height: 640px; border: 0";
    await new Promise(loaded => { frame.onload = loaded; frame.src = "/" + page; document.body.append(frame); });
    const root = frame.contentDocument.documentElement;
    out.textContent += "\n" + page + " " + root.clientWidth + " " + Math.max(root.scrollWidth, frame.contentDocument.body.scrollWidth);
    frame.remove();
  }
  out.textContent += "\n";
})();
</script>`

// browser returns a function that runs a browser without a window and returns its
// output.
func browser(t *testing.T) func(arguments ...string) []byte {
	t.Helper()
	for _, name := range []string{"chromium-headless-shell", "chromium"} {
		if found, err := exec.LookPath(name); err == nil {
			common := []string{"--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--user-data-dir=" + t.TempDir()}
			return func(arguments ...string) []byte {
				t.Helper()
				out, err := exec.Command(found, append(common, arguments...)...).Output()
				if err != nil {
					t.Fatalf("%s: %v\n%s", found, err, out)
				}
				return out
			}
		}
	}
	t.Skip("NOT TESTED: the site in a browser (chromium-headless-shell is not installed: make setup)")
	return nil
}

// Screenshots for a person to look at, for a monitor and a phone: in build/screens.
func TestScreens(t *testing.T) {
	t.Parallel()
	if os.Getenv("IMXCRYPT_SCREENS") == "" {
		t.Skip("NOT TESTED: screens of the site are for a person: make screens")
	}
	browse, s := browser(t), build(t)
	dir, err := filepath.Abs("../../build/screens")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, page := range []string{"index.html", "docs/try.html", "docs/troubleshooting.html", "docs/comparison.html", "docs/updates.html"} {
		for _, size := range []string{"1200,900", "390,844"} {
			width, _, _ := strings.Cut(size, ",")
			screen := filepath.Join(dir, strings.TrimSuffix(path.Base(page), ".html")+"-"+width+".png")
			browse("--window-size="+size, "--virtual-time-budget=10000", "--hide-scrollbars", "--screenshot="+screen, "file://"+filepath.Join(s.dir, page))
			if _, err := os.Stat(screen); err != nil {
				t.Error(err)
			}
		}
	}
}

// No page is wider than a phone: wide elements, such as tables, scroll by themselves.
func TestPhone(t *testing.T) {
	t.Parallel()
	browse := browser(t)
	s := build(t)
	list := []string{`"wide.html"`} // the test must find this one
	for name := range s.pages {
		list = append(list, `"`+name+`"`)
	}
	page := strings.Replace(measure, "PAGES", "["+strings.Join(list, ",")+"]", 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		switch r.URL.Path {
		case "/measure":
			w.Write([]byte(page))
		case "/wide.html":
			w.Write([]byte("<!doctype html><p style='width: 400px'>wide"))
		default:
			w.Header().Del("Content-Type")
			http.FileServer(http.Dir(s.dir)).ServeHTTP(w, r)
		}
	}))
	defer server.Close()
	out := browse("--window-size=800,900", "--timeout=1800000", "--virtual-time-budget=120000", "--dump-dom", server.URL+"/measure")
	measured := regexp.MustCompile(`(?m)^(\S+\.html) (\d+) (\d+)$`).FindAllStringSubmatch(string(out), -1)
	if len(measured) != len(list) {
		t.Fatalf("%d of %d pages were measured:\n%s", len(measured), len(list), out)
	}
	for _, m := range measured {
		window, errWindow := strconv.Atoi(m[2])
		width, errWidth := strconv.Atoi(m[3])
		if errWindow != nil || errWidth != nil || window < 320 || window > 360 {
			t.Errorf("%s: %s pixels wide in a window of %s", m[1], m[3], m[2])
		}
		if fits := width <= window; fits == (m[1] == "wide.html") {
			t.Errorf("%s is %d pixels wide in a window of %d", m[1], width, window)
		}
	}
}
