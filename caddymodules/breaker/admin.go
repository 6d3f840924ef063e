package breaker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/tenantgate/tenantgate/caddymodules/operator"
	core "github.com/tenantgate/tenantgate/internal/breaker"
)

func init() {
	caddy.RegisterModule(new(adminAPI))
}

const (
	// adminPath is where the admin API tells of breakers.
	adminPath = "/tenantgate/breakers"
	// maxOrderBody bounds what an operator sends.
	maxOrderBody = 64 << 10
	// maxOrderTTL bounds how long an order can last that is to end by itself.
	maxOrderTTL = 366 * 24 * time.Hour
	// maxActor and maxReason bound what a log line repeats, in characters.
	maxActor  = 100
	maxReason = 500
	// loggedUpstreams is how many upstreams the line of an order names, or an error.
	loggedUpstreams = 20
	// maxCause bounds what is told of an error of redis, in characters.
	maxCause = 200
)

// adminAPI is the part of Caddy's admin API that tells of breakers and takes an
// operator's orders. Who may use it is Caddy's business: the listen address,
// origins and remote access of the admin endpoint.
type adminAPI struct {
	logger *zap.Logger
}

// CaddyModule returns the Caddy module information.
func (*adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.breakers",
		New: func() caddy.Module { return new(adminAPI) },
	}
}

// Provision takes the logger. The breakers are looked up at each request: Caddy
// sets this up before the apps.
func (a *adminAPI) Provision(ctx caddy.Context) error {
	a.logger = ctx.Logger(a)
	return nil
}

// Routes implements caddy.AdminRouter.
func (a *adminAPI) Routes() []caddy.AdminRoute {
	handler := caddy.AdminHandlerFunc(a.serve)
	return []caddy.AdminRoute{{Pattern: adminPath, Handler: handler}, {Pattern: adminPath + "/", Handler: handler}}
}

// listing is what the API answers.
type listing struct {
	// Order and Everywhere are there in the answer to an order: Everywhere says
	// that redis has taken it, Note what else is to be known.
	Order      string `json:"order,omitempty"`
	Everywhere *bool  `json:"everywhere,omitempty"`
	Note       string `json:"note,omitempty"`

	Replica  string        `json:"replica"`
	Mode     string        `json:"mode"`
	Redis    *string       `json:"redis"`
	AgeMS    *int64        `json:"age_ms"`          // since redis last answered
	Cause    string        `json:"cause,omitempty"` // why it does not decide
	Version  uint64        `json:"version"`
	Settings *settingsView `json:"settings,omitempty"`
	Breakers []circuitView `json:"breakers"`
}

// circuitView is one circuit, or a breaker that has none yet.
type circuitView struct {
	Name        string `json:"name"`
	Upstream    string `json:"upstream,omitempty"`
	Tenant      string `json:"tenant,omitempty"`
	State       string `json:"state"`
	RemainingMS *int64 `json:"remaining_ms,omitempty"`  // of the open period
	ForcedForMS *int64 `json:"forced_for_ms,omitempty"` // absent: until it is lifted
	Trips       int    `json:"trips"`
	Failures    int    `json:"failures"`
	Reason      string `json:"reason"`
	OrderReason string `json:"order_reason,omitempty"` // what the operator said
	Version     uint64 `json:"version"`
	Configured  bool   `json:"configured"` // on this gateway, with this upstream
}

// settingsView is the settings of a breaker.
type settingsView struct {
	Failures     int     `json:"failures"`
	WindowMS     int64   `json:"window_ms"`
	OpenMS       int64   `json:"open_ms"`
	OpenMaxMS    int64   `json:"open_max_ms,omitempty"`
	Probes       int     `json:"probes"`
	Need         int     `json:"need"`
	LeaseMS      int64   `json:"lease_ms"`
	Jitter       float64 `json:"jitter"`
	MinRatio     float64 `json:"min_ratio"`
	MinReporters int     `json:"min_reporters"`
	Scope        string  `json:"scope"`
	Mode         string  `json:"mode"`
}

// serve answers one request.
func (a *adminAPI) serve(w http.ResponseWriter, r *http.Request) error {
	rest := strings.Trim(strings.TrimPrefix(r.URL.Path, adminPath), "/")
	name, verb, isOrder := strings.Cut(rest, "/")
	if isOrder {
		return a.serveOrder(w, r, name, verb)
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return refuseMethod(w, r, "GET, HEAD", "read with GET, or POST to "+adminPath+"/<name>/open, close, reset or auto")
	}
	known := current()
	all := known.list()
	if name == "" {
		return answer(w, all)
	}
	all.Breakers = slices.DeleteFunc(all.Breakers, func(c circuitView) bool { return c.Name != name })
	if len(all.Breakers) == 0 {
		return errNoBreaker(name)
	}
	all.Settings = known.settings(name)
	return answer(w, all)
}

