package invitation_test

import (
	"context"
	"io/fs"
	"mime"
	"net/mail"
	neturl "net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/html"

	"github.com/tenantgate/tenantgate/backends/invitation"
	"github.com/tenantgate/tenantgate/internal/secret"
)

const someToken = secret.String("inv_abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNO-_")

var (
	publicURL = &neturl.URL{Scheme: "https", Host: "app.example.com"}
	// nina is invited, in no locale yet.
	nina = invitation.Invited{
		TenantID: 1, Tenant: "acme", Inviter: "Ada Admin", Name: "Nina", Email: "nina@x.test", Expires: start.Add(7 * 24 * time.Hour),
	}
)

// shipped are the locales that come with the service.
var shipped = []string{"de", "en", "es", "fr"}

// in returns i in a locale.
func in(i invitation.Invited, locale string) invitation.Invited {
	i.Locale = locale
	return i
}

func templates(t require.TestingT, overrides fs.FS) invitation.Templates {
	parsed, err := invitation.ParseTemplates(overrides, "en")
	require.NoError(t, err)
	return parsed
}

// mailOf returns the mail to i.
func mailOf(t require.TestingT, templates invitation.Templates, i invitation.Invited) invitation.Mail {
	m, err := templates.Mail(i, publicURL, someToken)
	require.NoError(t, err)
	return m
}

// received returns m as it leaves, read by a mail program.
func received(t testing.TB, m invitation.Mail) parsed {
	t.Helper()
	folder := t.TempDir()
	transport, err := invitation.NewFolder(folder)
	require.NoError(t, err)
	m.From, m.Date = mail.Address{Name: "Acme Gate", Address: "no-reply@gate.test"}, start
	require.NoError(t, transport.Send(context.Background(), m))
	return parseMail(t, mailsIn(t, folder)[0])
}

// subject returns the decoded subject, which is ASCII on the way.
func subject(t require.TestingT, m parsed) string {
	raw := m.header.Get("Subject")
	require.Regexp(t, `^[ -~]+$`, raw)
	text, err := new(mime.WordDecoder).DecodeHeader(raw)
	require.NoError(t, err)
	return text
}

// appearance returns the elements of a page with their attributes, but for lang, in
// order: what it looks like in any language.
func appearance(t require.TestingT, page string) []string {
	var elements []string
	root, err := html.Parse(strings.NewReader(page))
	require.NoError(t, err)
	for node := range root.Descendants() {
		if node.Type != html.ElementNode {
			continue
		}
		element := node.Data
		for _, a := range node.Attr {
			if a.Key != "lang" {
				element += " " + a.Key + "=" + a.Val
			}
		}
		elements = append(elements, element)
	}
	return elements
}

