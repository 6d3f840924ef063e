package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var linkPattern = regexp.MustCompile(`(http://\S+/invite)#token=(inv_[A-Za-z0-9_-]{43})`)

// invited makes an invitation by the admin of acme and returns its path and
// the link in its mail.
func (d *Dev) invited(t *testing.T, admin []string, email, role string) (path, link string) {
	t.Helper()
	created := Call(t, http.MethodPost, d.URL+"/api/invitations/", map[string]string{"email": email, "role": role}, admin...)
	require.Equal(t, http.StatusCreated, created.StatusCode, "%s", created.Body)
	id, ok := created.JSON(t)["id"].(string)
	require.True(t, ok)
	mails, err := filepath.Glob(filepath.Join(d.Data, "mail", "*.eml"))
	require.NoError(t, err)
	for _, mail := range mails {
		content, err := os.ReadFile(mail)
		require.NoError(t, err)
		if !strings.Contains(string(content), email) {
			continue
		}
		text := strings.NewReplacer("=\r\n", "", "=3D", "=").Replace(string(content)) // quoted-printable
		found := linkPattern.FindString(text)
		require.NotEmpty(t, found, text)
		return d.URL + "/api/invitations/" + id + "/", found
	}
	require.FailNow(t, "no mail", "to %s among %d", email, len(mails))
	return "", ""
}

// state waits until the page is in a state that has a name, and has told it to
// who can't see.
func (p *Tab) state(t *testing.T, want string) {
	t.Helper()
	p.until(t, `document.querySelector("[data-state]:not([hidden])")?.dataset.state === "`+want+`"`)
	require.Equal(t, "H1", p.eval(t, "document.activeElement.tagName"), "the focus is on the heading")
	require.Equal(t, p.eval(t, "document.title"), p.eval(t, "document.activeElement.textContent"))
	require.Empty(t, p.eval(t, "location.hash"), "the token has left the address bar")
	require.InDelta(t, 1, p.eval(t, `[...document.querySelectorAll("[data-state]")].filter((s) => s.offsetHeight > 0).length`), 0)
}

// fits fails if a part of the page is beyond the edge of the window.
func (p *Tab) fits(t *testing.T, width int) {
	t.Helper()
	require.LessOrEqual(t, p.eval(t, "document.documentElement.scrollWidth"), float64(width))
}

// text returns what people see of the page.
func (p *Tab) text(t *testing.T) string {
	t.Helper()
	return fmt.Sprint(p.eval(t, "document.body.innerText"))
}

// heard returns the headings, fields and buttons as a screen reader tells
// them: each with its role, its name, and its description if it has one.
func (p *Tab) heard(t *testing.T) []string {
	t.Helper()
	type text struct{ Value any }
	var tree struct {
		Nodes []struct {
			Ignored                 bool
			Role, Name, Description text
		}
	}
	require.NoError(t, json.Unmarshal(p.do(t, "Accessibility.getFullAXTree", nil), &tree))
	var all []string
	for _, node := range tree.Nodes {
		if !node.Ignored && slices.Contains([]any{"heading", "textbox", "button"}, node.Role.Value) {
			line := fmt.Sprint(node.Role.Value, ": ", node.Name.Value)
			if node.Description.Value != nil && node.Description.Value != "" {
				line += fmt.Sprint("; ", node.Description.Value)
			}
			all = append(all, line)
		}
	}
	return all
}

// value returns a property of the element with the id.
func (p *Tab) value(t *testing.T, id, property string) any {
	t.Helper()
	return p.eval(t, `document.getElementById("`+id+`").`+property)
}

// clean fails if the token is anywhere but in its mail and in the page's
// memory.
func (d *Dev) clean(t *testing.T, c *Chromium, tokens ...string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(d.Data, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() && entry.Name() == "mail" {
			require.NoError(t, err)
			return fs.SkipDir
		}
		if !entry.Type().IsRegular() {
			return nil
		}
		content, err := os.ReadFile(path) // the database with its journal, logs, buffers: every byte
		for _, token := range tokens {
			require.NotContains(t, string(content), token[4:], path)
		}
		return err
	}))
	require.NotEmpty(t, c.requests(t))
	for _, request := range c.requests(t) {
		for _, token := range tokens {
			require.NotContains(t, request, token[4:])
		}
		require.NotRegexp(t, `(?i)referer: ?http`, request)
	}
}