// refuseMethod is the error of a request with the wrong method.
func refuseMethod(w http.ResponseWriter, r *http.Request, allowed, advice string) error {
	w.Header().Set("Allow", allowed)
	return operator.Refusal(http.StatusMethodNotAllowed, "method %s is not for this path: %s", r.Method, advice)
}

func errNoBreaker(name string) error {
	return operator.Refusal(http.StatusNotFound, "no breaker %q is configured on this gateway, and none is known from others: %s", name, listedByAPI)
}

// listedByAPI says where breakers are listed, listedByCommand to those who use
// the command.
const (
	listedByAPI     = "GET " + adminPath + " lists them"
	listedByCommand = "`tenantgate breakers list` shows them"
)

// answer writes the API's answer.
func answer(w http.ResponseWriter, l listing) error {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	return json.NewEncoder(w).Encode(l)
}

// list tells of all circuits that are known, and of the configured breakers that
// have none yet. A gateway without breakers has no registry: r is nil then.
func (r *registry) list() listing {
	l := listing{Mode: core.ModeAlone.String(), Breakers: []circuitView{}}
	if r == nil {
		return l
	}
	status := r.store.Status()
	l.Replica, l.Mode, l.Version, l.Redis = status.Replica, status.Mode.String(), status.Version, r.redisAddress()
	if status.Mode != core.ModeAlone {
		age := status.Age.Milliseconds()
		l.AgeMS = &age
	}
	if status.Mode == core.ModeLocal {
		l.Cause = shorten(status.Cause, maxCause)
	}
	named, found := map[string][]string{}, map[string]bool{} // configured breakers, and those that have a circuit
	for _, g := range r.Groups() {
		named[g.Name()] = g.Upstreams()
	}
	for _, record := range r.store.Records() {
		found[record.Key.Name] = true
		l.Breakers = append(l.Breakers, viewOf(record, slices.Contains(named[record.Key.Name], record.Key.Upstream)))
	}
	for name := range named {
		if !found[name] {
			l.Breakers = append(l.Breakers, viewOf(core.Record{Key: core.Key{Name: name}}, true))
		}
	}
	slices.SortFunc(l.Breakers, func(a, b circuitView) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Upstream, b.Upstream), cmp.Compare(a.Tenant, b.Tenant))
	})
	return l
}

// redisAddress returns where the circuits are kept, without credentials, or nil.
func (r *registry) redisAddress() *string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.inUse == nil || r.inUse.redis == nil {
		return nil
	}
	address := r.inUse.redis.String()
	return &address
}

func viewOf(r core.Record, configured bool) circuitView {
	if r.State == core.Closed && r.Forced == core.NotForced && r.Reason == core.ReasonForced {
		r.Reason = "" // an order was lifted: nothing is forced any more
	}
	v := circuitView{
		Name: r.Key.Name, Upstream: r.Key.Upstream, Tenant: r.Key.Tenant, State: stateName(r.State, r.Forced),
		Trips: r.Trips, Failures: r.Failures, Reason: string(r.Reason), OrderReason: r.OrderReason,
		Version: r.Version, Configured: configured,
	}
	switch {
	case r.Forced != core.NotForced && r.ForcedFor > 0:
		left := r.ForcedFor.Milliseconds()
		v.ForcedForMS = &left
	case r.Forced == core.NotForced && r.State == core.Open:
		left := r.Remaining.Milliseconds()
		v.RemainingMS = &left
	}
	return v
}

// settings returns those of a breaker that is configured here, or nil.
func (r *registry) settings(name string) *settingsView {
	g := r.Group(name)
	if g == nil {
		return nil
	}
	s := g.Settings()
	v := &settingsView{
		Failures: s.Failures, WindowMS: s.Window.Milliseconds(), OpenMS: s.Open.Milliseconds(), OpenMaxMS: s.OpenMax.Milliseconds(),
		Probes: s.Probes, Need: s.Need, LeaseMS: s.Lease.Milliseconds(), Jitter: s.Jitter,
		MinRatio: s.MinRatio, MinReporters: s.MinReporters, Scope: scopeUpstream, Mode: modeEnforce,
	}
	if s.PerTenant {
		v.Scope = scopeTenant
	}
	if s.Shadow {
		v.Mode = modeShadow
	}
	return v
}

// order is what an operator sends.
type order struct {
	Actor    string `json:"actor"`
	TTL      string `json:"ttl"`
	Upstream string `json:"upstream"`
	Tenant   string `json:"tenant"`
	Reason   string `json:"reason"`
}

