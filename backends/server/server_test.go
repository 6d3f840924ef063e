package server_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/tenantgate/tenantgate/backends/server"
	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/logging"
	"github.com/tenantgate/tenantgate/internal/problem"
	"github.com/tenantgate/tenantgate/internal/secret"
)

const traceID = "4bf92f3577b34da6a3ce929d0e0e4736"

// newRouter returns a router with the given secret and the log it writes.
func newRouter(gatewaySecret secret.String) (*server.Router, *bytes.Buffer) {
	var log bytes.Buffer
	return server.NewRouter(server.Config{
		Log:           logging.New("test-service", zapcore.AddSync(&log), zapcore.InfoLevel),
		GatewaySecret: gatewaySecret,
		Clock:         clock.NewFake(time.UnixMilli(0)),
	}), &log
}

func request(method, target, body string, header ...string) *http.Request {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Header.Set("traceparent", "00-"+traceID+"-00f067aa0ba902b7-01")
	r.Header.Set("X-User-Id", "u1")
	r.Header.Set("X-Tenant-Id", "7")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return r
}

func serve(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// lines decodes the log.
func lines(t *testing.T, log *bytes.Buffer) []map[string]any {
	t.Helper()
	var all []map[string]any
	for _, line := range strings.Split(strings.TrimSpace(log.String()), "\n") {
		var fields map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &fields), line)
		all = append(all, fields)
	}
	return all
}

func TestOneAccessLineCarriesTraceAndCaller(t *testing.T) {
	t.Parallel()
	router, log := newRouter("")
	router.Handle("GET /x/{$}", func(w http.ResponseWriter, r *http.Request) error {
		server.Logger(r.Context()).Info("inside")
		return server.WriteJSON(w, http.StatusOK, map[string]string{"trace": server.Trace(r.Context()).TraceID})
	})
	w := serve(router, request(http.MethodGet, "/x/?token=SECRET", ""))
	require.Equal(t, http.StatusOK, w.Code)
	require.JSONEq(t, `{"trace":"`+traceID+`"}`, w.Body.String())
	require.Equal(t, traceID, w.Header().Get("X-Trace-Id"))
	require.Equal(t, http.StatusOK, serve(router, request(http.MethodGet, "/x", "")).Code, "the slash is optional")

	require.NotContains(t, log.String(), "SECRET")
	all := lines(t, log)
	require.Equal(t, "inside", all[0]["msg"])
	for _, line := range all[:2] {
		require.Equal(t, traceID, line["trace_id"])
		require.Equal(t, "u1", line["user_id"])
		require.Equal(t, "7", line["tenant_id"])
		require.Equal(t, "test-service", line["service"])
	}
	require.Equal(t, "handled request", all[1]["msg"])
	require.InDelta(t, 200, all[1]["status"], 0)
	require.Equal(t, "/x/", all[1]["path"])
	require.Contains(t, all[1], "duration_ms")
	require.InDelta(t, w.Body.Len(), all[1]["bytes"], 0)
}

func TestReturnedErrorsBecomeProblems(t *testing.T) {
	t.Parallel()
	router, log := newRouter("")
	router.Handle("GET /known", func(http.ResponseWriter, *http.Request) error {
		return problem.New(http.StatusConflict, "taken", "It is taken.")
	})
	router.Handle("GET /unknown", func(http.ResponseWriter, *http.Request) error {
		return errors.New("disk I/O error: /var/lib/secret.db")
	})
	router.Handle("GET /panic", func(http.ResponseWriter, *http.Request) error { panic("boom") })
	for _, tt := range []struct {
		method, path, code string
		status             int
	}{
		{http.MethodGet, "/known", "taken", http.StatusConflict},
		{http.MethodGet, "/unknown", "internal", http.StatusInternalServerError},
		{http.MethodGet, "/panic", "internal", http.StatusInternalServerError},
		{http.MethodGet, "/nowhere", "not-found", http.StatusNotFound},
		{http.MethodPost, "/known", "method-not-allowed", http.StatusMethodNotAllowed},
	} {
		w := serve(router, request(tt.method, tt.path, ""))
		require.Equal(t, tt.status, w.Code, tt.path)
		require.Equal(t, "application/problem+json", w.Header().Get("Content-Type"), tt.path)
		var body map[string]any
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &body))
		require.Equal(t, tt.code, body["code"], tt.path)
		require.Equal(t, traceID, body["trace_id"], tt.path)
		require.NotContains(t, w.Body.String(), "secret.db")
		require.NotContains(t, w.Body.String(), "boom")
		if tt.status == http.StatusMethodNotAllowed {
			require.Equal(t, "GET, HEAD", w.Header().Get("Allow"))
		}
	}
	require.Contains(t, log.String(), "secret.db", "the cause is in the log")
	require.Contains(t, log.String(), `"panic":"boom"`)
}

