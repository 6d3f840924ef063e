package invitation_test

import (
	"crypto/sha256"
	"encoding/base64"
	"math"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/database/dbtest"
)

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

	a := f.do(t, http.MethodGet, "/invite", "")
	page, policy := a.Body.String(), a.Header().Get("Content-Security-Policy")
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
}

// TestThePageIsAccessible checks what its source can show: every field has a
// label and a hint for password managers, every reference leads somewhere.
func TestThePageIsAccessible(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("templates/en/invite.html")
	require.NoError(t, err)
	page := string(content)
	require.Contains(t, page, `<html lang="en">`)
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
}

// TestTheColoursOfThePageHaveContrast computes WCAG 2.2's contrast, 1.4.3 for
// text and 1.4.11 for what is not text, in the light and the dark scheme.
func TestTheColoursOfThePageHaveContrast(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("templates/en/invite.css")
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
