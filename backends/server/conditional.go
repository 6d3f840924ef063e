package server

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/tenantgate/tenantgate/internal/problem"
)

// Conditional requests, RFC 9110 section 13: whoever has read something sends
// its ETag along, to be told only of changes, or to change only what they have seen.

// Tag returns the strong entity tag of the JSON that [WriteJSON] sends for v.
func Tag(v any) (string, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("encode entity: %w", err)
	}
	sum := sha256.Sum256(body)
	return `"` + base64.RawURLEncoding.EncodeToString(sum[:16]) + `"`, nil
}

// WriteTagged is [WriteJSON] with the header ETag, for a v that is what a GET of
// the thing shows. It answers 304 to a GET or HEAD whose If-None-Match names the
// tag. A client may keep what a GET got, but must ask again before it uses it.
func WriteTagged(w http.ResponseWriter, r *http.Request, status int, v any) error {
	tag, err := Tag(v)
	if err != nil {
		return err
	}
	w.Header().Set("Etag", tag)
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		w.Header().Set("Cache-Control", "private, no-cache")
		// A list that can't be read names no tag: then the answer is whole, which is never wrong.
		if known, err := parseTags(r.Header["If-None-Match"]); err == nil && known.have(tag, true) {
			w.WriteHeader(http.StatusNotModified)
			return nil
		}
	}
	return WriteJSON(w, status, v)
}

// CheckPreconditions returns nil if a request may change what v is the JSON of,
// as its If-Match and If-None-Match say: without them always. Otherwise it is a
// 412 problem, or a 400 problem for a header that can't be read. It is called in
// the transaction that makes the change.
func CheckPreconditions(r *http.Request, v any) error {
	for _, name := range [...]string{"If-Match", "If-None-Match"} {
		lines, given := r.Header[name]
		if !given {
			continue
		}
		wanted, err := parseTags(lines)
		if err != nil {
			return problem.New(http.StatusBadRequest, "bad-header", fmt.Sprintf("%s is not valid: %s.", name, err))
		}
		tag, err := Tag(v)
		if err != nil {
			return err
		}
		if strong := name == "If-Match"; wanted.have(tag, !strong) != strong {
			return problem.New(http.StatusPreconditionFailed, "precondition-failed",
				"It is not what "+name+" says, somebody may have changed it: read it again and decide anew.")
		}
	}
	return nil
}

// tags is the value of If-Match or If-None-Match.
type tags struct {
	any bool // "*"
	// strong are entity tags with their quotes, weak those that had W/ in front.
	strong, weak []string
}

// have reports whether tag, a strong one, is among them by the strong or the
// weak comparison of RFC 9110 section 8.8.3.2.
func (t tags) have(tag string, weak bool) bool {
	return t.any || slices.Contains(t.strong, tag) || weak && slices.Contains(t.weak, tag)
}

// parseTags reads the lines of If-Match or If-None-Match: "*" or a list of
// entity tags, in which elements may be empty (RFC 9110 section 5.6.1.2).
func parseTags(lines []string) (tags, error) {
	rest := strings.Join(lines, ",")
	if strings.Trim(rest, " \t") == "*" {
		return tags{any: true}, nil
	}
	var t tags
	for {
		rest = strings.TrimLeft(rest, " \t,")
		if rest == "" {
			break
		}
		opaque, weak := strings.CutPrefix(rest, "W/")
		end := 1 + strings.IndexByte(strings.TrimPrefix(opaque, `"`), '"')
		if !strings.HasPrefix(opaque, `"`) || end < 1 || strings.ContainsFunc(opaque[1:end], notInTag) {
			return tags{}, errTags
		}
		if weak {
			t.weak = append(t.weak, opaque[:end+1])
		} else {
			t.strong = append(t.strong, opaque[:end+1])
		}
		rest = strings.TrimLeft(opaque[end+1:], " \t")
		if rest != "" && rest[0] != ',' {
			return tags{}, errTags
		}
	}
	if len(t.strong)+len(t.weak) == 0 {
		return tags{}, errTags
	}
	return t, nil
}

var errTags = errors.New(`give "*" or entity tags in quotes, as ETag had them, with commas between`)

// notInTag reports whether a character can't stand in an entity tag.
func notInTag(c rune) bool { return c <= ' ' || c == 0x7f }
