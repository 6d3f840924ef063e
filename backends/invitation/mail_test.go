package invitation_test

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/http"
	"net/mail"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/tenantgate/tenantgate/backends/invitation"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
)

// parsed is a mail as a mail program reads it.
type parsed struct {
	header     mail.Header
	text, html string
}

// parseMail reads a message of two alternative parts, and no others.
func parseMail(t require.TestingT, raw string) parsed {
	message, err := mail.ReadMessage(strings.NewReader(raw))
	require.NoError(t, err)
	kind, params, err := mime.ParseMediaType(message.Header.Get("Content-Type"))
	require.NoError(t, err)
	require.Equal(t, "multipart/alternative", kind)
	p := parsed{header: message.Header}
	reader := multipart.NewReader(message.Body, params["boundary"])
	for i, want := range []string{"text/plain", "text/html"} {
		part, err := reader.NextRawPart()
		require.NoError(t, err)
		kind, params, err := mime.ParseMediaType(part.Header.Get("Content-Type"))
		require.NoError(t, err)
		require.Equal(t, want, kind)
		require.Equal(t, "utf-8", strings.ToLower(params["charset"]))
		require.Equal(t, "quoted-printable", part.Header.Get("Content-Transfer-Encoding"))
		content, err := io.ReadAll(quotedprintable.NewReader(part))
		require.NoError(t, err)
		*[]*string{&p.text, &p.html}[i] = strings.ReplaceAll(string(content), "\r\n", "\n")
	}
	_, err = reader.NextRawPart()
	require.ErrorIs(t, err, io.EOF)
	return p
}

// mailsIn returns the contents of the .eml files in a folder, oldest first.
func mailsIn(t require.TestingT, folder string) []string {
	names, err := filepath.Glob(filepath.Join(folder, "*.eml"))
	require.NoError(t, err)
	mails := make([]string, 0, len(names))
	for _, name := range names {
		content, err := os.ReadFile(name)
		require.NoError(t, err)
		mails = append(mails, string(content))
	}
	return mails
}

func inFolder(t testing.TB) (*fixture, string) {
	t.Helper()
	folder := filepath.Join(t.TempDir(), "made", "mail")
	transport, err := invitation.NewFolder(folder)
	require.NoError(t, err)
	return newFixture(t, dbtest.SQLite(t), func(c *invitation.Config) { c.Mail = transport }), folder
}

// firstMail waits for a mail in a folder: the API does not wait for slow ones.
func firstMail(t require.TestingT, folder string) parsed {
	require.Eventually(t, func() bool { return len(mailsIn(t, folder)) > 0 }, 10*time.Second, 5*time.Millisecond)
	return parseMail(t, mailsIn(t, folder)[0])
}

func TestMailInAFolder(t *testing.T) {
	t.Parallel()
	f, folder := inFolder(t)
	a := f.as(t, admin, 1, http.MethodPost, "/api/invitations/", `{"email":"Nina@bücher.test","name":"Nina"}`)
	require.Equal(t, http.StatusCreated, a.Code, a.Body)

	m := firstMail(t, folder)
	names, err := os.ReadDir(folder)
	require.NoError(t, err)
	require.Len(t, names, 1, "no temporary file is left")
	require.Regexp(t, `^20260301T120000\.000Z-[0-9a-f-]{36}\.eml$`, names[0].Name())
	info, err := names[0].Info()
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	info, err = os.Stat(folder)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())

	require.Equal(t, "You are invited", m.header.Get("Subject"))
	require.Equal(t, `"Acme Gate" <no-reply@gate.test>`, m.header.Get("From"))
	require.Equal(t, "<Nina@xn--bcher-kva.test>", m.header.Get("To"))
	require.Equal(t, "auto-generated", m.header.Get("Auto-Submitted"))
	require.Regexp(t, `^<[0-9a-f-]{36}@gate\.test>$`, m.header.Get("Message-ID"))
	date, err := m.header.Date()
	require.NoError(t, err)
	require.True(t, date.Equal(start))

	token := tokenIn(t, m.text)
	link := "https://app.example.com/invite#token=" + token
	require.Contains(t, m.text, "\n"+link+"\n")
	require.Contains(t, m.html, `<a href="`+link+`"`)
	require.Contains(t, m.text, "Ada Admin invites you to join acme.")
	require.Contains(t, m.text, "8 March 2026, 12:00 UTC")
	require.Contains(t, m.text, "curl -sS https://app.example.com/api/invitations/accept/")
	require.Equal(t, http.StatusCreated, f.accept(t, token, goodPassword).Code)
}

