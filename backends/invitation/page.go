package invitation

import (
	"crypto/sha256"
	"encoding/base64"
	"html/template"
	"net/http"
	"strconv"
	"strings"
)

// page is the whole of GET /invite: one static document with its style and its
// script inside. It knows nothing of the invitation; the token is in the
// fragment, which only the browser sees, so a scanner or a prefetch of the link
// changes nothing. The script asks [Service.look] and fills in what it says.
type page struct {
	body   []byte
	policy string
}

// newPage puts the parts together. The policy allows exactly this style and
// this script, by their hashes, and calls to this origin; the script may not
// make elements from text.
func newPage() (*page, error) {
	style, err := templateFiles.ReadFile("templates/en/invite.css")
	if err != nil {
		return nil, err
	}
	script, err := templateFiles.ReadFile("templates/en/invite.js")
	if err != nil {
		return nil, err
	}
	document, err := template.ParseFS(templateFiles, "templates/en/invite.html")
	if err != nil {
		return nil, err
	}
	var body strings.Builder
	err = document.Execute(&body, map[string]any{
		"Style":  template.HTML("<style>" + string(style) + "</style>"),    //nolint:gosec // our own file
		"Script": template.HTML("<script>" + string(script) + "</script>"), //nolint:gosec // our own file
	})
	if err != nil {
		return nil, err
	}
	return &page{body: []byte(body.String()), policy: "default-src 'none'; style-src " + sourceHash(style) + "; script-src " + sourceHash(script) +
		"; connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'" +
		"; require-trusted-types-for 'script'; trusted-types 'none'"}, nil
}

// sourceHash returns the CSP source expression of an inline element.
func sourceHash(content []byte) string {
	hash := sha256.Sum256(content)
	return "'sha256-" + base64.StdEncoding.EncodeToString(hash[:]) + "'"
}

func (p *page) serve(w http.ResponseWriter, _ *http.Request) error {
	header := w.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Content-Length", strconv.Itoa(len(p.body)))
	header.Set("Content-Security-Policy", p.policy)
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("Cache-Control", "no-cache")
	_, _ = w.Write(p.body) // the client is gone if this fails
	return nil
}