func TestEveryShippedLocaleSaysAllFacts(t *testing.T) {
	t.Parallel()
	all := templates(t, nil)
	require.Equal(t, shipped, all.Locales())
	english := received(t, mailOf(t, all, in(nina, "en")))
	for locale, want := range map[string]struct{ subject, greeting, anonymous, who, nobody, expires string }{
		"en": {
			"You are invited", "Hello Nina,", "Hello,",
			"Ada Admin invites you to join acme.", "You are invited to join acme.", "8 March 2026, 12:00 UTC",
		},
		"de": {
			"Sie wurden eingeladen", "Guten Tag Nina,", "Guten Tag,",
			"Ada Admin lädt Sie ein, acme beizutreten.", "Sie sind eingeladen, acme beizutreten.", "8. März 2026 um 12:00 Uhr UTC",
		},
		"fr": {
			"Vous avez reçu une invitation", "Bonjour Nina,", "Bonjour,",
			"Ada Admin vous invite à rejoindre acme.", "Vous avez reçu une invitation à rejoindre acme.", "8 mars 2026 à 12:00 UTC",
		},
		"es": {
			"Ha recibido una invitación", "Hola, Nina:", "Hola:",
			"Ada Admin le invita a unirse a acme.", "Ha recibido una invitación para unirse a acme.", "8 de marzo de 2026, 12:00 UTC",
		},
	} {
		t.Run(locale, func(t *testing.T) {
			t.Parallel()
			m := received(t, mailOf(t, all, in(nina, locale)))
			require.Equal(t, want.subject, subject(t, m))

			link := "https://app.example.com/invite#token=" + someToken.Reveal()
			require.True(t, strings.HasPrefix(m.text, want.greeting+"\n\n"+want.who+"\n\n"), m.text)
			require.Contains(t, m.text, "\n"+link+"\n")
			require.Equal(t, someToken.Reveal(), tokenIn(t, m.text))
			require.Contains(t, m.text, "\ncurl -sS https://app.example.com/api/invitations/accept/ \\\n")
			require.Contains(t, m.text, `-d '{"token":"`+someToken.Reveal()+`","password":"<`)
			require.Contains(t, m.text, want.expires)
			require.Contains(t, m.text, "nina@x.test")

			require.Contains(t, m.html, `<html lang="`+locale+`">`)
			require.Contains(t, m.html, "<title>"+want.subject+"</title>")
			require.Contains(t, m.html, `<a href="`+link+`" style=`)
			require.Contains(t, m.html, ">"+link+"</span>", "for those whose button does not work")
			require.Equal(t, appearance(t, english.html), appearance(t, m.html), "all look alike")
			require.Contains(t, m.html, "<p>"+want.greeting+"</p>")
			for _, fact := range []string{"<strong>Ada Admin</strong>", "<strong>acme</strong>", want.expires, "nina@x.test"} {
				require.Contains(t, m.html, fact)
			}
			require.NotContains(t, m.text+m.html, "{{")
			if locale != "en" {
				for _, line := range strings.Split(english.text, "\n") {
					if strings.Contains(line, " ") && !strings.HasPrefix(line, "Token: ") && !strings.HasPrefix(line, "curl ") && !strings.HasPrefix(line, "  -H ") {
						require.NotContains(t, m.text, line, "nothing is left in English")
					}
				}
			}

			bare := nina
			bare.Name, bare.Inviter = "", ""
			m = received(t, mailOf(t, all, in(bare, locale)))
			require.True(t, strings.HasPrefix(m.text, want.anonymous+"\n\n"+want.nobody+"\n\n"), m.text)
			require.Contains(t, m.html, "<p>"+want.anonymous+"</p>")
			require.Contains(t, m.html, "<strong>acme</strong>")
			require.NotContains(t, m.html, "<strong></strong>")
		})
	}
}

// moments are templates that show the expiry and the link alone.
func moments(locales ...string) fstest.MapFS {
	files := fstest.MapFS{}
	for _, locale := range locales {
		files[locale+"/subject.txt"] = &fstest.MapFile{Data: []byte("x")}
		files[locale+"/invitation.txt"] = &fstest.MapFile{Data: []byte("{{.Locale}}: {{.Expires}} {{.Link}}")}
		files[locale+"/invitation.html"] = &fstest.MapFile{Data: []byte("<a href={{.Link}}>{{.Expires}}</a>")}
	}
	return files
}

func TestTheExpiryIsWrittenInTheLanguageAndInUTC(t *testing.T) {
	t.Parallel()
	all := templates(t, moments("de", "de-AT", "en", "es", "fr", "nl"))
	first := time.Date(2026, 8, 1, 1, 5, 0, 0, time.FixedZone("", -3600))
	last := time.Date(2027, 1, 1, 0, 59, 59, 0, time.FixedZone("", 3600))
	for locale, want := range map[string][2]string{
		"en":    {"1 August 2026, 02:05 UTC", "31 December 2026, 23:59 UTC"},
		"de":    {"1. August 2026 um 02:05 Uhr UTC", "31. Dezember 2026 um 23:59 Uhr UTC"},
		"de-AT": {"1. August 2026 um 02:05 Uhr UTC", "31. Dezember 2026 um 23:59 Uhr UTC"},
		"fr":    {"1er août 2026 à 02:05 UTC", "31 décembre 2026 à 23:59 UTC"},
		"es":    {"1 de agosto de 2026, 02:05 UTC", "31 de diciembre de 2026, 23:59 UTC"},
		"nl":    {"2026-08-01 02:05 UTC", "2026-12-31 23:59 UTC"},
	} {
		for i, at := range []time.Time{first, last} {
			invited := in(nina, locale)
			invited.Expires = at
			require.True(t, strings.HasPrefix(mailOf(t, all, invited).Text, locale+": "+want[i]+" https:"))
		}
		months := map[string]bool{}
		for month := range 12 {
			invited := in(nina, locale)
			invited.Expires = time.Date(2026, time.Month(month+1), 5, 0, 0, 0, 0, time.UTC)
			months[mailOf(t, all, invited).Text] = true
		}
		require.Len(t, months, 12, "%s: every month has a name of its own", locale)
	}
}