// TestTheInvitationPageInABrowser opens the link of a mail with Chromium and
// does what an invited person does, with the keyboard alone.
func TestTheInvitationPageInABrowser(t *testing.T) {
	t.Parallel()
	path := browser(t)
	dev := StartDev(t, binaries)
	admin := dev.Login(t, "admin@acme.test", Password)
	invitation, link := dev.invited(t, admin, "ann@example.com", "Viewer")
	_, token, _ := strings.Cut(link, "=")
	tab := startChromium(t, path).open(t)
	tab.size(t, 1024, 860, false)

	// Looking uses nothing up: not by a person, not by what reads mails for them.
	for range 20 {
		tab.load(t, link)
		tab.state(t, "open")
		prefetch := Call(t, http.MethodGet, strings.Split(link, "#")[0], nil, "Sec-Purpose", "prefetch;prerender")
		require.Equal(t, http.StatusOK, prefetch.StatusCode)
	}
	require.Equal(t, "pending", Call(t, http.MethodGet, invitation, nil, admin...).JSON(t)["status"])
	require.NotContains(t, tab.eval(t, `document.documentElement.outerHTML + [...document.querySelectorAll("input")].map((i) => i.value)`), token[4:])

	// Who, where and until when come before the password.
	require.Equal(t, "Join acme", tab.eval(t, "document.title"))
	require.Regexp(t, `(?s)Join acme.*Invited by\s+Admin of acme.*Your role\s+Viewer.*Valid until\s+\d+ \w+ 20\d\d at \d\d:\d\d UTC.*Choose a password.*At least 15 characters`, tab.text(t))
	require.Equal(t, "ann@example.com", tab.value(t, "email", "value"))
	require.Equal(t, "username", tab.value(t, "email", "autocomplete"))
	require.Equal(t, "new-password", tab.value(t, "password", "autocomplete"))
	require.Equal(t, []string{
		"heading: Join acme", "textbox: Your address", "textbox: Your name (optional)",
		"textbox: Choose a password; At least 15 characters A few words in a row make a good one; nothing common, nothing repeated Not made of your address or the name acme",
		"button: Show password", "button: Join acme",
	}, tab.heard(t))
	for _, width := range []int{320, 360, 1024} {
		tab.size(t, width, 740, width < 1024)
		tab.fits(t, width)
	}
	tab.size(t, 1024, 860, false)
	tab.shoot(t, "desktop")

	// Weak passwords: one that the page knows of, one that the server refuses.
	tab.tabTo(t, "password")
	tab.write(t, "ünï🐦")
	require.Equal(t, " (4)", tab.value(t, "count", "textContent"), "code points, not UTF-16 units")
	tab.press(t, "Enter")
	tab.until(t, `document.getElementById("password-error").textContent === "Use at least 15 characters: 11 more."`)
	require.Equal(t, "password", tab.eval(t, "document.activeElement.id"))
	require.Equal(t, "true", tab.eval(t, `document.getElementById("password").getAttribute("aria-invalid")`))
	require.Equal(t, "Use at least 15 characters: 11 more.", tab.value(t, "status", "textContent"), "read aloud")
	tab.eval(t, `document.getElementById("password").select()`)
	tab.write(t, strings.Repeat("ab", 10))
	require.Empty(t, tab.value(t, "password-error", "textContent"), "typing clears the error")
	require.Equal(t, true, tab.eval(t, `document.getElementById("length").classList.contains("met")`))
	require.Equal(t, "The password is long enough.", tab.value(t, "status", "textContent"))
	tab.press(t, "Enter")
	tab.until(t, `document.getElementById("password-error").textContent.includes("first passwords that an attacker tries")`)
	require.Equal(t, "password", tab.eval(t, "document.activeElement.id"))
	tab.size(t, 360, 740, true)
	tab.fits(t, 360)
	tab.shoot(t, "phone-weak")
	tab.size(t, 1024, 860, false)

	// Show, look at it, hide: Tab and the space bar are enough.
	tab.write(t, "plum tree river stone") // the refused one was selected
	tab.tabTo(t, "show")
	tab.press(t, " ")
	require.Equal(t, "text", tab.value(t, "password", "type"))
	require.Equal(t, "Hide password", tab.value(t, "show", "ariaLabel"))
	tab.press(t, " ")
	require.Equal(t, "password", tab.value(t, "password", "type"))
	tab.press(t, "Tab")
	tab.press(t, "Enter")
	tab.state(t, "accepted")
	require.Contains(t, tab.text(t), "Welcome to acme")
	require.Empty(t, tab.value(t, "password", "value"), "the password does not stay in the page")
	tab.size(t, 1024, 320, false)
	tab.shoot(t, "accepted")
	me := Call(t, http.MethodGet, dev.URL+"/api/auth/me", nil, dev.Login(t, "ann@example.com", "plum tree river stone")...)
	require.Equal(t, http.StatusOK, me.StatusCode, "%s", me.Body)

	tab.load(t, link)
	tab.state(t, "invitation-accepted")
	require.Contains(t, tab.text(t), "This invitation was used already")

	dev.clean(t, tab.Chromium, token)
	require.Empty(t, tab.complaints(), "no violation of the policy, no error")
	for _, request := range tab.seen("Network.requestWillBeSent") {
		require.Regexp(t, `"url":"(`+regexp.QuoteMeta(dev.URL)+`/|about:blank)`, string(request), "nothing comes from elsewhere")
	}
}

