package invitation

import (
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"html/template"
	"io/fs"
	"maps"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/text/language"
)

// pageFiles are the parts of the page that all languages share, and the texts
// of each language.
//
//go:embed templates/page templates/*/page.json
var pageFiles embed.FS

// pageLocale is the language of the page whose texts for refusals are the
// server's, and the one for readers of languages that the page lacks.
const pageLocale = "en"

// maxAcceptLanguage is the length in bytes of a header Accept-Language that is
// read. Browsers send less; the time to parse one grows faster than its length
// (CVE-2022-32149).
const maxAcceptLanguage = 256

// page is the whole of GET /invite: in each language one static document with
// its style and its script inside. It knows nothing of the invitation; the token
// is in the fragment, which only the browser sees, so a scanner or a prefetch of
// the link changes nothing. The script asks [Service.look] and fills in what it
// says.
type page struct {
	locales   []string // sorted
	documents [][]byte // by index in locales
	matcher   language.Matcher
	fallback  int // the index for readers of other languages
	policy    string
}

// newPage puts the parts in files together. Who reads none of the page's
// languages gets the one for readers of defaultLocale, or else English. The
// policy allows exactly this style and this script, by their hashes, and calls
// to this origin; the script may not make elements from text.
func newPage(files fs.FS, defaultLocale string) (*page, error) {
	style, err := fs.ReadFile(files, "templates/page/invite.css")
	if err != nil {
		return nil, err
	}
	script, err := fs.ReadFile(files, "templates/page/invite.js")
	if err != nil {
		return nil, err
	}
	names, err := fs.Glob(files, "templates/*/page.json")
	if err != nil {
		return nil, err
	}
	p := &page{policy: "default-src 'none'; style-src " + sourceHash(style) + "; script-src " + sourceHash(script) +
		"; connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'" +
		"; require-trusted-types-for 'script'; trusted-types 'none'"}
	var tags []language.Tag
	for _, name := range names {
		locale := path.Base(path.Dir(name))
		if !isLocale(locale) {
			return nil, fmt.Errorf("%s: name the folder by a language tag like de or pt-BR", name)
		}
		document, err := renderPage(files, name, map[string]any{
			"Language":   locale,
			"Translated": locale != pageLocale,
			"Style":      template.HTML("<style>" + string(style) + "</style>"),    //nolint:gosec // our own file
			"Script":     template.HTML("<script>" + string(script) + "</script>"), //nolint:gosec // our own file
		})
		if err != nil {
			return nil, err
		}
		p.locales, p.documents, tags = append(p.locales, locale), append(p.documents, document), append(tags, language.Make(locale))
	}
	p.matcher = language.NewMatcher(tags)
	if p.fallback = slices.Index(p.locales, pageLocale); p.fallback < 0 {
		return nil, fmt.Errorf("templates/%s/page.json is missing", pageLocale)
	}
	if i, ok := p.match(language.Make(defaultLocale)); ok {
		p.fallback = i
	}
	return p, nil
}

// renderPage returns the document with the texts in a file. There must be all
// that the document shows and no others; an error names file and key.
func renderPage(files fs.FS, name string, data map[string]any) ([]byte, error) {
	content, err := fs.ReadFile(files, name)
	if err != nil {
		return nil, err
	}
	var texts map[string]string
	if err := json.Unmarshal(content, &texts); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	shown := map[string]bool{}
	text := func(key string, slots ...string) (template.HTML, error) {
		shown[key] = true
		markup, err := pageText(texts[key], slots)
		if err != nil {
			return "", fmt.Errorf("%s: the text %q %w", name, key, err)
		}
		return markup, nil
	}
	document, err := template.New("invite.html").Funcs(template.FuncMap{"text": text}).ParseFS(files, "templates/page/invite.html")
	if err != nil {
		return nil, err
	}
	var body strings.Builder
	if err := document.Execute(&body, data); err != nil {
		return nil, err
	}
	for _, key := range slices.Sorted(maps.Keys(texts)) {
		if !shown[key] {
			return nil, fmt.Errorf("%s: the text %q is unknown", name, key)
		}
	}
	return []byte(body.String()), nil
}

// pageText returns a text as HTML, with an element that the script fills in
// place of each {slot}. It must have exactly these slots; an error goes on after
// the text's name.
func pageText(text string, slots []string) (template.HTML, error) {
	if text == "" {
		return "", errors.New("is missing")
	}
	markup := html.EscapeString(text)
	for _, slot := range slots {
		if !strings.Contains(markup, "{"+slot+"}") {
			return "", fmt.Errorf("lacks {%s}", slot)
		}
		markup = strings.ReplaceAll(markup, "{"+slot+"}", `<span data-slot="`+slot+`"></span>`)
	}
	if strings.ContainsAny(markup, "{}") {
		return "", fmt.Errorf("has a brace that is not of %q", slots)
	}
	return template.HTML(markup), nil //nolint:gosec // escaped above
}

// sourceHash returns the CSP source expression of an inline element.
func sourceHash(content []byte) string {
	hash := sha256.Sum256(content)
	return "'sha256-" + base64.StdEncoding.EncodeToString(hash[:]) + "'"
}

// choose returns the index of the language for a header Accept-Language (RFC
// 9110 section 12.5.4): of those that the page has a language for, the one that
// the reader likes best.
func (p *page) choose(header string) int {
	if len(header) > maxAcceptLanguage {
		return p.fallback
	}
	tags, _, err := language.ParseAcceptLanguage(header)
	if err != nil {
		return p.fallback
	}
	for _, tag := range tags {
		if i, ok := p.match(tag); ok {
			return i
		}
	}
	return p.fallback
}

// match returns the index of the language that readers of another one read.
func (p *page) match(tag language.Tag) (int, bool) {
	_, i, confidence := p.matcher.Match(tag)
	return i, confidence >= language.High
}

func (p *page) serve(w http.ResponseWriter, r *http.Request) error {
	i := p.choose(r.Header.Get("Accept-Language"))
	header := w.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Content-Length", strconv.Itoa(len(p.documents[i])))
	header.Set("Content-Language", p.locales[i])
	header.Set("Vary", "Accept-Language")
	header.Set("Content-Security-Policy", p.policy)
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("Cache-Control", "no-cache")
	_, _ = w.Write(p.documents[i]) // the client is gone if this fails
	return nil
}
