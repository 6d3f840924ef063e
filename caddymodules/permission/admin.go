package permission

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/tenantgate/tenantgate/caddymodules/gateway"
	"github.com/tenantgate/tenantgate/caddymodules/operator"
	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/identity"
	core "github.com/tenantgate/tenantgate/internal/permission"
	"github.com/tenantgate/tenantgate/internal/permission/policy"
)

func init() {
	caddy.RegisterModule(adminAPI{})
}

const (
	// adminPath is where the admin API tells of the permission table.
	adminPath = "/tenantgate/permissions"
	// adminTimeout bounds one request's work on the database.
	adminTimeout = time.Minute
	// maxFileName bounds how a file may be called in answers.
	maxFileName = 255
)

// adminAPI is the part of Caddy's admin API that tells of the permission table.
// It only reads. Who may use it is Caddy's business: the listen address, origins
// and remote access of the admin endpoint.
type adminAPI struct{}

// CaddyModule returns the Caddy module information.
func (adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.permissions",
		New: func() caddy.Module { return new(adminAPI) },
	}
}

// Routes implements caddy.AdminRouter.
func (a adminAPI) Routes() []caddy.AdminRoute {
	handler := caddy.AdminHandlerFunc(a.serve)
	return []caddy.AdminRoute{{Pattern: adminPath, Handler: handler}, {Pattern: adminPath + "/", Handler: handler}}
}

// adminQuestion is one request.
type adminQuestion struct {
	ctx   context.Context // lives for one request
	query url.Values
	body  io.Reader
	app   *gateway.App
}

// adminRoute is one path below adminPath.
type adminRoute struct {
	path, method string
	parameters   []string
	answer       func(*adminQuestion) (any, error)
}

// adminRoutes are all paths.
var adminRoutes = []adminRoute{
	{"status", http.MethodGet, nil, (*adminQuestion).status},
	{"explain", http.MethodGet, []string{"tenant", "user", "role", "permission"}, (*adminQuestion).explain},
	{"can-user", http.MethodGet, []string{"tenant", "user", "role", "permission"}, (*adminQuestion).canUser},
	{"who-can", http.MethodGet, []string{"tenant", "permission"}, (*adminQuestion).whoCan},
	{"of-user", http.MethodGet, []string{"tenant", "user"}, (*adminQuestion).ofUser},
	{"history", http.MethodGet, []string{"tenant", "since", "limit"}, (*adminQuestion).history},
	{"export", http.MethodGet, []string{"tenant", "members"}, (*adminQuestion).export},
	{"diff", http.MethodPost, []string{"name", "prune"}, (*adminQuestion).diff},
	{"check", http.MethodPost, []string{"name"}, (*adminQuestion).check},
}