// folderOf makes a folder of paths and contents.
func folderOf(pairs ...string) fstest.MapFS {
	folder := fstest.MapFS{}
	for i := 0; i < len(pairs); i += 2 {
		folder[pairs[i]] = &fstest.MapFile{Data: []byte(pairs[i+1])}
	}
	return folder
}

func TestOverridesOfTheInstallationAndOfATenant(t *testing.T) {
	t.Parallel()
	all := templates(t, folderOf(
		"de/subject.txt", "Grüße von der Installation\r\n",
		"de/invitation.txt", "Installation {{.Tenant}} {{.Link}}",
		"tenants/7/de/invitation.txt", "Mandant {{.Tenant}} {{.Link}}",
		"tenants/7/en/invitation.html", `<p title="{{.Name}}">Seven: {{.Name}} <a href='{{.Link}}'>{{.Tenant}}</a>`,
		"tenants/8/fr/subject.txt", "Huit",
		"nl/subject.txt", "U bent uitgenodigd\n",
		"nl/invitation.txt", "Dag {{.Name}}: {{.Link}}\n",
		"nl/invitation.html", "<p lang={{.Locale}}>Dag {{.Name}}: {{.Link}}",
		"tenants/8/nl/subject.txt", "Acht",
		".gitkeep", "", "de/.invitation.txt.swp", "\xff", ".git/config", "", "tenants/.DS_Store", "",
	))
	require.Equal(t, []string{"de", "en", "es", "fr", "nl"}, all.Locales())
	plain := templates(t, nil)
	of := func(tenant int64, locale string) invitation.Mail {
		invited := in(nina, locale)
		invited.TenantID = tenant
		return mailOf(t, all, invited)
	}
	link := "https://app.example.com/invite#token=" + someToken.Reveal()

	m := of(1, "de")
	require.Equal(t, "Grüße von der Installation", subject(t, received(t, m)))
	require.Equal(t, "Installation acme "+link, m.Text)
	require.Equal(t, mailOf(t, plain, in(nina, "de")).HTML, m.HTML, "what nobody overrides is as shipped")

	m = of(7, "de")
	require.Equal(t, "Grüße von der Installation", m.Subject)
	require.Equal(t, "Mandant acme "+link, m.Text)
	m = of(7, "en")
	require.Equal(t, "You are invited", m.Subject)
	require.Equal(t, `<p title="Nina">Seven: Nina <a href='`+link+`'>acme</a>`, m.HTML)
	require.Equal(t, mailOf(t, plain, in(nina, "en")).Text, m.Text)
	require.Equal(t, mailOf(t, plain, in(nina, "en")).HTML, of(1, "en").HTML, "a tenant's file is that tenant's alone")

	require.Equal(t, "Huit", of(8, "fr").Subject)
	require.Equal(t, "Vous avez reçu une invitation", of(7, "fr").Subject)
	require.Equal(t, "Dag Nina: "+link+"\n", of(7, "nl").Text)
	require.Equal(t, "<p lang=nl>Dag Nina: "+link, of(7, "nl").HTML)
	require.Equal(t, "Acht", of(8, "nl").Subject)
	require.Equal(t, "Dag Nina: "+link+"\n", of(8, "nl").Text)
}