func TestUnwritableMailFolder(t *testing.T) {
	t.Parallel()
	f, folder := inFolder(t)
	require.NoError(t, os.RemoveAll(folder))
	a := f.as(t, admin, 1, http.MethodPost, "/api/invitations/", `{"email":"a@x.test"}`)
	require.Equal(t, http.StatusCreated, a.Code)
	id := a.body["id"].(string)
	require.Eventually(t, func() bool {
		a = f.as(t, admin, 1, http.MethodGet, "/api/invitations/"+id+"/", "")
		return a.at("delivery", "error") == "failed"
	}, 10*time.Second, 5*time.Millisecond)
	require.Equal(t, "pending", a.at("delivery", "status"), "it is tried again")

	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err := invitation.NewFolder(filepath.Join(file, "mail"))
	require.Error(t, err)
	_, err = invitation.NewFolder("")
	require.Error(t, err)
}

func TestMailsAreInTheLanguageAskedFor(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url, func(c *invitation.Config) {
			c.Locale = "fr"
			c.Templates = folderOf("tenants/2/de/subject.txt", "Globex lädt Sie ein")
		})
		mails := func(address string) (found []invitation.Mail) {
			f.mails.mu.Lock()
			defer f.mails.mu.Unlock()
			for _, m := range f.mails.mails {
				if m.To.Address == address {
					found = append(found, m)
				}
			}
			return found
		}
		for i, c := range []struct {
			user           string
			tenant         int
			asked          string
			stored         any
			subject, words string
		}{
			{admin, 1, `,"locale":"de-AT"`, "de", "Sie wurden eingeladen", "acme beizutreten"},
			{stranger, 2, `,"locale":"de"`, "de", "Globex lädt Sie ein", "globex beizutreten"},
			{admin, 1, `,"locale":"en-GB"`, "en", "You are invited", "to join acme"},
			{admin, 1, ``, "", "Vous avez reçu une invitation", "rejoindre acme"},
			{admin, 1, `,"locale":""`, "", "Vous avez reçu une invitation", "rejoindre acme"},
		} {
			address := fmt.Sprintf("p%d@x.test", i)
			a := f.as(t, c.user, c.tenant, http.MethodPost, "/api/invitations/", `{"email":"`+address+`"`+c.asked+`}`)
			require.Equal(t, http.StatusCreated, a.Code, a.Body)
			require.Equal(t, c.stored, a.body["locale"])
			require.Eventually(t, func() bool { return len(mails(address)) == 1 }, 10*time.Second, 5*time.Millisecond)
			f.clock.Advance(time.Minute)
			a = f.as(t, c.user, c.tenant, http.MethodPost, "/api/invitations/"+a.body["id"].(string)+"/resend/", "")
			require.Equal(t, http.StatusOK, a.Code, a.Body)
			require.Eventually(t, func() bool { return len(mails(address)) == 2 }, 10*time.Second, 5*time.Millisecond)
			for _, m := range mails(address) {
				require.Equal(t, c.subject, m.Subject)
				require.Contains(t, m.Text, c.words)
			}
		}
		for _, unknown := range []string{"ja", "german", "../de", `de\r\nBcc: x@evil.test`} {
			a := f.as(t, admin, 1, http.MethodPost, "/api/invitations/", `{"email":"q@x.test","locale":"`+unknown+`"}`)
			require.Equal(t, http.StatusUnprocessableEntity, a.Code, a.Body)
			require.Equal(t, []string{"/locale unknown-locale"}, a.fields())
		}
	})
}

