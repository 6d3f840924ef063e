package invitation

import (
	"errors"
	"fmt"
	"html"
	htmltemplate "html/template"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	texttemplate "text/template"
	"time"
	"unicode/utf8"

	"golang.org/x/text/language"
)

const (
	// maxLocale is the length of a language tag in bytes that everybody takes
	// (RFC 5646 section 4.4.1); longer ones are refused.
	maxLocale = 35
	// maxSubject is the length of a subject in bytes.
	maxSubject = 200
)

// The files of a locale, and the folder of the tenants' own ones.
const (
	subjectFile = "subject.txt"
	textFile    = "invitation.txt"
	htmlFile    = "invitation.html"
	tenantsName = "tenants"
)

// parseTemplates returns the mails that come with the service, with the files
// in overrides (nil for none) in place of theirs: <locale>/<file> for the
// installation, tenants/<id>/<locale>/<file> for one tenant. Invitations that
// name no locale get defaultLocale. Everything is tried out: an error names the
// file, and the line where there is one.
func parseTemplates(overrides fs.FS, defaultLocale string) (*templates, error) {
	shipped, err := fs.Sub(mailFiles, "templates")
	if err != nil {
		return nil, fmt.Errorf("mail templates: %w", err)
	}
	t := &templates{tenants: map[int64]map[string]*wording{}}
	if t.installation, err = readLocales(shipped, ".", nil); err != nil {
		return nil, fmt.Errorf("mail templates: %w", err)
	}
	if overrides != nil {
		if err := t.override(overrides); err != nil {
			return nil, fmt.Errorf("mail templates: %w", err)
		}
	}
	t.names = slices.Sorted(maps.Keys(t.installation))
	tags := make([]language.Tag, len(t.names))
	for i, name := range t.names {
		tags[i] = language.Make(name)
	}
	t.matcher = language.NewMatcher(tags)
	for _, name := range t.names {
		if found, _ := t.locale(name); found != name {
			return nil, fmt.Errorf("mail templates: %s: who asks for this locale gets another; name the folder by language, script and region alone", name)
		}
	}
	var ok bool
	if t.fallback, ok = t.locale(defaultLocale); !ok {
		return nil, fmt.Errorf("mail templates: there is no default locale %q; choose from %s", defaultLocale, strings.Join(t.names, ", "))
	}
	return t, nil
}

// locales returns the names of all locales, sorted.
func (t *templates) locales() []string { return slices.Clone(t.names) }

// locale returns the locale for people who read the language of a BCP 47 tag:
// "de" for "de-AT". It reports false for a text that is no tag, and for a
// language or a script that no locale is fit for.
func (t *templates) locale(text string) (string, bool) {
	if len(text) > maxLocale {
		return "", false
	}
	tag, err := language.Parse(text)
	if err != nil {
		return "", false
	}
	if _, i, confidence := t.matcher.Match(tag); confidence >= language.High {
		return t.names[i], true
	}
	return "", false
}

// override reads the installation's folder and then the tenants', which say
// what differs from it.
func (t *templates) override(files fs.FS) error {
	var err error
	if t.installation, err = readLocales(files, ".", t.installation); err != nil {
		return err
	}
	if _, err := fs.Stat(files, tenantsName); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	names, err := visible(files, tenantsName)
	if err != nil {
		return err
	}
	for _, name := range names {
		folder := path.Join(tenantsName, name)
		id, err := strconv.ParseInt(name, 10, 64)
		if err != nil || id < 1 || strconv.FormatInt(id, 10) != name {
			return fmt.Errorf("%s: name the folder by the tenant's id", folder)
		}
		if t.tenants[id], err = readLocales(files, folder, t.installation); err != nil {
			return err
		}
		for locale := range t.tenants[id] {
			if t.installation[locale] == nil {
				return fmt.Errorf("%s: the installation lacks this locale; add the folder %s for all tenants first", path.Join(folder, locale), locale)
			}
		}
	}
	return nil
}