func TestAnInvitationWithoutALocaleGetsTheDefault(t *testing.T) {
	t.Parallel()
	all, err := invitation.ParseTemplates(nil, "de-AT")
	require.NoError(t, err)
	for locale, want := range map[string]string{
		"": "Sie wurden eingeladen", "nl": "Sie wurden eingeladen", // nl: its folder is gone
		"fr": "Vous avez reçu une invitation",
	} {
		require.Equal(t, want, mailOf(t, all, in(nina, locale)).Subject, locale)
	}
	for _, unknown := range []string{"", "nl", "german", "../en"} {
		_, err := invitation.ParseTemplates(nil, unknown)
		require.ErrorContains(t, err, "choose from de, en, es, fr", unknown)
	}
}

func TestOverridesThatCanNotWorkAreErrorsAtStart(t *testing.T) {
	t.Parallel()
	const link = "{{.Link}}"
	for name, c := range map[string]struct {
		files fstest.MapFS
		want  []string // all of them are in the error
	}{
		"a text that does not parse":           {folderOf("de/invitation.txt", "x\n\n{{.Link}"), []string{"de/invitation.txt:3:", "bad character"}},
		"HTML that does not parse":             {folderOf("tenants/7/en/invitation.html", "{{.Link}}\n{{if}}"), []string{"tenants/7/en/invitation.html:2:", "missing value for if"}},
		"HTML that can not be escaped":         {folderOf("de/invitation.html", link+"\n<a href='"), []string{"de/invitation.html", "ends in a non-text context"}},
		"an unknown function":                  {folderOf("fr/invitation.html", "{{.Link | safeHTML}}"), []string{"fr/invitation.html:1:", `"safeHTML" not defined`}},
		"an unknown field":                     {folderOf("de/invitation.txt", link+"\n{{.Nmae}}"), []string{"de/invitation.txt:2:", "Nmae"}},
		"an unknown field of nameless people":  {folderOf("de/invitation.txt", link+"\n{{if not .Name}}{{.Nmae}}{{end}}"), []string{"de/invitation.txt:2:", "Nmae"}},
		"an unknown field in HTML":             {folderOf("de/invitation.html", link+"\n\n{{with .Name}}{{$.Role}}{{end}}"), []string{"de/invitation.html:3:", "Role"}},
		"a template that is nowhere":           {folderOf("de/invitation.txt", link+`{{template "footer"}}`), []string{"de/invitation.txt:1:", "footer"}},
		"a text without the link":              {folderOf("de/invitation.txt", "{{.Token}} {{.Accept}}"), []string{"de/invitation.txt", "the text lacks the link"}},
		"a text without the link for some":     {folderOf("de/invitation.txt", "{{with .Name}}{{$.Link}}{{end}}"), []string{"de/invitation.txt", "the text lacks the link"}},
		"HTML with a comment for a link":       {folderOf("tenants/7/de/invitation.html", "<!-- {{.Link}} -->"), []string{"tenants/7/de/invitation.html", "the HTML lacks the link"}},
		"an empty file":                        {folderOf("es/invitation.html", ""), []string{"es/invitation.html"}},
		"a text that is no UTF-8":              {folderOf("fr/invitation.txt", "re\xe7u {{.Link}}"), []string{"fr/invitation.txt", "UTF-8"}},
		"an empty subject":                     {folderOf("de/subject.txt", " \n"), []string{"de/subject.txt", "empty"}},
		"a subject of two lines":               {folderOf("de/subject.txt", "Hallo\nBcc: x@evil.test\n"), []string{"de/subject.txt", "one line"}},
		"a subject and an empty line":          {folderOf("de/subject.txt", "Hallo\n\n"), []string{"de/subject.txt", "one line"}},
		"a subject with a carriage return":     {folderOf("de/subject.txt", "Hallo\rBcc: x@evil.test"), []string{"de/subject.txt", "one line"}},
		"a subject with a direction mark":      {folderOf("de/subject.txt", "Hallo \u202e"), []string{"de/subject.txt", "one line"}},
		"a subject that begins with a BOM":     {folderOf("de/subject.txt", "\ufeffHallo"), []string{"de/subject.txt", "one line"}},
		"a subject with an action":             {folderOf("tenants/7/de/subject.txt", "Hallo {{.Name}}"), []string{"tenants/7/de/subject.txt", "leave out {{"}},
		"a subject that is too long":           {folderOf("de/subject.txt", strings.Repeat("ü", 101)), []string{"de/subject.txt", "200 bytes"}},
		"a subject that is no UTF-8":           {folderOf("de/subject.txt", "Gr\xfc\xdfe"), []string{"de/subject.txt", "UTF-8"}},
		"a misspelt file":                      {folderOf("de/invitation.htm", link), []string{"de/invitation.htm", "unknown file", "invitation.html"}},
		"a file for the page":                  {folderOf("de/invite.html", link), []string{"de/invite.html", "unknown file"}},
		"a folder for a file":                  {folderOf("de/invitation.txt/x", ""), []string{"de/invitation.txt", "a regular file"}},
		"a folder in a locale":                 {folderOf("de/tenants/x", ""), []string{"de/tenants", "a regular file"}},
		"a file for a locale":                  {folderOf("de", ""), []string{"de", "a folder"}},
		"a stray file":                         {folderOf("README.md", ""), []string{"README.md", "language tag"}},
		"a locale by its name":                 {folderOf("german/subject.txt", "x"), []string{"german", "language tag"}},
		"a locale in other letters":            {folderOf("pt-br/subject.txt", "x"), []string{"pt-br", "language tag"}},
		"a locale with an underscore":          {folderOf("pt_BR/subject.txt", "x"), []string{"pt_BR", "language tag"}},
		"an old code of a language":            {folderOf("iw/subject.txt", "x"), []string{"iw", "language tag"}},
		"a locale of no language":              {moments("und"), []string{"und", "language tag"}},
		"a private locale":                     {moments("x-acme"), []string{"x-acme", "language tag"}},
		"a locale that another one stands for": {moments("ca", "ca-valencia"), []string{"ca-valencia", "gets another"}},
		"a tag that is too long":               {moments("de-x-aaaaaaaa-aaaaaaaa-aaaaaaaa-aaaa"), []string{"gets another"}},
		"a new locale without a subject":       {folderOf("nl/invitation.txt", link, "nl/invitation.html", link), []string{"nl", "needs all of subject.txt"}},
		"a new locale without HTML":            {folderOf("nl/invitation.txt", link, "nl/subject.txt", "x"), []string{"nl", "needs all of subject.txt"}},
		"a new locale of a tenant alone":       {folderOf("tenants/7/nl/invitation.txt", link, "tenants/7/nl/invitation.html", link, "tenants/7/nl/subject.txt", "x"), []string{"tenants/7/nl", "add the folder nl"}},
		"a tenant by its name":                 {folderOf("tenants/acme/de/subject.txt", "x"), []string{"tenants/acme", "tenant's id"}},
		"a tenant 0":                           {folderOf("tenants/0/de/subject.txt", "x"), []string{"tenants/0", "tenant's id"}},
		"a tenant's id with a zero in front":   {folderOf("tenants/07/de/subject.txt", "x"), []string{"tenants/07", "tenant's id"}},
		"a tenant's file without its locale":   {folderOf("tenants/7/subject.txt", "x"), []string{"tenants/7/subject.txt", "language tag"}},
		"a file for the tenants":               {folderOf("tenants", "x"), []string{"tenants", "a folder"}},
		"tenants in a tenant's folder":         {folderOf("tenants/7/tenants/8/de/subject.txt", "x"), []string{"tenants/7/tenants", "language tag"}},
		"a template that runs out of its data": {folderOf("de/invitation.txt", link+"\n{{index .Name 3}}"), []string{"de/invitation.txt:2:", "out of range"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := invitation.ParseTemplates(c.files, "en")
			require.Error(t, err)
			for _, want := range c.want {
				require.ErrorContains(t, err, want)
			}
			require.Less(t, len(err.Error()), 300)
		})
	}
}

