// Package tenant is the service that administers an installation: tenants,
// their members and roles, the catalogue of products and features, and the
// grants that make up the permission table. README.md lists its routes.
package tenant

import (
	"errors"
	"net/http"

	"go.uber.org/zap"

	"github.com/tenantgate/tenantgate/backends/server"
	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/permission"
	"github.com/tenantgate/tenantgate/internal/secret"
)

// The gateway's own product and those of its features that this package names.
// Their rights guard the routes, so the catalogue never loses them.
const (
	builtInProduct  = permission.OwnProduct
	featureMembers  = "members"
	featurePlatform = permission.PlatformFeature
)

// Config is what a [Service] needs. DB, Log and Clock are required.
type Config struct {
	DB    *database.DB
	Log   *zap.Logger
	Clock clock.Clock
	// GatewaySecret, if set, must come with every request.
	GatewaySecret secret.String
}

// Service is the tenant service. It is safe for concurrent use.
type Service struct{ config Config }

// New returns a service that is ready to serve.
func New(config Config) (*Service, error) {
	if config.DB == nil || config.Log == nil || config.Clock == nil {
		return nil, errors.New("tenant service: DB, Log and Clock are required")
	}
	return &Service{config: config}, nil
}

// handler answers a request of a caller whose permission was checked.
type handler func(w http.ResponseWriter, r *http.Request, c server.Caller) error

// route is one line of the service's routing table.
type route struct {
	method, path string
	// feature is the product/feature that the gateway must have checked for
	// the action that the method stands for.
	feature string
	handle  handler
}

// routes is the whole API but for the log endpoint, which needs no right.
func (s *Service) routes() []route {
	const (
		own       = builtInProduct + "/tenant"
		members   = builtInProduct + "/" + featureMembers
		roles     = builtInProduct + "/roles"
		grants    = builtInProduct + "/permissions"
		platform  = builtInProduct + "/" + featurePlatform
		dashboard = "abc/dashboard"
	)
	return []route{
		{"GET", "/api/tenant/", own, s.ownTenant},
		{"PATCH", "/api/tenant/", own, s.updateOwnTenant},

		{"GET", "/api/tenants/", platform, s.listTenants},
		{"POST", "/api/tenants/", platform, s.createTenant},
		{"GET", "/api/tenants/{id}/", platform, s.getTenant},
		{"PATCH", "/api/tenants/{id}/", platform, s.updateTenant},
		{"DELETE", "/api/tenants/{id}/", platform, s.deleteTenant},
		{"POST", "/api/tenants/{id}/permissions/", platform, s.grantToTenant},

		{"GET", "/api/members/", members, s.listMembers},
		{"POST", "/api/members/", members, s.addMember},
		{"GET", "/api/members/{user_id}/", members, s.getMember},
		{"PATCH", "/api/members/{user_id}/", members, s.updateMember},
		{"DELETE", "/api/members/{user_id}/", members, s.removeMember},

		{"GET", "/api/roles/", roles, s.listRoles},
		{"POST", "/api/roles/", roles, s.createRole},
		{"GET", "/api/roles/{id}/", roles, s.getRole},
		{"PATCH", "/api/roles/{id}/", roles, s.renameRole},
		{"DELETE", "/api/roles/{id}/", roles, s.deleteRole},

		{"GET", "/api/roles/{id}/permissions/", grants, s.listGrants},
		{"PUT", "/api/roles/{id}/permissions/", grants, s.replaceGrants},
		{"POST", "/api/roles/{id}/permissions/", grants, s.addGrant},
		{"DELETE", "/api/roles/{id}/permissions/{product}/{feature}/{action}/", grants, s.removeGrant},

		{"GET", "/api/roles/{id}/parents/", grants, s.listParents},
		{"PUT", "/api/roles/{id}/parents/", grants, s.replaceParents},

		{"GET", "/api/products/", grants, s.listProducts},
		{"POST", "/api/products/", platform, s.createProduct},
		{"GET", "/api/products/{id}/", grants, s.getProduct},
		{"PATCH", "/api/products/{id}/", platform, s.renameProduct},
		{"DELETE", "/api/products/{id}/", platform, s.deleteProduct},

		{"GET", "/api/products/{id}/features/", grants, s.listFeatures},
		{"POST", "/api/products/{id}/features/", platform, s.createFeature},
		{"GET", "/api/products/{id}/features/{feature_id}/", grants, s.getFeature},
		{"PATCH", "/api/products/{id}/features/{feature_id}/", platform, s.updateFeature},
		{"DELETE", "/api/products/{id}/features/{feature_id}/", platform, s.deleteFeature},

		{"GET", "/api/permissions/dashboard/", dashboard, s.dashboard},
		{"POST", "/api/permissions/dashboard/", dashboard, s.noteOnDashboard},
	}
}

// permission returns the product/feature/action of a route: the same that
// check_permission derives from the method.
func (rt route) permission() string {
	action, ok := permission.ActionOf(rt.method)
	if !ok {
		panic("tenant: route " + rt.path + " has the method " + rt.method + ", which stands for no action")
	}
	return rt.feature + "/" + action
}

// Route is what a gateway's configuration must provide for.
type Route struct {
	Method string
	// Path has wildcards as http.ServeMux writes them: "/api/roles/{id}/".
	Path string
	// Permission is the product/feature/action to check.
	Permission string
}

// Routes returns every route that needs a permission, so that a test can hold
// a gateway's configuration against it.
func (s *Service) Routes() []Route {
	var all []Route
	for _, rt := range s.routes() {
		all = append(all, Route{Method: rt.method, Path: rt.path, Permission: rt.permission()})
	}
	return all
}

// Handler returns the service's routes.
func (s *Service) Handler() http.Handler {
	router := server.NewRouter(server.Config{Log: s.config.Log, GatewaySecret: s.config.GatewaySecret, Clock: s.config.Clock})
	for _, rt := range s.routes() {
		needed := rt.permission()
		router.Handle(rt.method+" "+rt.path+"{$}", func(w http.ResponseWriter, r *http.Request) error {
			caller, err := server.Require(r, needed)
			if err != nil {
				return err
			}
			return rt.handle(w, r, caller)
		})
	}
	router.Handle("GET /api/tenant/log/{$}", s.logEvent)
	router.Handle("POST /api/tenant/log/{$}", s.logEvent)
	return router
}
