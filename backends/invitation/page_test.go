package invitation_test

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io/fs"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/html"

	"github.com/tenantgate/tenantgate/backends/invitation"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
)

// pageLanguages are the languages of the page.
var pageLanguages = []string{"de", "en", "es", "fr"}

// page returns the document that a browser with these languages gets.
func (f *fixture) page(t require.TestingT, languages string) string {
	a := f.do(t, http.MethodGet, "/invite", "", "Accept-Language", languages)
	require.Equal(t, http.StatusOK, a.Code)
	return a.Body.String()
}

// pageTexts returns the texts of the page in a language.
func pageTexts(t require.TestingT, language string) map[string]string {
	content, err := os.ReadFile("templates/" + language + "/page.json")
	require.NoError(t, err)
	var texts map[string]string
	require.NoError(t, json.Unmarshal(content, &texts))
	return texts
}

func TestPage(t *testing.T) {
	t.Parallel()
	f := newFixture(t, dbtest.SQLite(t))
	id, token := f.invite(t, "a@x.test")
	for range 20 { // a scanner, a prefetch, a reload: nothing is used up
		a := f.do(t, http.MethodGet, "/invite", "", "Sec-Purpose", "prefetch")
		require.Equal(t, http.StatusOK, a.Code)
		require.Equal(t, "text/html; charset=utf-8", a.Header().Get("Content-Type"))
		require.Equal(t, "no-referrer", a.Header().Get("Referrer-Policy"))
	}
	require.Equal(t, http.StatusOK, f.do(t, http.MethodHead, "/invite/", "").Code)
	require.Equal(t, "pending", f.text(t, `SELECT status FROM invitations WHERE id = $1`, id))

	policies := map[string]bool{}
	for _, language := range pageLanguages {
		a := f.do(t, http.MethodGet, "/invite", "", "Accept-Language", language)
		page, policy := a.Body.String(), a.Header().Get("Content-Security-Policy")
		policies[policy] = true
		require.Equal(t, language, a.Header().Get("Content-Language"))
		require.Equal(t, "Accept-Language", a.Header().Get("Vary"))
		require.Contains(t, policy, "default-src 'none'")
		require.Contains(t, policy, "require-trusted-types-for 'script'; trusted-types 'none'")
		require.NotContains(t, policy, "unsafe")
		for _, tag := range []string{"style", "script"} {
			found := regexp.MustCompile(`(?s)<`+tag+`>(.*?)</`+tag+`>`).FindAllStringSubmatch(page, -1)
			require.Len(t, found, 1, tag)
			hash := sha256.Sum256([]byte(found[0][1]))
			require.Contains(t, policy, tag+"-src 'sha256-"+base64.StdEncoding.EncodeToString(hash[:])+"'")
		}
		require.NotRegexp(t, `(?i)(src|href|action)=|//[a-z]|url\(|@import|style="| on[a-z]+="`, strings.ReplaceAll(page, "// ", ""),
			"nothing is loaded from anywhere, nothing needs an exception")
		require.NotRegexp(t, `innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Storage|document\.cookie|console\.`, page, "texts stay texts, and the token stays in memory")
		require.NotContains(t, page, token)
		require.Contains(t, page, `"/api/invitations/accept/"`)
		require.Contains(t, page, `"/api/invitations/look/"`)
		require.Less(t, len(page), 20<<10, "one small answer")
		t.Logf("%s: %d bytes", language, len(page))
	}
	require.Len(t, policies, 1, "all languages have one style and one script")
}

