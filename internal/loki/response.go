package loki

import (
	"math"
	"mime"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// action is what an answer of Loki asks for.
type action int

const (
	// accept: all lines are taken, or as many as verdict.count leaves.
	accept action = iota
	// refuse: none is taken, or nobody knows which. Repeating it helps nothing.
	refuse
	// split: the request is too large.
	split
	// retry: it may succeed later.
	retry
	// park: somebody has to change the configuration, here or there.
	park
	// throttle: the tenant's or the stream's rate is exceeded.
	throttle
	// exceed: there are too many streams.
	exceed
)

// verdict is what an answer of Loki means.
type verdict struct {
	action action
	status int // 0 if there was no answer
	// text is the answer in short, for people.
	text string
	// unsent says that there is no answer because nothing was sent.
	unsent bool
	// wait is how long the answer asks to wait; 0 if it does not say.
	wait time.Duration
	// lastStream says that Loki tells of one stream only, the last one that was
	// refused or the last of all (its instance.Push forgets the others), or that
	// the counts can be attributed to one stream only.
	lastStream bool
	// overLimit says that the request, or its one entry, is alone more than the
	// rate that Loki grants for a second.
	overLimit bool
	// refused are entries that were refused for good, by reason, and whole the
	// reason for which all entries were.
	refused map[string]int64
	whole   string
	// reached is how many entries came as far as an ingester; -1 if unknown.
	reached int64
}

// count returns how many of the lines of a stream that was sent alone are refused,
// by reason. It reports false if that can't be.
func (v verdict) count(lines int) (map[string]int64, bool) {
	if v.whole != "" {
		return map[string]int64{v.whole: int64(lines)}, true
	}
	counts := map[string]int64{}
	sum := int64(0)
	for reason, n := range v.refused {
		counts[reason] = n
		sum += n
	}
	// A distributor that has refused entries too says nothing if an ingester does.
	if unnamed := int64(lines) - v.reached; v.reached >= 0 && unnamed > 0 {
		counts["other"] = unnamed
		sum += unnamed
	}
	return counts, sum <= int64(lines) && v.reached <= int64(lines)
}

const (
	// maxAnswer bounds what is read of an answer's body.
	maxAnswer = 64 << 10
	// maxRetryAfter bounds what an answer can ask to wait.
	maxRetryAfter = 5 * time.Minute
	// maxText bounds what is told of an answer.
	maxText = 300
)

// parseResponse returns what an answer to a push request with lines means. A body
// of more than maxAnswer bytes was cut.
func parseResponse(status int, header http.Header, body []byte, now time.Time) verdict {
	text := string(body)
	v := verdict{action: park, status: status, text: strconv.Itoa(status) + " " + summary(text), wait: retryAfter(header, now), reached: -1}
	switch {
	case status == http.StatusOK, status == http.StatusCreated, status == http.StatusAccepted, status == http.StatusNoContent:
		v.action = accept
		if isPage(header) { // of a login, or of whatever else is there
			v.action = park
		}
	case status == http.StatusBadRequest:
		v.action = refuse
		if len(body) <= maxAnswer {
			v.parseRefusal(text)
		}
	case status == http.StatusRequestEntityTooLarge:
		v.action = split
	case status == http.StatusTooManyRequests:
		v.parseLimit(text)
	case status == http.StatusRequestTimeout, status == http.StatusTooEarly, status >= 500:
		v.action = retry
	}
	return v
}

func isPage(header http.Header) bool {
	kind, _, _ := mime.ParseMediaType(header.Get("Content-Type"))
	return kind == "text/html"
}

// retryAfter reads a Retry-After of seconds or of a date (RFC 9110, 10.2.3).
func retryAfter(header http.Header, now time.Time) time.Duration {
	text := header.Get("Retry-After")
	wait := time.Duration(0)
	if seconds, err := strconv.ParseUint(text, 10, 64); err == nil {
		wait = time.Duration(min(seconds, uint64(maxRetryAfter/time.Second))) * time.Second
	} else if at, err := http.ParseTime(text); err == nil {
		wait = at.Sub(now)
	}
	return min(max(wait, 0), maxRetryAfter)
}

// summary returns the beginning of a text on one line.
func summary(text string) string {
	text = text[:min(len(text), 4*maxText)]
	text = strings.Join(strings.FieldsFunc(strings.ToValidUTF8(text, ""), func(r rune) bool {
		return unicode.IsSpace(r) || !unicode.IsPrint(r)
	}), " ")
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "") + "…"
	}
	return text
}

