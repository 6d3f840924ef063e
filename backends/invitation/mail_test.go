package invitation_test

import (
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

	"github.com/stretchr/testify/require"

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

func TestMailInAFolder(t *testing.T) {
	t.Parallel()
	f, folder := inFolder(t)
	a := f.as(t, admin, 1, http.MethodPost, "/api/invitations/", `{"email":"Nina@bücher.test","name":"Nina"}`)
	require.Equal(t, http.StatusCreated, a.Code, a.Body)

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

	m := parseMail(t, mailsIn(t, folder)[0])
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
	require.Equal(t, "failed", a.at("delivery", "status"))
	require.Equal(t, "failed", a.at("delivery", "error"))

	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err := invitation.NewFolder(filepath.Join(file, "mail"))
	require.Error(t, err)
	_, err = invitation.NewFolder("")
	require.Error(t, err)
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

	m := parseMail(t, mailsIn(t, folder)[0])
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

// TestHardening_HostHeaderPoisoning shows that a link is made of the settings
// alone (OWASP Forgot Password cheat sheet; CVE-2016-9878 and many like it).
func TestHardening_HostHeaderPoisoning(t *testing.T) {
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