// serve answers one request.
func (adminAPI) serve(w http.ResponseWriter, r *http.Request) error {
	name := strings.Trim(strings.TrimPrefix(r.URL.Path, adminPath), "/")
	if name == "" {
		name = "status"
	}
	i := slices.IndexFunc(adminRoutes, func(rt adminRoute) bool { return rt.path == name })
	if i < 0 {
		return operator.Refusal(http.StatusNotFound, "there is no %q: use status, explain, can-user, who-can, of-user, history, export, diff or check", name)
	}
	rt := adminRoutes[i]
	if r.Method != rt.method && !(r.Method == http.MethodHead && rt.method == http.MethodGet) {
		w.Header().Set("Allow", rt.method)
		return operator.Refusal(http.StatusMethodNotAllowed, "%s needs %s; the table is changed by `tenantgate permissions import` only, which knows who does it", name, rt.method)
	}
	q := &adminQuestion{body: http.MaxBytesReader(w, r.Body, policy.MaxSize)}
	var err error
	if q.query, err = url.ParseQuery(r.URL.RawQuery); err != nil {
		return operator.Refusal(http.StatusBadRequest, "the query can't be read: write %%26 for & in a value")
	}
	for parameter, values := range q.query {
		if !slices.Contains(rt.parameters, parameter) || len(values) != 1 {
			return operator.Refusal(http.StatusBadRequest, "parameter %q: %s takes %s, each once", parameter, name, strings.Join(rt.parameters, ", "))
		}
	}
	if q.app, err = gateway.Active(); err != nil {
		return operator.Refusal(http.StatusServiceUnavailable, "%w", err)
	}
	var cancel context.CancelFunc
	q.ctx, cancel = context.WithTimeout(r.Context(), adminTimeout)
	defer cancel()
	answer, err := rt.answer(q)
	if err != nil {
		return adminFailure(err)
	}
	w.Header().Set("Cache-Control", "no-store")
	if text, ok := answer.([]byte); ok {
		w.Header().Set("Content-Type", "application/yaml")
		_, err = w.Write(text)
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(answer)
}

// adminFailure gives an error its status.
func adminFailure(err error) error {
	var (
		long     *http.MaxBytesError
		mistakes policy.Mistakes
		api      caddy.APIError
	)
	switch {
	case errors.As(err, &api):
		return err
	case errors.As(err, &long):
		return operator.Refusal(http.StatusRequestEntityTooLarge, "the file is longer than %d MiB: split it by tenants", policy.MaxSize>>20)
	case errors.As(err, &mistakes):
		return operator.Refusal(http.StatusBadRequest, "%w", mistakes)
	case errors.Is(err, identity.ErrNotFound):
		return operator.Refusal(http.StatusNotFound, "%w", err)
	}
	return operator.Refusal(http.StatusServiceUnavailable, "%w", err)
}

// statusView is how the table of this gateway is doing.
type statusView struct {
	Loaded bool `json:"loaded"`
	// Usable is false before the first load, and when max_stale has passed.
	Usable  bool  `json:"usable"`
	Seq     int64 `json:"seq"`
	AgeMS   int64 `json:"age_ms"`
	Tenants int   `json:"tenants"`
	Members int   `json:"members"`
	Rows    int   `json:"rows"`
	Bytes   int   `json:"bytes"`

	LastLoadMS   float64 `json:"last_load_ms"`
	FullLoads    int64   `json:"full_loads"`
	PartialLoads int64   `json:"partial_loads"`
	Failures     int64   `json:"failures"`
}

func (q *adminQuestion) status() (any, error) {
	table, err := q.app.PermissionTable()
	if err != nil {
		return nil, err
	}
	i := table.Info()
	return statusView{
		Loaded: i.Loaded, Usable: table.Snapshot() != nil, Seq: i.Seq, AgeMS: i.Age.Milliseconds(),
		Tenants: i.Stats.Tenants, Members: i.Stats.Members, Rows: i.Stats.Rows, Bytes: i.Stats.Bytes,
		LastLoadMS: float64(i.LastLoad.Microseconds()) / 1e3, FullLoads: i.FullLoads, PartialLoads: i.PartialLoads, Failures: i.Failures,
	}, nil
}

// errNoTable says that there is nothing to answer from.
var errNoTable = errors.New("the gateway has no permission table to decide from: see status, and its log")

// ask calls f with the table that the gateway decides by at this moment.
func (q *adminQuestion) ask(f func(policy.Desk) (any, error)) (any, error) {
	table, err := q.app.PermissionTable()
	if err != nil {
		return nil, err
	}
	snapshot := table.Snapshot()
	if snapshot == nil {
		return nil, errNoTable
	}
	db, err := q.app.OpenDatabase()
	if err != nil {
		return nil, err
	}
	defer func() { _ = db.Close() }() // only read
	return f(policy.Desk{Snapshot: snapshot, Names: db.Reader()})
}

// question reads who may do what.
func (q *adminQuestion) question() (ask policy.Question, err error) {
	ask = policy.Question{Tenant: q.query.Get("tenant"), User: q.query.Get("user"), Role: q.query.Get("role")}
	if err := checkQuestion(ask); err != nil {
		return ask, operator.Refusal(http.StatusBadRequest, "%w", err)
	}
	if ask.Permission, err = core.ParsePermission(q.query.Get("permission")); err != nil {
		return ask, operator.Refusal(http.StatusBadRequest, "%w", err)
	}
	return ask, nil
}

// checkQuestion returns what a question lacks.
func checkQuestion(q policy.Question) error {
	switch {
	case q.Tenant == "":
		return errors.New("give the tenant, by name or id")
	case q.User == "" && q.Role == "":
		return errors.New("give the user, by e-mail address or id, or a role")
	case q.User != "" && q.Role != "":
		return errors.New("give the user or a role, not both")
	}
	return nil
}

func (q *adminQuestion) explain() (any, error) {
	question, err := q.question()
	if err != nil {
		return nil, err
	}
	return q.ask(func(d policy.Desk) (any, error) { return d.Explain(q.ctx, question) })
}

// canUserView is the short answer.
type canUserView struct {
	Allowed bool        `json:"allowed"`
	Reason  core.Reason `json:"reason"`
	Rule    string      `json:"rule,omitempty"`
	Seq     int64       `json:"seq"`
}

func (q *adminQuestion) canUser() (any, error) {
	question, err := q.question()
	if err != nil {
		return nil, err
	}
	return q.ask(func(d policy.Desk) (any, error) {
		a, err := d.Explain(q.ctx, question)
		return canUserView{a.Allowed, a.Reason, a.Rule, a.Seq}, err
	})
}

func (q *adminQuestion) whoCan() (any, error) {
	tenant := q.query.Get("tenant")
	if tenant == "" {
		return nil, operator.Refusal(http.StatusBadRequest, "give the tenant, by name or id")
	}
	p, err := core.ParsePermission(q.query.Get("permission"))
	if err != nil {
		return nil, operator.Refusal(http.StatusBadRequest, "%w", err)
	}
	return q.ask(func(d policy.Desk) (any, error) { return d.WhoCan(q.ctx, tenant, p) })
}

func (q *adminQuestion) ofUser() (any, error) {
	tenant, user := q.query.Get("tenant"), q.query.Get("user")
	if err := checkQuestion(policy.Question{Tenant: tenant, User: user}); err != nil {
		return nil, operator.Refusal(http.StatusBadRequest, "%w", err)
	}
	return q.ask(func(d policy.Desk) (any, error) { return d.Of(q.ctx, tenant, user) })
}

// read calls f in a read transaction on the gateway's database, which must have
// the right schema.
func (q *adminQuestion) read(f func(identity.Queryer) error) error {
	db, err := q.app.OpenDatabase()
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }() // only read
	if err := db.CheckSchema(q.ctx); err != nil {
		return err
	}
	return policy.Read(q.ctx, db, f)
}