// The texts of Loki's pkg/validation/validate.go with their reasons. The last four
// are about all entries of a stream.
var refusals = []struct {
	text, reason string
	whole        bool
}{
	{"has timestamp too old", "greater_than_max_sample_age", false},
	{"has timestamp too new", "too_far_in_future", false},
	{"max entry size", "line_too_long", false},
	{"has structured metadata too large", "structured_metadata_too_large", false},
	{"has too many structured metadata labels", "structured_metadata_too_many", false},
	{"includes structured metadata, but this feature is disallowed", "disallowed_structured_metadata", false},
	{"label names; limit", "max_label_names_per_series", true},
	{"has label name too long", "label_name_too_long", true},
	{"has label value too long", "label_value_too_long", true},
	{"missing required labels", "missing_enforced_labels", true},
}

var (
	repeated  = regexp.MustCompile(`^(\d{1,9}) errors like: `)
	ignored   = regexp.MustCompile(`total ignored: (\d{1,9}) out of (\d{1,9}) for stream: (.*)`)
	rate      = regexp.MustCompile(`\(limit: ([\d.]{1,20}) ?([a-zA-Z]+)/sec\)`)
	totaling  = regexp.MustCompile(`totaling '?([\d.]{1,20})'? ?([a-zA-Z]+)`)
	sizeUnits = map[string]float64{"B": 1, "bytes": 1, "KB": 1 << 10, "kB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}
)

// parseRefusal looks for a text of Loki that says which entries it has not taken:
// it has taken the others then. Without one the verdict remains refuse.
func (v *verdict) parseRefusal(text string) {
	if total := ignored.FindStringSubmatch(text); total != nil {
		reason := ""
		switch {
		case strings.Contains(text, "entry too far behind"):
			reason = "too_far_behind"
		case strings.Contains(text, "entry out of order"):
			reason = "out_of_order"
		default:
			return
		}
		n, _ := strconv.ParseInt(total[1], 10, 64) // digits, as below
		v.action, v.lastStream, v.refused = accept, true, map[string]int64{reason: n}
		// Of a stream that Loki has divided, only one part's entries are told.
		if !strings.Contains(total[3], "__stream_shard__") && !strings.Contains(total[3], "__time_shard__") {
			v.reached, _ = strconv.ParseInt(total[2], 10, 64)
		}
		return
	}
	counts, whole := map[string]int64{}, ""
	text = strings.ReplaceAll(withoutLabels(strings.TrimSpace(text)), "label names; limit", "label names\x00 limit")
	for _, each := range strings.Split(text, "; ") {
		n := int64(1)
		if times := repeated.FindStringSubmatch(each); times != nil {
			n, _ = strconv.ParseInt(times[1], 10, 64)
		}
		i := indexOfRefusal(strings.ReplaceAll(each, "\x00", ";"))
		if i < 0 {
			return
		}
		counts[refusals[i].reason] += n
		if refusals[i].whole {
			whole = refusals[i].reason
		}
	}
	v.action, v.lastStream, v.refused, v.whole = accept, true, counts, whole
}

func indexOfRefusal(text string) int {
	for i, r := range refusals {
		if strings.Contains(text, r.text) {
			return i
		}
	}
	return -1
}

// withoutLabels cuts label sets like {a="b", c="d"} out of a text: a value can hold
// anything.
func withoutLabels(text string) string {
	var kept strings.Builder
	for {
		start := strings.IndexByte(text, '{')
		length := -1
		if start >= 0 {
			length = labelsLength(text[start:])
		}
		if length < 0 {
			kept.WriteString(text)
			return kept.String()
		}
		kept.WriteString(text[:start])
		text = text[start+length:]
	}
}

// labelsLength returns the length of the label set at the beginning of a text, or
// -1 if it does not end.
func labelsLength(text string) int {
	quoted := false
	for i := 0; i < len(text); i++ {
		switch {
		case quoted && text[i] == '\\':
			i++
		case text[i] == '"':
			quoted = !quoted
		case !quoted && text[i] == '}':
			return i + 1
		}
	}
	return -1
}

// parseLimit reads the text of a 429.
func (v *verdict) parseLimit(text string) {
	v.action = retry
	switch {
	case strings.Contains(text, "maximum active stream limit exceeded"):
		v.action, v.lastStream = exceed, true
		return
	case strings.Contains(text, "Per stream rate limit exceeded"):
		v.action, v.lastStream = throttle, true
	case strings.Contains(text, "ingestion rate limit exceeded"):
		v.action = throttle
	}
	v.overLimit = sizeIn(totaling, text) > sizeIn(rate, text)
}

// sizeIn returns the bytes that a text names, or NaN.
func sizeIn(form *regexp.Regexp, text string) float64 {
	if found := form.FindStringSubmatch(text); found != nil {
		n, err := strconv.ParseFloat(found[1], 64)
		if unit := sizeUnits[found[2]]; err == nil && unit > 0 {
			return n * unit
		}
	}
	return math.NaN()
}