// orderForm is how an order is written, for errors.
const orderForm = `{"actor":"ann","ttl":"10m","upstream":"10.0.0.1:80","tenant":"1","reason":"deploy"}`

// serveOrder has the circuits of a breaker obey.
func (a *adminAPI) serveOrder(w http.ResponseWriter, r *http.Request, name, verb string) error {
	kinds := map[string]core.OrderKind{"open": core.OrderOpen, "close": core.OrderClose, "reset": core.OrderReset, "auto": core.OrderAuto}
	kind, ok := kinds[verb]
	if !ok {
		return operator.Refusal(http.StatusNotFound, "%q is no order: use open, close, reset or auto", verb)
	}
	if r.Method != http.MethodPost {
		return refuseMethod(w, r, http.MethodPost, "an order needs POST")
	}
	o, err := readOrder(w, r)
	if err != nil {
		return err
	}
	ttl, err := o.ttl(kind)
	if err != nil {
		return operator.Refusal(http.StatusBadRequest, "%w", err)
	}
	known := current()
	keys, warning, err := known.target(name, o)
	if err != nil {
		return err
	}
	// A caller that hangs up must not end the calls to redis, which would count
	// as its failures.
	ctx := context.WithoutCancel(r.Context())
	everywhere, obeyed := true, map[core.Key]bool{}
	for _, key := range keys {
		taken, err := known.store.Obey(ctx, key, core.Order{Kind: kind, TTL: ttl, Reason: o.Reason})
		if err != nil { // it is gone, together with its breaker
			continue
		}
		obeyed[key] = true
		everywhere = everywhere && taken
	}
	if len(obeyed) == 0 {
		return errNoBreaker(name)
	}
	l := known.list()
	l.Breakers = slices.DeleteFunc(l.Breakers, func(c circuitView) bool {
		return !obeyed[core.Key{Name: c.Name, Upstream: c.Upstream, Tenant: c.Tenant}]
	})
	l.Order, l.Everywhere, l.Note = verb, &everywhere, noteOn(everywhere, l.Redis)+warning
	if s := known.settings(name); s != nil && s.Mode == modeShadow {
		l.Note += "; the breaker is in shadow mode and refuses nothing"
	}
	a.log(verb, name, o, l.Breakers, everywhere)
	return answer(w, l)
}

// noteOn says where an order holds.
func noteOn(everywhere bool, redis *string) string {
	switch {
	case everywhere:
		return "it holds on all gateways"
	case redis == nil:
		return "there is no redis: it holds on this gateway only"
	}
	return "redis does not answer: it holds on this gateway, and on the others when redis is back"
}

// log keeps who ordered what. The changes of state have lines of their own.
func (a *adminAPI) log(verb, name string, o order, circuits []circuitView, everywhere bool) {
	upstreams := make([]string, 0, loggedUpstreams)
	for _, c := range circuits {
		if len(upstreams) < loggedUpstreams && !slices.Contains(upstreams, c.Upstream) {
			upstreams = append(upstreams, c.Upstream)
		}
	}
	fields := []zap.Field{
		zap.String("order", verb), zap.String("breaker", name), zap.Strings("upstreams", upstreams), zap.Int("circuits", len(circuits)),
		zap.String("actor", cmp.Or(o.Actor, "unknown")), zap.Bool("everywhere", everywhere),
	}
	for _, f := range [][2]string{{"ttl", o.TTL}, {"tenant_id", o.Tenant}, {"reason", o.Reason}} {
		if f[1] != "" {
			fields = append(fields, zap.String(f[0], f[1]))
		}
	}
	a.logger.Warn("breaker ordered", fields...)
}

// readOrder reads the body, which may be missing.
func readOrder(w http.ResponseWriter, r *http.Request) (o order, err error) {
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxOrderBody))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&o); errors.Is(err, io.EOF) {
		return o, nil
	} else if err != nil {
		return o, bodyError(err)
	}
	if err := decoder.Decode(new(json.RawMessage)); !errors.Is(err, io.EOF) {
		return o, bodyError(errors.New("there is more than one value"))
	}
	for _, f := range []struct {
		name, value string
		most        int
	}{{"actor", o.Actor, maxActor}, {"reason", o.Reason, maxReason}} {
		if utf8.RuneCountInString(f.value) > f.most || strings.ContainsFunc(f.value, isControl) {
			return o, operator.Refusal(http.StatusBadRequest, "%s must be one line of at most %d printable characters", f.name, f.most)
		}
	}
	return o, nil
}

func isControl(r rune) bool { return !unicode.IsPrint(r) }