// TestHardening_CWE59_OverridesStayInTheirFolder opens the folder as the
// programs do.
func TestHardening_CWE59_OverridesStayInTheirFolder(t *testing.T) {
	t.Parallel()
	outside := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(outside, "subject.txt"), []byte("from outside"), 0o600))
	for _, link := range [][2]string{
		{filepath.Join(outside, "subject.txt"), "de/subject.txt"},
		{outside, "fr"},
		{outside, "tenants"},
		{"../../" + filepath.Base(outside) + "/subject.txt", "de/subject.txt"},
	} {
		folder := t.TempDir()
		require.NoError(t, os.MkdirAll(filepath.Join(folder, "de"), 0o700))
		require.NoError(t, os.Symlink(link[0], filepath.Join(folder, link[1])))
		root, err := os.OpenRoot(folder)
		require.NoError(t, err)
		_, err = invitation.ParseTemplates(root.FS(), "en")
		require.ErrorContains(t, err, link[1])
		require.NoError(t, root.Close())
	}

	// Kubernetes mounts a ConfigMap as links to a hidden folder of the same root.
	folder := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(folder, "..2026_03_01", "de"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "..2026_03_01", "de", "subject.txt"), []byte("Guten Tag"), 0o600))
	require.NoError(t, os.Symlink("..2026_03_01", filepath.Join(folder, "..data")))
	require.NoError(t, os.Symlink("..data/de", filepath.Join(folder, "de")))
	root, err := os.OpenRoot(folder)
	require.NoError(t, err)
	all := templates(t, root.FS())
	require.NoError(t, root.Close(), "all is read at start")
	require.Equal(t, "Guten Tag", mailOf(t, all, in(nina, "de")).Subject)
}