// TestTheInvitationPageSaysHowItEnds shows every way in which an invitation
// can't be accepted.
func TestTheInvitationPageSaysHowItEnds(t *testing.T) {
	t.Parallel()
	path := browser(t)
	dev := StartDev(t, binaries)
	admin := dev.Login(t, "admin@acme.test", Password)
	tab := startChromium(t, path).open(t)
	tab.size(t, 360, 740, true)
	const secretWords = "plum tree river stone"

	// It is cancelled while the page is open: before and after that moment.
	invitation, link := dev.invited(t, admin, "bob@example.com", "Editor")
	tokens := []string{strings.Split(link, "=")[1]}
	tab.load(t, link)
	tab.state(t, "open")
	tab.shoot(t, "phone")
	tab.dark(t, true)
	tab.shoot(t, "phone-dark")
	tab.dark(t, false)
	require.Equal(t, http.StatusOK, Call(t, http.MethodPost, invitation+"cancel/", nil, admin...).StatusCode)
	tab.tabTo(t, "password")
	tab.write(t, secretWords)
	tab.press(t, "Enter")
	tab.state(t, "invitation-cancelled")
	tab.load(t, link)
	tab.state(t, "invitation-cancelled")
	tab.size(t, 360, 320, true)
	tab.shoot(t, "phone-cancelled")

	// Links that were never good.
	tab.load(t, dev.URL+"/invite#token=inv_"+strings.Repeat("A", 43))
	tab.state(t, "invitation-unknown")
	for _, fragment := range []string{"", "#", "#token=", "#token=inv_x", "#token=" + strings.Repeat("A", 47)} {
		tab.load(t, dev.URL+"/invite"+fragment)
		tab.state(t, "no-token")
	}

	// Without scripts there is a text instead of an empty page.
	tab.do(t, "Emulation.setScriptExecutionDisabled", object{"value": true})
	tab.load(t, link)
	const noScript = "heading: This page needs JavaScript"
	for end := time.Now().Add(secs(20)); !slices.Contains(tab.heard(t), noScript); {
		require.True(t, time.Now().Before(end), "never: %s", noScript)
	}
	tab.do(t, "Emulation.setScriptExecutionDisabled", object{"value": false})
	tab.load(t, dev.URL+"/invite")
	tab.state(t, "no-token")

	// An account is there already: its password is asked for, and guessed at.
	_, link = dev.invited(t, admin, "viewer@globex.test", "Viewer")
	tokens = append(tokens, strings.Split(link, "=")[1])
	loads := len(tab.seen("Page.loadEventFired"))
	tab.eval(t, `location.hash = "`+strings.Split(link, "#")[1]+`"`) // opened in the same tab
	require.Eventually(t, func() bool { return len(tab.seen("Page.loadEventFired")) > loads }, secs(20), ms(10))
	tab.state(t, "open")
	require.Contains(t, tab.text(t), "Your existing password")
	require.NotContains(t, tab.text(t), "At least 15 characters")
	require.Contains(t, tab.heard(t), "textbox: Your existing password; "+
		"This address has an account already: give the password of that account. It stays as it is.")
	require.Equal(t, "current-password", tab.value(t, "password", "autocomplete"))
	tab.tabTo(t, "password")
	tab.press(t, "Enter")
	tab.until(t, `document.getElementById("password-error").textContent === "Give your existing password."`)
	for range 5 {
		tab.write(t, "wrong")
		tab.press(t, "Enter")
		tab.until(t, `document.getElementById("password-error").textContent.includes("give that account's password")`)
	}
	tab.write(t, "wrong")
	tab.press(t, "Enter")
	tab.until(t, `document.getElementById("problem").textContent === "Too many attempts. Try again in 15 minutes."`)
	tab.fits(t, 360)

	// What this installation does not answer of its own accord.
	tab.size(t, 320, 640, true)
	_, link = dev.invited(t, admin, strings.Repeat("eve.", 15)+"x@example.com", "Viewer")
	tokens = append(tokens, strings.Split(link, "=")[1])
	tab.answered(t, link, http.StatusGone, `{"code":"invitation-expired","detail":"x"}`)
	tab.state(t, "invitation-expired")
	tab.answered(t, link, http.StatusConflict, `{"code":"role-gone","detail":"<b>The role</b> was deleted."}`)
	tab.state(t, "refused")
	require.Contains(t, tab.text(t), "<b>The role</b> was deleted.", "a text stays a text")
	tab.answered(t, link, http.StatusTooManyRequests, `{"code":"too-many-attempts","detail":"x"}`, object{"name": "Retry-After", "value": "91"})
	tab.state(t, "too-many")
	require.Contains(t, tab.text(t), "Try again in 2 minutes.")
	tab.answered(t, link, http.StatusBadGateway, `not JSON`)
	tab.state(t, "unreachable")
	tab.press(t, "Tab")
	tab.press(t, "Enter") // try again
	tab.state(t, "open")
	tab.tabTo(t, "password")
	tab.write(t, secretWords)
	tab.do(t, "Network.emulateNetworkConditions", object{"offline": true, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1})
	tab.press(t, "Enter")
	tab.until(t, `document.getElementById("problem").textContent === "The service can’t be reached. Try again."`)
	require.Equal(t, secretWords, tab.value(t, "password", "value"), "nobody types it twice for that")
	tab.do(t, "Network.emulateNetworkConditions", object{"offline": false, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1})
	tab.press(t, "Enter")
	tab.state(t, "accepted")
	tab.fits(t, 320)

	_, link = dev.invited(t, admin, "jana@example.com", "Editor")
	tokens = append(tokens, strings.Split(link, "=")[1])
	tab.acceptInGerman(t, link)

	dev.clean(t, tab.Chromium, tokens...)
	require.Empty(t, tab.complaints(), "no violation of the policy, no error")
}

