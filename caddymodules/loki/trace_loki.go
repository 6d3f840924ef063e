package loki

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tenantgate/tenantgate/caddymodules/operator"
	core "github.com/tenantgate/tenantgate/internal/loki"
	"github.com/tenantgate/tenantgate/internal/secret"
)

const (
	tracePushPath  = "/loki/api/v1/push"
	traceQueryPath = "/loki/api/v1/query_range"
	// tracePage is how many lines are asked for at a time: many servers give no
	// more than 5000, and each can have 256 KB.
	tracePage = 1000
	// maxTraceAnswer bounds one answer.
	maxTraceAnswer = 32 << 20
	// traceTimeout bounds one question. Loki's own bound is a minute.
	traceTimeout = 70 * time.Second
	// traceFuture is how far ahead of its clock Loki takes lines.
	traceFuture = 10 * time.Minute
)

// traceLoki asks a Loki.
type traceLoki struct {
	base, tenant, username string
	password, bearer       secret.String
}

// openTraceLoki returns the Loki at an address, which may be that of its push API.
// source is where the address comes from.
func openTraceLoki(source, address, tenant, bearerFile string) (*traceLoki, error) {
	settings := core.Settings{URL: address}
	if bearerFile != "" {
		content, err := os.ReadFile(bearerFile)
		if err != nil {
			return nil, operator.UsageError{Err: fmt.Errorf("--bearer-file: %w", err)}
		}
		if settings.Bearer = secret.String(strings.TrimSpace(string(content))); settings.Bearer == "" {
			return nil, operator.Usagef("--bearer-file: %s is empty", bearerFile)
		}
	}
	settings, err := settings.Complete()
	if err != nil {
		return nil, operator.UsageError{Err: fmt.Errorf("%s: %w", source, err)}
	}
	for one := range strings.SplitSeq(tenant, "|") { // Loki reads several at once, if it is set so
		settings.Tenant.Static = one
		if _, err := settings.Complete(); err != nil {
			return nil, operator.UsageError{Err: err}
		}
	}
	return &traceLoki{
		base:   strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(settings.URL, "/"), tracePushPath), "/"),
		tenant: tenant, username: settings.Username, password: settings.Password, bearer: settings.Bearer,
	}, nil
}

// String names the Loki, without secrets.
func (l *traceLoki) String() string {
	if l.tenant == "" {
		return "Loki at " + l.base
	}
	return fmt.Sprintf("Loki at %s, tenant %s", l.base, l.tenant)
}

// look adds all lines in which the id stands, page by page.
func (l *traceLoki) look(ctx context.Context, found *traceLines, now time.Time) error {
	start, end := found.from.UnixNano(), now.Add(traceFuture).UnixNano()
	for start < end {
		entries, err := l.page(ctx, found.id, start, end)
		if err != nil {
			return err
		}
		for _, e := range entries {
			found.add([]byte(e.line), time.Unix(0, e.ns))
		}
		if len(entries) < tracePage {
			return nil
		}
		// More lines can have the last one's time. What comes twice is kept once.
		next := entries[len(entries)-1].ns
		if next == start {
			next++
		}
		start = next
	}
	return nil
}

// lokiEntry is a line in Loki.
type lokiEntry struct {
	ns   int64
	line string
}

// page returns the first lines from start on, in order of time.
func (l *traceLoki) page(ctx context.Context, id string, start, end int64) ([]lokiEntry, error) {
	ctx, cancel := context.WithTimeout(ctx, traceTimeout)
	defer cancel()
	query := url.Values{
		// The id is 32 hex digits. The search of the text needs no structured
		// metadata, and finds a client_trace_id too.
		"query":     {`{service=~".+"} |= "` + id + `"`},
		"start":     {strconv.FormatInt(start, 10)},
		"end":       {strconv.FormatInt(end, 10)},
		"limit":     {strconv.Itoa(tracePage)},
		"direction": {"forward"},
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, l.base+traceQueryPath+"?"+query.Encode(), nil) //nolint:gosec // the operator names the address
	if err != nil {
		return nil, err
	}
	l.authorize(request.Header)
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(request) //nolint:gosec // as above
	if err != nil {
		return nil, l.unreachable(ctx, err)
	}
	defer func() { _ = response.Body.Close() }()
	content, err := io.ReadAll(io.LimitReader(response.Body, maxTraceAnswer+1))
	switch {
	case err != nil:
		return nil, l.unreachable(ctx, err)
	case len(content) > maxTraceAnswer:
		return nil, fmt.Errorf("%s answers more than %d MiB at once: look at a shorter time with --since", l, maxTraceAnswer>>20)
	case response.StatusCode != http.StatusOK:
		return nil, l.refusal(response.StatusCode, content)
	}
	entries, err := parseLokiAnswer(content)
	if err != nil {
		return nil, fmt.Errorf("%s answers no log lines (%w): is it Loki's address?", l, err)
	}
	return entries, nil
}

// authorize sets the headers that say who asks.
func (l *traceLoki) authorize(header http.Header) {
	header.Set("User-Agent", "tenantgate")
	if l.tenant != "" {
		header.Set("X-Scope-OrgID", l.tenant)
	}
	switch {
	case l.bearer != "":
		header.Set("Authorization", "Bearer "+l.bearer.Reveal())
	case l.username != "" || l.password != "":
		request := http.Request{Header: header}
		request.SetBasicAuth(l.username, l.password.Reveal())
	}
}

// unreachable is why there is no answer.
func (l *traceLoki) unreachable(ctx context.Context, err error) error {
	var (
		system syscall.Errno
		urlErr *url.Error
	)
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return context.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		err = errors.New("no answer in time")
	case errors.As(err, &system):
		err = system
	case errors.As(err, &urlErr):
		err = urlErr.Err
	}
	return fmt.Errorf("%s can't be reached (%w): give another address with --loki, or read files with --file", l, err)
}

// refusal is what an answer without lines says, and what to do about it.
func (l *traceLoki) refusal(status int, body []byte) error {
	text, _, _ := strings.Cut(strings.TrimSpace(string(body[:min(len(body), 400)])), "\n")
	advice := ""
	switch {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		advice = ": it wants a --tenant, a user:password@ in the address, or a --bearer-file"
	case status == http.StatusNotFound || status >= 300 && status < 400:
		advice = ": is it Loki's address?"
	case status == http.StatusTooManyRequests || status >= 500:
		advice = ": try again, or look at a shorter time with --since"
	}
	return fmt.Errorf("%s answers %d (%s)%s", l, status, text, advice)
}

// parseLokiAnswer returns the lines of an answer to a query, in order of time.
func parseLokiAnswer(content []byte) ([]lokiEntry, error) {
	var answer struct {
		Data struct {
			ResultType string `json:"resultType"`
			Result     []struct {
				Values [][2]string `json:"values"`
			} `json:"result"`
		} `json:"data"`
	}
	if err := json.Unmarshal(content, &answer); err != nil {
		return nil, errors.New("not JSON")
	}
	if answer.Data.ResultType != "streams" {
		return nil, fmt.Errorf("result type %.20q", answer.Data.ResultType)
	}
	var entries []lokiEntry
	for _, stream := range answer.Data.Result {
		for _, value := range stream.Values {
			ns, err := strconv.ParseInt(value[0], 10, 64)
			if err != nil {
				return nil, fmt.Errorf("time %.40q", value[0])
			}
			entries = append(entries, lokiEntry{ns, value[1]})
		}
	}
	slices.SortStableFunc(entries, func(a, b lokiEntry) int { return cmp.Compare(a.ns, b.ns) })
	return entries, nil
}