func TestATemplateThatCanNotWorkStopsTheStart(t *testing.T) {
	t.Parallel()
	f := newFixture(t, dbtest.SQLite(t))
	config := invitation.Config{
		DB: f.db, Log: zap.NewNop(), Clock: f.clock, Hasher: plainHasher{}, Mail: f.mails, PublicURL: publicURL, Random: rand.Reader,
	}
	_, err := invitation.New(config)
	require.NoError(t, err)
	config.Templates = folderOf("de/invitation.txt", "Hallo")
	_, err = invitation.New(config)
	require.ErrorContains(t, err, "invitation service: mail templates: de/invitation.txt: the text lacks the link")
	config.Templates, config.Locale = nil, "nl"
	_, err = invitation.New(config)
	require.ErrorContains(t, err, `there is no default locale "nl"`)
}

// TestHardening_CWE93_CWE79_NoTextEndsAHeaderOrATag puts markup and line breaks
// wherever a person's text reaches a mail: through the API, and through tables
// that other services write.
func TestHardening_CWE93_CWE79_NoTextEndsAHeaderOrATag(t *testing.T) {
	t.Parallel()
	const evil = `<script>alert(1)</script>"'><a href=https://evil.test>{{.Token}} =?utf-8?q?=0D=0ABcc:_x@y.test?=`
	f, folder := inFolder(t)
	f.exec(t, `UPDATE tenants SET name = $1 WHERE id = 1`, "acme\r\nBcc: tenant@evil.test\r\n\r\n--"+evil)
	f.exec(t, `UPDATE users SET name = $1 WHERE id = $2`, "Ada\r\nBcc: inviter@evil.test\n\u202e"+evil, admin)
	body, err := json.Marshal(map[string]any{
		"email": `"quoted"@x.test`, "name": evil, "metadata": map[string]string{"note": evil},
	})
	require.NoError(t, err)
	require.Equal(t, http.StatusUnprocessableEntity, f.as(t, admin, 1, http.MethodPost, "/api/invitations/", string(body)).Code)
	body = []byte(strings.Replace(string(body), `\"quoted\"@x.test`, "a+b%c@x.test", 1))
	a := f.as(t, admin, 1, http.MethodPost, "/api/invitations/", string(body))
	require.Equal(t, http.StatusCreated, a.Code, a.Body)

	m := firstMail(t, folder)
	var names []string
	for name := range m.header {
		names = append(names, name)
	}
	require.ElementsMatch(t, []string{"From", "To", "Subject", "Date", "Message-Id", "Mime-Version", "Auto-Submitted", "Content-Type"}, names)
	require.Equal(t, "You are invited", m.header.Get("Subject"))
	require.Equal(t, "<a+b%c@x.test>", m.header.Get("To"))
	require.NotContains(t, m.html, "<script")
	require.Equal(t, 1, strings.Count(m.html, "<a "))
	require.NotContains(t, m.html, "alert(1)</script>")
	require.Contains(t, m.html, "&lt;script&gt;")
	require.NotContains(t, m.text, "\nBcc:")
	require.NotContains(t, m.text+m.html, "\u202e")
	require.Contains(t, m.text, "{{.Token}}", "a template in a name stays text")
	require.Contains(t, m.text, "Hello "+evil+",\n", "the text is not changed, only harmless")
}