func TestOnlyTheGatewayMayCallWhenASecretIsSet(t *testing.T) {
	t.Parallel()
	router, _ := newRouter("s3cret-s3cret")
	ok := func(w http.ResponseWriter, _ *http.Request) error { return server.WriteJSON(w, http.StatusOK, "ok") }
	router.Handle("GET /data", ok)
	router.Public("GET /keys", ok)
	require.Equal(t, http.StatusForbidden, serve(router, request(http.MethodGet, "/data", "")).Code)
	require.Equal(t, http.StatusForbidden, serve(router, request(http.MethodGet, "/data", "", "X-Gateway-Secret", "s3cret-s3creT")).Code)
	require.Equal(t, http.StatusOK, serve(router, request(http.MethodGet, "/data", "", "X-Gateway-Secret", "s3cret-s3cret")).Code)
	require.Equal(t, http.StatusOK, serve(router, request(http.MethodGet, "/keys", "")).Code)
}

func TestCallerAndRequire(t *testing.T) {
	t.Parallel()
	r := request(http.MethodGet, "/", "", "X-Roles", "Admin,Editor", "X-Permission", "abc/dashboard/read", "X-Forwarded-For", "203.0.113.9, 10.0.0.1")
	caller, err := server.Require(r, "abc/dashboard/read")
	require.NoError(t, err)
	require.Equal(t, server.Caller{
		UserID: "u1", TenantID: 7, Roles: []string{"Admin", "Editor"}, Permission: "abc/dashboard/read", IP: "203.0.113.9",
	}, caller)

	_, err = server.Require(r, "abc/dashboard/write")
	require.Equal(t, http.StatusForbidden, problem.From(err).Status)
	for _, header := range []string{"X-User-Id", "X-Tenant-Id"} {
		for _, value := range []string{"", "-1", "x"} {
			if header == "X-User-Id" && value != "" {
				continue
			}
			_, err = server.CallerOf(request(http.MethodGet, "/", "", header, value))
			require.Equal(t, http.StatusUnauthorized, problem.From(err).Status, "%s=%q", header, value)
		}
	}
}

func TestDecodeNamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	type body struct {
		Email string `json:"email"`
		Age   int    `json:"age"`
	}
	for input, want := range map[string]int{
		`{"email":"a@b.co","age":3}`: 0,
		``:                           http.StatusBadRequest,
		`{`:                          http.StatusBadRequest,
		`nonsense`:                   http.StatusBadRequest,
		`{"email":7}`:                http.StatusBadRequest,
		`{"emial":"x"}`:              http.StatusBadRequest,
		`{} {}`:                      http.StatusBadRequest,
		`{}]`:                        http.StatusBadRequest,
		`{"email":"` + strings.Repeat("a", 70_000) + `"}`: http.StatusRequestEntityTooLarge,
	} {
		var v body
		err := server.Decode(request(http.MethodPost, "/", input, "Content-Type", "application/json; charset=utf-8"), &v)
		if want == 0 {
			require.NoError(t, err)
			continue
		}
		require.Equal(t, want, problem.From(err).Status, input)
		require.NotEmpty(t, problem.From(err).Detail)
	}
	err := server.Decode(request(http.MethodPost, "/", `{}`, "Content-Type", "text/plain"), &body{})
	require.Equal(t, http.StatusUnsupportedMediaType, problem.From(err).Status)
}

// TestFieldNamesOfABodyAreNotLogged: who puts a token where a name belongs finds
// it in the answer, and nobody finds it in the log.
func TestFieldNamesOfABodyAreNotLogged(t *testing.T) {
	t.Parallel()
	for body, detail := range map[string]string{
		`{"tok\"SECRET":"x"}`:       `"tok\"SECRET" is not known.`,
		`{"nested":{"SECRET":"x"}}`: `"SECRET" is not known.`,
		`{"age":"SECRET"}`:          `"age" must be a int.`,
		`{"SECRET":SECRET}`:         "",
		`["SECRET"]`:                "",
	} {
		router, log := newRouter("")
		router.Handle("POST /x", func(_ http.ResponseWriter, r *http.Request) error {
			return server.Decode(r, &struct {
				Age    int      `json:"age"`
				Nested struct{} `json:"nested"`
			}{})
		})
		w := serve(router, request(http.MethodPost, "/x", body, "Content-Type", "application/json"))
		require.Equal(t, http.StatusBadRequest, w.Code, body)
		require.Contains(t, log.String(), "bad-json", body)
		require.NotContains(t, log.String(), "SECRET", body)
		var answer struct{ Errors []problem.Field }
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &answer))
		if detail == "" {
			require.Empty(t, answer.Errors)
			continue
		}
		require.Len(t, answer.Errors, 1, body)
		require.Equal(t, detail, answer.Errors[0].Detail)
	}
}

func TestDecodeUpToTakesWhatItIsTold(t *testing.T) {
	t.Parallel()
	var v map[string]string
	decode := func(size int, limit int64) error {
		body := `{"a":"` + strings.Repeat("x", size-len(`{"a":""}`)) + `"}`
		return server.DecodeUpTo(request(http.MethodPost, "/", body, "Content-Type", "application/json"), &v, limit)
	}
	require.NoError(t, decode(200_000, 200_000))
	err := decode(200_001, 200_000)
	require.Equal(t, "body-too-large", problem.From(err).Code)
	require.Equal(t, "The body may have at most 200000 bytes.", problem.From(err).Detail)
}