// readLocales returns the locales of base, with what the folders in a folder
// say instead and in addition.
func readLocales(files fs.FS, folder string, base map[string]*wording) (map[string]*wording, error) {
	names, err := visible(files, folder)
	if err != nil {
		return nil, err
	}
	all := map[string]*wording{}
	maps.Copy(all, base)
	for _, name := range names {
		if folder == "." && name == tenantsName {
			continue
		}
		if !isLocale(name) {
			return nil, fmt.Errorf("%s: name the folder by a language tag like de or pt-BR, or %q", path.Join(folder, name), tenantsName)
		}
		if all[name], err = readLocale(files, path.Join(folder, name), name, base[name]); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// isLocale reports whether name is the tag of a language in its usual form.
func isLocale(name string) bool {
	tag, err := language.Parse(name)
	tongue, _, _ := tag.Raw()
	return err == nil && tag.String() == name && tongue.String() != "und"
}

// readLocale returns the wording of base with the files of a folder in place of
// its own. If base is nil there must be all of them.
func readLocale(files fs.FS, folder, locale string, base *wording) (*wording, error) {
	names, err := visible(files, folder)
	if err != nil {
		return nil, err
	}
	var words wording
	if base != nil {
		words = *base
	}
	for _, name := range names {
		file := path.Join(folder, name)
		content, err := readText(files, file)
		if err != nil {
			return nil, err
		}
		switch name {
		case subjectFile:
			words.subject, err = parseSubject(content)
		case textFile:
			words.text, err = texttemplate.New(file).Parse(content)
		case htmlFile:
			words.html, err = htmltemplate.New(file).Parse(content)
		default:
			err = fmt.Errorf("unknown file; use %s, %s and %s", subjectFile, textFile, htmlFile)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	if words.subject == "" || words.text == nil || words.html == nil {
		return nil, fmt.Errorf("%s: a new locale needs all of %s, %s and %s", folder, subjectFile, textFile, htmlFile)
	}
	if err := words.try(locale); err != nil {
		return nil, err
	}
	return &words, nil
}

// visible returns the names in a folder, sorted, without those that begin with a
// dot: they belong to version control, or to Kubernetes ("..data").
func visible(files fs.FS, folder string) ([]string, error) {
	info, err := fs.Stat(files, folder)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("%s: there must be a folder here, not a file", folder)
	}
	entries, err := fs.ReadDir(files, folder)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), ".") {
			names = append(names, entry.Name())
		}
	}
	return names, nil
}

// readText returns the text of a regular file.
func readText(files fs.FS, file string) (string, error) {
	info, err := fs.Stat(files, file)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s: there must be a regular file here", file)
	}
	content, err := fs.ReadFile(files, file)
	if err != nil {
		return "", err
	}
	if !utf8.Valid(content) {
		return "", fmt.Errorf("%s: write the file in UTF-8", file)
	}
	return string(content), nil
}

// parseSubject returns the only line of a subject's file.
func parseSubject(content string) (string, error) {
	line := strings.TrimSuffix(strings.TrimSuffix(content, "\n"), "\r")
	switch {
	case strings.TrimSpace(line) == "":
		return "", errors.New("the subject is empty")
	case len(line) > maxSubject:
		return "", fmt.Errorf("the subject is longer than %d bytes", maxSubject)
	case strings.Contains(line, "{{"):
		return "", errors.New("the subject is a fixed text; leave out {{")
	case strings.ContainsFunc(line, unprintable):
		return "", errors.New("the subject must be one line without control or direction characters")
	}
	return line, nil
}

// try renders the mail of an invitation that knows everything, and of one that
// knows only what all do. Both parts must show the link.
func (w *wording) try(locale string) error {
	const token = "inv_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	bare := mailData{
		Tenant: "acme", Email: "nina@example.com", Expires: formatExpiry(time.Date(2026, 3, 8, 12, 0, 0, 0, time.UTC), locale),
		Link: "https://app.example.com/invite#token=" + token, Accept: "https://app.example.com/api/invitations/accept/",
		Token: token, Locale: locale,
	}
	full := bare
	full.Name, full.Inviter = "Nina", "Ada Admin"
	for _, data := range []mailData{full, bare} {
		text, page, err := w.render(data)
		switch {
		case err != nil:
			return err
		case !strings.Contains(text, data.Link):
			return fmt.Errorf("%s: the text lacks the link; add {{.Link}} for every case", w.text.Name())
		case !strings.Contains(html.UnescapeString(page), data.Link):
			return fmt.Errorf("%s: the HTML lacks the link; add {{.Link}} for every case", w.html.Name())
		}
	}
	return nil
}

// The names of the months, January first.
var (
	germanMonths  = [...]string{"Januar", "Februar", "März", "April", "Mai", "Juni", "Juli", "August", "September", "Oktober", "November", "Dezember"}
	frenchMonths  = [...]string{"janvier", "février", "mars", "avril", "mai", "juin", "juillet", "août", "septembre", "octobre", "novembre", "décembre"}
	spanishMonths = [...]string{"enero", "febrero", "marzo", "abril", "mayo", "junio", "julio", "agosto", "septiembre", "octubre", "noviembre", "diciembre"}
)

// formatExpiry writes a time in UTC as people do in the language of the locale,
// and in the form of ISO 8601 for languages that do not come with the service.
func formatExpiry(at time.Time, locale string) string {
	month, clock := at.Month()-1, at.Format("15:04")
	switch tongue, _, _ := strings.Cut(locale, "-"); tongue {
	case "en":
		return at.Format("2 January 2006, 15:04 MST")
	case "de":
		return fmt.Sprintf("%d. %s %d um %s Uhr UTC", at.Day(), germanMonths[month], at.Year(), clock)
	case "fr":
		day := strconv.Itoa(at.Day())
		if day == "1" {
			day = "1er"
		}
		return fmt.Sprintf("%s %s %d à %s UTC", day, frenchMonths[month], at.Year(), clock)
	case "es":
		return fmt.Sprintf("%d de %s de %d, %s UTC", at.Day(), spanishMonths[month], at.Year(), clock)
	}
	return at.Format("2006-01-02 15:04 MST")
}