func TestThePageIsInALanguageOfTheBrowser(t *testing.T) {
	t.Parallel()
	english, german := newFixture(t, dbtest.SQLite(t)), newFixture(t, dbtest.SQLite(t), func(c *invitation.Config) { c.Locale = "de" })
	dutch := newFixture(t, dbtest.SQLite(t), func(c *invitation.Config) { c.Locale, c.Templates = "nl", moments("nl") })
	swiss := newFixture(t, dbtest.SQLite(t), func(c *invitation.Config) { c.Locale, c.Templates = "de-CH", moments("de-CH") })
	for languages, want := range map[string]string{
		"de": "de", "de-AT": "de", "DE-ch": "de", "fr-CA,fr;q=0.9,en;q=0.5": "fr", "es-419": "es", "en-US,en;q=0.9": "en",
		"ja,pt;q=0.9,de;q=0.3,en;q=0.2": "de", "en;q=0.1,es;q=0.2": "es", "de;q=0,fr": "fr", "*,fr;q=0.5": "fr", "ja, fr ; q=0.5": "fr",
		strings.Repeat("ja,", 80) + "de": "de", // 242 bytes
		// Nothing that the page has, nothing that can be read, nothing: the default.
		"": "", "ja": "", "*": "", "de;q=0": "", "und": "", ",": "", ";": "", "de;q=x": "", "de_": "", "<de>": "", "d": "", "\x00de": "", "de\xff": "",
		"de-1234567890": "", "x-de": "", strings.Repeat("de,", 100): "",
	} {
		for fallback, f := range map[string]*fixture{"en": english, "de": german} {
			a := f.do(t, http.MethodGet, "/invite", "", "Accept-Language", languages)
			require.Equal(t, http.StatusOK, a.Code)
			require.Equal(t, cmp.Or(want, fallback), a.Header().Get("Content-Language"), "%q", languages)
			require.Contains(t, a.Body.String(), `<html lang="`+cmp.Or(want, fallback)+`">`)
		}
	}
	require.Contains(t, german.do(t, http.MethodGet, "/invite", "").Body.String(), "<h1 tabindex=\"-1\">Ihre Einladung</h1>", "without the header")
	require.Contains(t, dutch.page(t, "nl"), `<html lang="en">`, "a locale of the mails that the page lacks")
	require.Contains(t, swiss.page(t, "nl"), `<html lang="de">`, "a default that the page has a language for")
}

// TestThePageIsAccessible checks what its source can show: every field has a
// label and a hint for password managers, every reference leads somewhere.
func TestThePageIsAccessible(t *testing.T) {
	t.Parallel()
	f := newFixture(t, dbtest.SQLite(t))
	for _, language := range pageLanguages {
		page := f.page(t, language)
		require.Contains(t, page, `<html lang="`+language+`">`)
		require.Contains(t, page, `content="width=device-width, initial-scale=1"`, "a phone may zoom in")
		require.Contains(t, page, `role="status" aria-live="polite"`)
		require.Contains(t, page, "<noscript>")
		ids := map[string]bool{}
		for _, id := range regexp.MustCompile(` id="([^"]+)"`).FindAllStringSubmatch(page, -1) {
			require.False(t, ids[id[1]], "%s is there twice", id[1])
			ids[id[1]] = true
		}
		for _, input := range regexp.MustCompile(`<input id="([^"]+)"[^>]*>`).FindAllStringSubmatch(page, -1) {
			require.Contains(t, page, `<label for="`+input[1]+`">`)
			require.Contains(t, input[0], ` autocomplete="`)
		}
		for _, reference := range regexp.MustCompile(` (?:for|aria-controls|aria-describedby)="([^"]+)"`).FindAllStringSubmatch(page, -1) {
			for _, id := range strings.Fields(reference[1]) {
				require.True(t, ids[id], "nothing has the id %s", id)
			}
		}
		for _, section := range strings.Split(page, "<section ")[1:] {
			require.Regexp(t, `^data-state="[a-z-]+"(?: class="[a-z]+")? hidden>\n<h1 tabindex="-1">`, section, "a state begins with a heading that can have the focus")
		}
		for _, state := range []string{"accepted", "expired", "cancelled", "unknown"} {
			require.Contains(t, page, `data-state="invitation-`+state+`"`)
		}
		texts := pageTexts(t, language)
		for shown, label := range map[string]string{"show": "show-password", "hide": "hide-password"} { // WCAG 2.2, 2.5.3
			require.Contains(t, strings.ToLower(texts[label]), strings.ToLower(texts[shown]), "who says what is on the button presses it")
		}
	}
}

// states returns the parts of the page that are shown each by itself, by their
// names, with that for browsers without scripts and the texts of the script.
func states(t require.TestingT, page string) map[string]*html.Node {
	root, err := html.ParseWithOptions(strings.NewReader(page), html.ParseOptionEnableScripting(false))
	require.NoError(t, err)
	all := map[string]*html.Node{}
	for node := range root.Descendants() {
		switch node.Data {
		case "noscript", "template":
			all[node.Data] = node
		case "section":
			all[attribute(node, "data-state")] = node
		}
	}
	return all
}