func FuzzDecode(f *testing.F) {
	for _, seed := range []string{`{"email":"a"}`, `{`, `[]`, `null`, "{\"a\":1}\x00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, input string) {
		var v struct {
			Email string `json:"email"`
		}
		err := server.Decode(request(http.MethodPost, "/", input, "Content-Type", "application/json"), &v)
		if err != nil {
			require.Less(t, problem.From(err).Status, 500)
			return
		}
		require.True(t, json.Valid([]byte(input)))
	})
}

func TestPage(t *testing.T) {
	t.Parallel()
	limit, after, err := server.Page(request(http.MethodGet, "/?limit=100&after=abc", ""))
	require.NoError(t, err)
	require.Equal(t, 100, limit)
	require.Equal(t, "abc", after)
	for _, bad := range []string{"0", "101", "-1", "x", "1e2"} {
		_, _, err = server.Page(request(http.MethodGet, "/?limit="+bad, ""))
		require.Equal(t, http.StatusBadRequest, problem.From(err).Status, bad)
	}
}

func TestClientPassesTraceCallerAndSecretOn(t *testing.T) {
	t.Parallel()
	var got *http.Request
	var gotBody string
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r
		body, _ := io.ReadAll(r.Body)
		gotBody = string(body)
		if r.URL.Path == "/fails" {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		_, _ = io.WriteString(w, `{"answer":42}`)
	}))
	t.Cleanup(other.Close)
	client := server.NewClient(other.URL+"/", "s3cret", time.Second)

	router := server.NewRouter(server.Config{Log: zap.NewNop(), Clock: clock.System{}})
	var failure error
	router.Handle("POST /", func(w http.ResponseWriter, r *http.Request) error {
		var result struct{ Answer int }
		if err := client.Do(r.Context(), r, http.MethodPost, "/x?y=1", map[string]int{"n": 1}, &result); err != nil {
			return err
		}
		failure = client.Do(r.Context(), r, http.MethodGet, "/fails", nil, nil)
		return server.WriteJSON(w, http.StatusCreated, result)
	})
	w := serve(router, request(http.MethodPost, "/", "", "Authorization", "Bearer SECRET"))
	require.Equal(t, http.StatusCreated, w.Code)
	require.JSONEq(t, `{"Answer":42}`, w.Body.String())
	var failed *server.CallError
	require.ErrorAs(t, failure, &failed)
	require.Equal(t, http.StatusTeapot, failed.Status)
	require.Equal(t, "u1", got.Header.Get("X-User-Id"))
	require.Equal(t, "7", got.Header.Get("X-Tenant-Id"))
	require.Equal(t, "s3cret", got.Header.Get("X-Gateway-Secret"))
	require.Empty(t, got.Header.Get("Authorization"))
	require.Equal(t, traceID, got.Header.Get("X-Trace-Id"))
	require.Regexp(t, "^00-"+traceID+"-[0-9a-f]{16}-01$", got.Header.Get("Traceparent"))
	require.Empty(t, gotBody, "the second call had no body")
}

// TestClientErrorsHoldNoQuery is about logs: errors end in them, queries must not.
func TestClientErrorsHoldNoQuery(t *testing.T) {
	t.Parallel()
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/fails" {
			w.WriteHeader(http.StatusTeapot)
		}
	}))
	t.Cleanup(other.Close)
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	for name, test := range map[string]struct {
		base, target string
		body         any
		message      string
	}{
		"a status":                {other.URL, "/fails?user_id=HIDDEN", nil, "call /fails: status 418"},
		"a body that is no JSON":  {other.URL, "/?user_id=HIDDEN", nil, "call /: EOF"},
		"nobody listens":          {gone.URL, "/?user_id=HIDDEN", nil, "call /: dial tcp"},
		"a URL that is none":      {other.URL, "/?user_id=HIDDEN\x7f", nil, "call /: net/url: invalid control character in URL"},
		"a body that can't be it": {other.URL, "/?user_id=HIDDEN", func() {}, "call /: json: unsupported type"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var err error
			router := server.NewRouter(server.Config{Log: zap.NewNop(), Clock: clock.System{}})
			router.Handle("GET /", func(_ http.ResponseWriter, r *http.Request) error {
				var result any
				err = server.NewClient(test.base, "", time.Second).Do(r.Context(), r, http.MethodGet, test.target, test.body, &result)
				return nil
			})
			serve(router, request(http.MethodGet, "/", ""))
			require.ErrorContains(t, err, test.message)
			require.NotContains(t, err.Error(), "HIDDEN")
		})
	}
}

func TestPatternsAreWhatWasRegistered(t *testing.T) {
	t.Parallel()
	router := server.NewRouter(server.Config{Log: zap.NewNop(), Clock: clock.System{}})
	nothing := func(http.ResponseWriter, *http.Request) error { return nil }
	router.Handle("POST /a/{$}", nothing)
	router.Public("GET /b", nothing)
	require.Equal(t, []string{"POST /a/{$}", "GET /b"}, router.Patterns())
}