// speak has the browser ask for pages in these languages from now on.
func (p *Tab) speak(t *testing.T, languages string) {
	t.Helper()
	p.do(t, "Network.setExtraHTTPHeaders", object{"headers": object{"Accept-Language": languages}})
}

// acceptInGerman accepts acme's invitation of an editor with a browser that asks
// for German, after a look at the other languages.
func (p *Tab) acceptInGerman(t *testing.T, link string) {
	t.Helper()
	for languages, heading := range map[string]string{"es-MX": "Unirse a acme", "fr-CH, en;q=0.5": "Rejoindre acme"} {
		p.speak(t, languages)
		p.load(t, link)
		p.state(t, "open")
		require.Equal(t, heading, p.eval(t, "document.title"))
		require.Equal(t, languages[:2], p.eval(t, "document.documentElement.lang"))
		p.fits(t, 320)
	}
	p.speak(t, "de-AT, de;q=0.9, en;q=0.5")
	p.answered(t, link, http.StatusConflict, `{"code":"role-gone","detail":"The role is gone."}`)
	p.state(t, "refused")
	require.Contains(t, p.text(t), "Die Rolle dieser Einladung wurde gelöscht: Bitten Sie um eine neue Einladung.")
	p.answered(t, link, http.StatusConflict, `{"code":"joining","detail":"A new reason."}`)
	p.state(t, "refused")
	require.Contains(t, p.text(t), "A new reason.", "the server's text for what the page does not know")
	p.answered(t, link, http.StatusTooManyRequests, `{"code":"too-many-attempts","detail":"x"}`, object{"name": "Retry-After", "value": "91"})
	p.state(t, "too-many")
	require.Contains(t, p.text(t), "Versuchen Sie es in 2 Minuten noch einmal.")

	p.load(t, link)
	p.state(t, "open")
	require.Equal(t, "acme beitreten", p.eval(t, "document.title"))
	require.Regexp(t, `(?s)acme beitreten.*Eingeladen von\s+Admin of acme.*Ihre Rolle\s+Editor.*Gültig bis\s+\d+\. \pL+ 20\d\d um \d\d:\d\d UTC.*Wählen Sie ein Passwort`, p.text(t))
	require.Equal(t, []string{
		"heading: acme beitreten", "textbox: Ihre E-Mail-Adresse", "textbox: Ihr Name (optional)",
		"textbox: Wählen Sie ein Passwort; Mindestens 15 Zeichen Mehrere Wörter hintereinander ergeben ein gutes; nichts Gängiges, nichts Wiederholtes Nicht aus Ihrer Adresse oder dem Namen acme gebildet",
		"button: Passwort anzeigen", "button: acme beitreten",
	}, p.heard(t))
	p.tabTo(t, "password")
	p.write(t, "kurz")
	p.press(t, "Enter")
	p.until(t, `document.getElementById("password-error").textContent === "Verwenden Sie mindestens 15 Zeichen: noch 11."`)
	p.eval(t, `document.getElementById("password").select()`)
	p.write(t, strings.Repeat("ab", 10))
	require.Equal(t, "Das Passwort ist lang genug.", p.value(t, "status", "textContent"))
	p.press(t, "Enter")
	p.until(t, `document.getElementById("password-error").textContent === "Dieses Passwort gehört zu den ersten, die ein Angreifer ausprobiert."`)
	p.fits(t, 320)
	p.size(t, 360, 740, true)
	require.Equal(t, p.value(t, "password", "offsetHeight"), p.value(t, "show", "offsetHeight"), "the button's word is on one line")
	p.shoot(t, "phone-de")
	p.write(t, "plum tree river stone") // the refused one was selected
	p.press(t, "Enter")
	p.state(t, "accepted")
	require.Regexp(t, `Willkommen bei acme\s+Sie können sich jetzt als jana@example\.com anmelden\.`, p.text(t))
	p.load(t, link)
	p.state(t, "invitation-accepted")
	require.Contains(t, p.text(t), "Diese Einladung wurde bereits angenommen")
	p.fits(t, 360)
}

// answered opens a link and answers the page's call with what is made up.
func (p *Tab) answered(t *testing.T, link string, status int, body string, header ...object) {
	t.Helper()
	before := len(p.seen("Fetch.requestPaused"))
	p.do(t, "Fetch.enable", object{"patterns": []object{{"urlPattern": "*/api/invitations/look/"}}})
	p.load(t, link)
	require.Eventually(t, func() bool { return len(p.seen("Fetch.requestPaused")) > before }, secs(20), ms(10))
	var paused struct{ RequestID string }
	require.NoError(t, json.Unmarshal(p.seen("Fetch.requestPaused")[before], &paused))
	p.do(t, "Fetch.fulfillRequest", object{
		"requestId": paused.RequestID, "responseCode": status, "responseHeaders": append([]object{}, header...), "body": base64.StdEncoding.EncodeToString([]byte(body)),
	})
	p.do(t, "Fetch.disable", nil)
}