// TestHardening_CWE93_CWE79_NoLocaleLetsATextOut does the same with the mails of
// every locale, and with an override that puts texts where HTML has other rules.
func TestHardening_CWE93_CWE79_NoLocaleLetsATextOut(t *testing.T) {
	t.Parallel()
	const tail = `<script>alert(1)</script>"'><a href=https://evil.test>{{.Token}}`
	evil := nina
	evil.Name = "Nina\r\n\r\n--boundary\r\nBcc: name@evil.test\u2028\u202e" + tail
	evil.Tenant = "acme\nToken: inv_" + strings.Repeat("B", 43) + "\n" + tail
	evil.Inviter = "javascript:alert(1)//\r\nBcc: inviter@evil.test" + tail
	evil.Email = `o'neil&{{.Token}}@x.test`
	all := templates(t, nil)
	for _, locale := range all.Locales() {
		t.Run(locale, func(t *testing.T) {
			t.Parallel()
			harmless := received(t, mailOf(t, all, in(nina, locale)))
			m := received(t, mailOf(t, all, in(evil, locale)))
			require.Equal(t, subject(t, harmless), subject(t, m))
			require.Len(t, m.header, len(harmless.header))
			require.Equal(t, appearance(t, harmless.html), appearance(t, m.html), "no element, attribute or address is another")
			require.Equal(t, strings.Count(harmless.text, "\n"), strings.Count(m.text, "\n"))
			require.Equal(t, someToken.Reveal(), tokenIn(t, m.text))
			require.Len(t, tokenLine.FindAllString(m.text, -1), 1)
			require.NotContains(t, m.text, "\nBcc:")
			require.NotContains(t, m.text+m.html, "\u202e")
			require.Contains(t, m.text, "{{.Token}}", "a template in a text stays text")
			require.Contains(t, m.text, `o'neil&{{.Token}}@x.test`)
			require.Contains(t, m.html, "o&#39;neil&amp;{{.Token}}@x.test")
		})
	}

	own := templates(t, folderOf("en/invitation.html", `<a title={{.Name}} href="{{.Link}}">x</a><a href="{{.Inviter}}" onclick="f({{.Tenant}})">y</a>`+
		`<style>p { color: {{.Name}} }</style><script>let a = {{.Tenant}}, b = "{{.Name}}";</script>`))
	page := mailOf(t, own, in(evil, "en")).HTML
	require.Equal(t, []string{"html", "head", "body", "a", "a", "style", "script"}, func() (names []string) {
		for _, element := range appearance(t, page) {
			names = append(names, strings.Fields(element)[0])
		}
		return names
	}())
	require.Contains(t, page, `href="#ZgotmplZ"`)
	require.NotContains(t, page, `"javascript:`)
	require.Equal(t, 1, strings.Count(page, "</script>"))
	require.Contains(t, page, "color: ZgotmplZ")
}

// TestHardening_CWE640_ALinkIsMadeOfTheSettingsAlone sends the headers that make
// links of other services point elsewhere (OWASP Forgot Password cheat sheet).
func TestHardening_CWE640_ALinkIsMadeOfTheSettingsAlone(t *testing.T) {
	t.Parallel()
	f := newFixture(t, dbtest.SQLite(t))
	for i, headers := range [][]string{
		{"Host", "evil.test"},
		{"X-Forwarded-Host", "evil.test", "X-Forwarded-Proto", "ftp", "Forwarded", "host=evil.test"},
		{"Origin", "https://evil.test", "Referer", "https://evil.test/"},
	} {
		headers = append(headers, "X-User-Id", admin, "X-Tenant-Id", "1", "X-Permission", "abc/invitations/write")
		a := f.do(t, http.MethodPost, "http://evil.test/api/invitations/", fmt.Sprintf(`{"email":"p%d@x.test"}`, i), headers...)
		require.Equal(t, http.StatusCreated, a.Code, a.Body)
		m := f.mails.last(t)
		require.NotContains(t, m.Text+m.HTML+a.Header().Get("Location"), "evil.test")
		require.Contains(t, m.Text, "https://app.example.com/invite#token=inv_")
	}
}