func TestALanguageTagFindsTheLocaleThatItsReadersRead(t *testing.T) {
	t.Parallel()
	all := templates(t, moments("nl", "pt-BR", "pt-PT", "zh", "de-AT"))
	for text, want := range map[string]string{
		"de": "de", "DE": "de", "de-DE": "de", "de-CH": "de", "de-AT": "de-AT", "de_AT": "de-AT", "de-u-co-phonebk": "de", "gsw": "de",
		"en": "en", "en-GB": "en", "en-US": "en", "es-419": "es", "fr-CA": "fr", "nl-BE": "nl",
		"pt-BR": "pt-BR", "pt": "pt-BR", "pt-PT": "pt-PT", "pt-AO": "pt-PT", "zh-CN": "zh",
	} {
		found, ok := all.Locale(text)
		require.True(t, ok, text)
		require.Equal(t, want, found, text)
	}
	for _, text := range []string{
		"", " ", "e", "english", "de,en", "de;q=0.5", "*", "../de", "de/../en", "xx", "ja", "und", "mul", "x-acme", "zh-TW", "de-Cyrl", "de\x00", "d\u0435",
		"de-x-" + strings.Repeat("a-", 20) + "a", strings.Repeat("de-", 100_000) + "de",
	} {
		found, ok := all.Locale(text)
		require.False(t, ok, text)
		require.Empty(t, found)
	}
	for _, name := range all.Locales() {
		found, _ := all.Locale(name)
		require.Equal(t, name, found)
	}
}

func FuzzLocale(f *testing.F) {
	all := templates(f, moments("nl", "pt-BR", "zh-Hant", "sr-Latn"))
	names := all.Locales()
	for _, seed := range []string{
		"", "de-AT", "pt", "zh-TW", "sr-Cyrl", "i-klingon", "x-a", "und-Latn-x-a", "en-GB-oed", "art-lojban", "de-1901-u-co-phonebk", "a-DE", "zh-min-nan", "root", "no-nyn",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		found, ok := all.Locale(text)
		require.Equal(t, ok, slices.Contains(names, found))
		if !ok {
			require.Empty(t, found)
			return
		}
		require.LessOrEqual(t, len(text), 35)
		again, ok := all.Locale(found)
		require.True(t, ok)
		require.Equal(t, found, again, "what is stored is found again")
		m := mailOf(t, all, in(nina, text))
		require.Contains(t, m.Text, someToken.Reveal())
	})
}