// eventsView is the answer of history.
type eventsView struct {
	Events []policy.Event `json:"events"`
}

func (q *adminQuestion) history() (any, error) {
	since, err := parseSince(q.query.Get("since"), clock.System{})
	if err != nil {
		return nil, operator.Refusal(http.StatusBadRequest, "since: %w", err)
	}
	limit := defaultLimit
	if text := q.query.Get("limit"); text != "" {
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 || limit > policy.MaxHistory {
			return nil, operator.Refusal(http.StatusBadRequest, "limit must be a number from 1 to %d", policy.MaxHistory)
		}
	}
	var view eventsView
	err = q.read(func(tx identity.Queryer) (err error) {
		view.Events, err = historyOf(q.ctx, tx, q.query.Get("tenant"), since, limit)
		return err
	})
	return view, err
}

// historyOf returns the events of one tenant or, with "", of all.
func historyOf(ctx context.Context, q identity.Queryer, tenant string, since time.Time, limit int) ([]policy.Event, error) {
	var id int64
	if tenant != "" {
		found, err := policy.FindTenant(ctx, q, tenant)
		if err != nil {
			return nil, err
		}
		id = found.ID
	}
	return policy.History(ctx, q, id, since, limit)
}

// defaultLimit is how many events are shown unless told otherwise.
const defaultLimit = 50

// parseSince reads a time in the past: a duration such as 24h or 7d, a date or
// a time of RFC 3339. Empty is the beginning.
func parseSince(text string, c clock.Clock) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := caddy.ParseDuration(text); err == nil && d > 0 {
		return c.Now().Add(-d), nil
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no time: give how long ago, such as 24h or 7d, or a time such as 2026-11-26 or 2026-11-26T12:00:00Z", text)
}

// flag reads a parameter that is true or false.
func (q *adminQuestion) flag(name string) (bool, error) {
	switch q.query.Get(name) {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	}
	return false, operator.Refusal(http.StatusBadRequest, "%s must be true or false", name)
}

func (q *adminQuestion) export() (any, error) {
	members, err := q.flag("members")
	if err != nil {
		return nil, err
	}
	var out []byte
	err = q.read(func(tx identity.Queryer) (err error) {
		var tenants []string
		if one := q.query.Get("tenant"); one != "" {
			tenants = []string{one}
		}
		out, err = exportFrom(q.ctx, tx, tenants, members)
		return err
	})
	return out, err
}

// exportFrom returns the file for the tenants, all without any.
func exportFrom(ctx context.Context, q identity.Queryer, tenants []string, members bool) ([]byte, error) {
	scope := policy.Scope{Members: members}
	for _, text := range tenants {
		t, err := policy.FindTenant(ctx, q, text)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(scope.Tenants, t.ID) {
			scope.Tenants = append(scope.Tenants, t.ID)
		}
	}
	p, err := policy.Load(ctx, q, scope)
	if err != nil {
		return nil, err
	}
	return p.Encode()
}

// file reads the body and how it is called.
func (q *adminQuestion) file() (name string, content []byte, err error) {
	name = q.query.Get("name")
	if name == "" {
		name = "body"
	}
	if len(name) > maxFileName || name != operator.Printable(name) {
		return "", nil, operator.Refusal(http.StatusBadRequest, "name must be at most %d printable characters", maxFileName)
	}
	content, err = io.ReadAll(q.body)
	return name, content, err
}

func (q *adminQuestion) diff() (any, error) {
	prune, err := q.flag("prune")
	if err != nil {
		return nil, err
	}
	name, content, err := q.file()
	if err != nil {
		return nil, err
	}
	p, err := policy.Parse(name, content)
	if err != nil {
		return nil, err
	}
	var difference policy.Difference
	err = q.read(func(tx identity.Queryer) error {
		plan, err := policy.File{Policy: p, Name: name, Prune: prune}.Against(q.ctx, tx)
		if err == nil {
			difference = plan.Difference
		}
		return err
	})
	return difference, err
}

func (q *adminQuestion) check() (any, error) {
	name, content, err := q.file()
	if err != nil {
		return nil, err
	}
	checks, err := policy.ParseChecks(name, content)
	if err != nil {
		return nil, err
	}
	var report policy.Report
	err = q.read(func(tx identity.Queryer) (err error) {
		report, err = checks.CheckDatabase(q.ctx, tx)
		return err
	})
	return report, err
}

var (
	_ caddy.Module      = adminAPI{}
	_ caddy.AdminRouter = adminAPI{}
)