// bodyError says what to send instead.
func bodyError(err error) error {
	var long *http.MaxBytesError
	if errors.As(err, &long) {
		return operator.Refusal(http.StatusRequestEntityTooLarge, "body is longer than %d bytes: send %s", long.Limit, orderForm)
	}
	return operator.Refusal(http.StatusBadRequest, "body is not an order (%s): send nothing, or any of %s", strings.TrimPrefix(err.Error(), "json: "), orderForm)
}

// ttl returns how long the order is to hold, 0 until it is lifted.
func (o order) ttl(kind core.OrderKind) (time.Duration, error) {
	if o.TTL == "" {
		return 0, nil
	}
	if kind != core.OrderOpen && kind != core.OrderClose {
		return 0, errors.New("ttl is for open and close only: leave it out")
	}
	return parseTTL(o.TTL)
}

// parseTTL reads how long an order is to hold.
func parseTTL(text string) (time.Duration, error) {
	ttl, err := caddy.ParseDuration(text)
	if err != nil || ttl <= 0 || ttl > maxOrderTTL {
		return 0, fmt.Errorf("ttl %q must be a duration of at most 366d, such as 90s, 10m or 2d; leave it out for an order that holds until it is lifted", text)
	}
	return ttl, nil
}

// target returns the circuits that an order is for, at least one, and a warning
// to go with the note of the answer.
func (r *registry) target(name string, o order) (keys []core.Key, warning string, err error) {
	if r == nil {
		return nil, "", errNoBreaker(name)
	}
	var known []string // upstreams of its circuits
	address, isAddress := canonical(o.Upstream)
	for _, record := range r.store.Records() {
		key := record.Key
		if key.Name == name {
			known = append(known, key.Upstream)
		}
		if key.Name == name && (o.Upstream == "" || o.Upstream == key.Upstream || isAddress && address == key.Upstream) && (o.Tenant == "" || o.Tenant == key.Tenant) {
			keys = append(keys, key)
		}
	}
	group := r.Group(name)
	switch {
	case len(keys) > 0:
		return keys, "", nil
	case group == nil && known == nil:
		return nil, "", errNoBreaker(name)
	case o.Tenant != "" && group != nil && !group.Settings().PerTenant:
		return nil, "", operator.Refusal(http.StatusBadRequest, "breaker %q has no circuits of tenants: leave tenant out, or give it the scope %s", name, scopeTenant)
	case o.Upstream == "":
		return nil, "", operator.Refusal(http.StatusConflict, "breaker %q has no circuit like that yet, for no request has come: name the upstream, such as 10.0.0.1:80", name)
	case group == nil:
		return nil, "", operator.Refusal(http.StatusNotFound, "breaker %q has no upstream %q that is known here, and is not configured on this gateway: ask one that has it", name, o.Upstream)
	}
	if !isAddress {
		return nil, "", operator.Refusal(http.StatusBadRequest, "upstream %q must be an address with a port, such as 10.0.0.1:80", o.Upstream)
	}
	if known = append(known, group.Upstreams()...); !slices.Contains(known, address) {
		if !group.Learns() {
			return nil, "", operator.Refusal(http.StatusNotFound, "breaker %q has no upstream %q on this gateway: it has %s", name, address, namesOf(known))
		}
		warning = fmt.Sprintf("; warning: no request has gone to %q and no configuration names it: see that there is no typing mistake, and reset it if there is", address)
	}
	b := group.Breaker(address, o.Tenant) // it has seen no request yet
	if b == nil {
		return nil, "", operator.Refusal(http.StatusConflict, "breaker %q has too many upstreams to take another: name one that it has", name)
	}
	return []core.Key{b.Key()}, warning, nil
}

// namesOf returns a list of upstreams for an error, of the first ones if they are many.
func namesOf(upstreams []string) string {
	slices.Sort(upstreams)
	upstreams = slices.Compact(upstreams)
	more := ""
	if n := len(upstreams) - loggedUpstreams; n > 0 {
		upstreams, more = upstreams[:loggedUpstreams], fmt.Sprintf(" and %d more", n)
	}
	return strings.Join(upstreams, ", ") + more
}

// shorten returns the text with no more than that many characters.
func shorten(text string, most int) string {
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return text
}

// canonical returns an address as circuits know it, unless it is none.
func canonical(upstream string) (name string, ok bool) {
	a, err := caddy.ParseNetworkAddress(upstream)
	if err != nil || a.PortRangeSize() != 1 || !a.IsUnixNetwork() && (a.Host == "" || a.StartPort == 0) {
		return "", false
	}
	return upstreamName(a.Network, a.JoinHostPort(0)), true
}

var (
	_ caddy.Provisioner = (*adminAPI)(nil)
	_ caddy.AdminRouter = (*adminAPI)(nil)
)