// attribute returns the value of an attribute, or "".
func attribute(node *html.Node, name string) string {
	for _, a := range node.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

// contents returns the elements in a part of the page with their attributes,
// and its texts. What only the translations have, texts for refusals, is left
// out.
func contents(part *html.Node) (elements, texts []string) {
	for node := range part.Descendants() {
		text := strings.TrimSpace(node.Data)
		switch {
		case node.Type == html.TextNode && text != "" && onlyTranslated(node.Parent), onlyTranslated(node):
		case node.Type == html.TextNode && text != "":
			texts = append(texts, text)
		case node.Type == html.ElementNode:
			element := node.Data
			for _, a := range node.Attr {
				switch a.Key {
				case "aria-label":
					texts = append(texts, a.Val)
				case "data-code":
				default:
					element += " " + a.Key + "=" + a.Val
				}
			}
			elements = append(elements, element)
		}
	}
	return elements, texts
}

// onlyTranslated reports whether an element has a text for a refusal and for
// nothing else.
func onlyTranslated(node *html.Node) bool {
	return attribute(node, "data-code") != "" && attribute(node, "data-text") == ""
}

func TestEveryStateIsCompleteInEveryLanguage(t *testing.T) {
	t.Parallel()
	f := newFixture(t, dbtest.SQLite(t))
	english := states(t, f.page(t, "en"))
	require.Len(t, english, 14, "12 states, the one without scripts, the texts of the script")
	for _, language := range pageLanguages {
		own := states(t, f.page(t, language))
		require.ElementsMatch(t, slices.Collect(maps.Keys(english)), slices.Collect(maps.Keys(own)))
		for state, part := range english {
			wantElements, wantTexts := contents(part)
			elements, texts := contents(own[state])
			require.ElementsMatch(t, wantElements, elements, "%s in %s: the same fields, buttons and slots, in an order of its own", state, language)
			require.NotEmpty(t, texts)
			for _, text := range texts {
				if language != "en" && text != "(optional)" && regexp.MustCompile(`\pL`).MatchString(text) {
					require.NotContains(t, wantTexts, text, "%s in %s is English", state, language)
				}
			}
		}
	}
}

// TestEveryRefusalHasATextInEveryOtherLanguage takes the codes from where they
// are declared: what may come to the page and is not said by a state of its own
// needs a text.
func TestEveryRefusalHasATextInEveryOtherLanguage(t *testing.T) {
	t.Parallel()
	api, err := os.ReadFile("../openapi.yaml")
	require.NoError(t, err)
	codes := []string{"not-json", "body-too-large", "invalid-fields", "not-from-gateway", "not-found", "bad-request"} // of any call
	for _, part := range []string{`  /api/invitations/accept/:\n(?:   .*\n)+`, `  /api/invitations/look/:\n(?:   .*\n)+`, `    BadBody:\n.*\n`, `    FromGateway:\n.*\n`} {
		found := regexp.MustCompile(part).FindString(string(api))
		require.NotEmpty(t, found, part)
		for _, code := range regexp.MustCompile("`([a-z-]+)`").FindAllStringSubmatch(found, -1) {
			codes = append(codes, code[1])
		}
	}
	require.Greater(t, len(codes), 30)
	for _, code := range []string{"too-long", "unprintable"} {
		codes = append(codes, "/name:"+code)
	}
	for _, code := range []string{"invalid", "too-long", "too-short", "too-common", "predictable", "wrong-password"} {
		codes = append(codes, "/password:"+code)
	}
	f := newFixture(t, dbtest.SQLite(t))
	for _, language := range pageLanguages {
		own := states(t, f.page(t, language))
		texts := map[string]string{}
		for node := range own["template"].Descendants() {
			for _, code := range strings.Fields(attribute(node, "data-code")) {
				require.Empty(t, texts[code], "%s is there twice", code)
				texts[code] = node.FirstChild.Data
			}
		}
		if language == "en" {
			require.Empty(t, texts, "the server's own texts are English")
			continue
		}
		for _, code := range codes {
			if own[code] == nil && code != "too-many-attempts" { // which is told by the status
				require.NotEmpty(t, texts[code], "%s in %s", code, language)
			}
		}
	}
}

func TestTheTextsOfThePageAreWrittenAsTheirReadersWrite(t *testing.T) {
	t.Parallel()
	familiar := map[string]string{"de": "du|dein[a-z]*|dir|dich", "fr": "tu|ton|ta|tes|toi", "es": "tú|tus?|te|ti|vosotros"}
	for _, language := range pageLanguages {
		for key, text := range pageTexts(t, language) {
			require.NotRegexp(t, `["']|\.\.\.|  |^\s|\s$|--| - `, text, "%s in %s: typographic quotes, apostrophes and dashes", key, language)
			if language == "fr" {
				require.NotRegexp(t, `[^\x{202f}][?!:;]`, text, "%s: a narrow no-break space goes before it", key)
			} else {
				require.NotRegexp(t, `\s[?!:;]`, text, "%s in %s", key, language)
			}
			if words := familiar[language]; words != "" {
				require.NotRegexp(t, `(?i)(?:^|\PL)(?:`+words+`)(?:\PL|$)`, text, "%s in %s is familiar", key, language)
			}
		}
	}
}

// pageFolder returns the files of the page, changed by a pair of a file and a
// function for its texts.
func pageFolder(t *testing.T, file string, change func(texts map[string]any)) fstest.MapFS {
	t.Helper()
	files := fstest.MapFS{}
	require.NoError(t, fs.WalkDir(os.DirFS("."), "templates", func(path string, entry fs.DirEntry, err error) error {
		require.NoError(t, err)
		if entry.Type().IsRegular() && (strings.HasPrefix(path, "templates/page/") || entry.Name() == "page.json") {
			content, err := os.ReadFile(path)
			require.NoError(t, err)
			files[path] = &fstest.MapFile{Data: content}
		}
		return nil
	}))
	if change != nil {
		var texts map[string]any
		require.NoError(t, json.Unmarshal(files[file].Data, &texts))
		change(texts)
		content, err := json.Marshal(texts)
		require.NoError(t, err)
		files[file] = &fstest.MapFile{Data: content}
	}
	return files
}

func TestTextsThatCanNotWorkAreErrorsAtStart(t *testing.T) {
	t.Parallel()
	_, err := invitation.NewPage(pageFolder(t, "", nil), "en")
	require.NoError(t, err)
	set := func(key string, value any) func(map[string]any) {
		return func(texts map[string]any) { texts[key] = value }
	}
	without := func(key string) func(map[string]any) { return func(texts map[string]any) { delete(texts, key) } }
	for name, c := range map[string]struct {
		language string
		change   func(map[string]any)
		want     string
	}{
		"a missing text":                       {"de", without("join"), `"join" is missing`},
		"an empty text":                        {"fr", set("join", ""), `"join" is missing`},
		"a missing text of the script":         {"en", without("joining"), `"joining" is missing`},
		"a missing text for a refusal":         {"es", without("seats-full"), `"seats-full" is missing`},
		"a text that the page does not show":   {"de", set("jion", "x"), `"jion" is unknown`},
		"an English text for a refusal":        {"en", set("seats-full", "x"), `"seats-full" is unknown`},
		"a text that is none":                  {"fr", set("join", 1), "cannot unmarshal number"},
		"a text without its placeholder":       {"de", set("join", "beitreten"), `"join" lacks {tenant}`},
		"a text with a translated placeholder": {"de", set("join", "{mandant} beitreten"), `"join" lacks {tenant}`},
		"a placeholder of another text":        {"de", set("join", "{tenant} {email}"), `"join" has a brace`},
		"a brace":                              {"de", set("join", "{tenant} }"), `"join" has a brace`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := "templates/" + c.language + "/page.json"
			_, err := invitation.NewPage(pageFolder(t, file, c.change), "en")
			require.ErrorContains(t, err, c.want)
			require.ErrorContains(t, err, file)
		})
	}
	for name, c := range map[string]struct {
		file, content, want string
	}{
		"a file that is no JSON":     {"templates/de/page.json", "{", "templates/de/page.json"},
		"more than one object":       {"templates/de/page.json", "{}{}", "templates/de/page.json"},
		"a folder that is no locale": {"templates/german/page.json", "{}", "templates/german/page.json"},
		"no English":                 {"templates/en/page.json", "", "templates/en/page.json"},
		"no script":                  {"templates/page/invite.js", "", "templates/page/invite.js"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files := pageFolder(t, "", nil)
			files[c.file] = &fstest.MapFile{Data: []byte(c.content)}
			if c.content == "" {
				delete(files, c.file)
			}
			_, err := invitation.NewPage(files, "en")
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestATextOfThePageStaysAText(t *testing.T) {
	t.Parallel()
	const evil = `<b onclick="x">&amp;"'</b>`
	serve, err := invitation.NewPage(pageFolder(t, "templates/de/page.json", func(texts map[string]any) {
		texts["looking.heading"], texts["join"], texts["show-password"] = evil, evil+"{tenant}", evil
	}), "de")
	require.NoError(t, err)
	answer := httptest.NewRecorder()
	require.NoError(t, serve(answer, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/invite", nil)))
	all := states(t, answer.Body.String())
	_, texts := contents(all["looking"])
	require.Contains(t, texts, evil)
	elements, texts := contents(all["open"])
	require.Contains(t, texts, evil, "before the slot, and in the button's label")
	require.NotContains(t, strings.Join(elements, "\n"), "onclick")
	require.NotContains(t, answer.Body.String(), "<b ")
}

func TestThePageComesInTheLanguagesOfTheMails(t *testing.T) {
	t.Parallel()
	require.Equal(t, pageLanguages, templates(t, nil).Locales())
	require.Len(t, pageTexts(t, "de"), len(pageTexts(t, "fr")))
	f := newFixture(t, dbtest.SQLite(t))
	for _, language := range templates(t, nil).Locales() {
		require.Contains(t, f.page(t, language), `<html lang="`+language+`">`)
	}
}

// TestTheColoursOfThePageHaveContrast computes WCAG 2.2's contrast, 1.4.3 for
// text and 1.4.11 for what is not text, in the light and the dark scheme.
func TestTheColoursOfThePageHaveContrast(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("templates/page/invite.css")
	require.NoError(t, err)
	css := string(content)
	palettes := regexp.MustCompile(`(?s):root \{.*?\}`).FindAllString(css, -1)
	require.Len(t, palettes, 2, "light and dark")
	rest := css
	for _, palette := range palettes {
		rest = strings.Replace(rest, palette, "", 1)
		colours := map[string]string{}
		for _, colour := range regexp.MustCompile(`--([a-z-]+): #([0-9a-f]{6});`).FindAllStringSubmatch(palette, -1) {
			colours[colour[1]] = colour[2]
		}
		for least, pairs := range map[float64][]string{
			4.5: {
				"text page", "text paper", "text quiet", "hint paper", "hint quiet", "error paper", "good paper", "on-action action", "action paper",
			},
			3: {"line paper", "line quiet", "focus paper", "error paper"},
		} {
			for _, pair := range pairs {
				front, back, _ := strings.Cut(pair, " ")
				require.GreaterOrEqual(t, contrast(t, colours[front], colours[back]), least, "%s in %s", pair, palette)
			}
		}
	}
	require.NotRegexp(t, `#[0-9a-f]{3,8}\b|rgb|hsl|opacity`, regexp.MustCompile(`#(length)`).ReplaceAllString(rest, ""), "no colour is used but those")
}

// contrast returns the ratio of two colours by WCAG's definition.
func contrast(t *testing.T, one, other string) float64 {
	t.Helper()
	luminance := func(hex string) float64 {
		value, err := strconv.ParseUint(hex, 16, 24)
		require.NoError(t, err)
		require.Len(t, hex, 6)
		channel := func(shift int) float64 {
			c := float64(value>>shift&0xff) / 255
			if c <= 0.04045 {
				return c / 12.92
			}
			return math.Pow((c+0.055)/1.055, 2.4)
		}
		return 0.2126*channel(16) + 0.7152*channel(8) + 0.0722*channel(0)
	}
	a, b := luminance(one), luminance(other)
	return (math.Max(a, b) + 0.05) / (math.Min(a, b) + 0.05)
}
