package invitation_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/net/html"

	"github.com/tenantgate/tenantgate/backends/idempotency"
	"github.com/tenantgate/tenantgate/backends/invitation"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
)

// givenToken is a token with its link in an answer.
var givenToken = regexp.MustCompile(`,"token":"(inv_[A-Za-z0-9_-]{43})","link":"https://app\.example\.com/invite#token=(inv_[A-Za-z0-9_-]{43})"`)

var absoluteURL = regexp.MustCompile(`[a-z]+://[^\s"'<]+`)

// TestHardening_CVE202543930_CWE640_NoRequestChangesALink sends requests as they
// are on the wire: with a wrong host in every place that says one.
func TestHardening_CVE202543930_CWE640_NoRequestChangesALink(t *testing.T) {
	t.Parallel()
	for name, head := range map[string]string{
		"Host":                              "POST %s HTTP/1.1\r\nHost: evil.test\r\n",
		"Host with a port":                  "POST %s HTTP/1.1\r\nHost: app.example.com:1337.evil.test\r\n",
		"Host of an old client":             "POST %s HTTP/1.0\r\nHost: evil.test\r\n",
		"an absolute URI":                   "POST http://evil.test%s HTTP/1.1\r\nHost: app.example.com\r\n",
		"an absolute URI with a user":       "POST http://app.example.com@evil.test%s HTTP/1.1\r\nHost: app.example.com\r\n",
		"X-Forwarded-Host":                  "POST %s HTTP/1.1\r\nHost: app.example.com\r\nX-Forwarded-Host: evil.test\r\nX-Forwarded-Proto: gopher\r\nX-Forwarded-Port: 1337\r\n",
		"X-Forwarded-Host twice":            "POST %s HTTP/1.1\r\nHost: app.example.com\r\nX-Forwarded-Host: app.example.com\r\nX-Forwarded-Host: evil.test\r\n",
		"Forwarded":                         "POST %s HTTP/1.1\r\nHost: app.example.com\r\nForwarded: for=1.2.3.4;host=evil.test;proto=gopher\r\n",
		"X-Host, X-Original-Host and so on": "POST %s HTTP/1.1\r\nHost: app.example.com\r\nX-Host: evil.test\r\nX-Original-Host: evil.test\r\nX-Forwarded-Server: evil.test\r\nX-Forwarded-Prefix: //evil.test\r\n",
		"X-Original-URL and X-Rewrite-URL":  "POST %s HTTP/1.1\r\nHost: app.example.com\r\nX-Original-URL: http://evil.test/\r\nX-Rewrite-URL: //evil.test/\r\n",
		"Origin and Referer":                "POST %s HTTP/1.1\r\nHost: app.example.com\r\nOrigin: https://evil.test\r\nReferer: https://evil.test/\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, dbtest.SQLite(t))
			server := httptest.NewServer(f.handler)
			defer server.Close()
			send := func(path, body string) string {
				conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(t.Context(), "tcp", server.Listener.Addr().String())
				require.NoError(t, err)
				defer func() { _ = conn.Close() }()
				require.NoError(t, conn.SetDeadline(time.Now().Add(30*time.Second)))
				_, err = fmt.Fprintf(conn, head+"X-User-Id: "+admin+"\r\nX-Tenant-Id: 1\r\nX-Permission: abc/invitations/write\r\n"+
					"Content-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", path, len(body), body)
				require.NoError(t, err)
				response, err := http.ReadResponse(bufio.NewReader(conn), nil)
				require.NoError(t, err)
				content, err := io.ReadAll(response.Body)
				require.NoError(t, err)
				require.NoError(t, response.Body.Close())
				require.Less(t, response.StatusCode, 300, "%s", content)
				return fmt.Sprint(response.Header) + string(content)
			}
			requireOwnLinks := func(answer string) {
				m := f.mails.last(t)
				link := "https://app.example.com/invite#token=" + tokenIn(t, m.Text)
				require.Equal(t, []string{link, "https://app.example.com/api/invitations/accept/"}, absoluteURL.FindAllString(m.Text, -1))
				for _, found := range absoluteURL.FindAllString(m.HTML, -1) {
					require.Equal(t, link, found)
				}
				for _, poison := range []string{"evil", "1337", "gopher"} {
					require.NotContains(t, m.Text+m.HTML+answer, poison)
				}
			}
			requireOwnLinks(send("/api/invitations/", `{"email":"a@x.test"}`))
			f.clock.Advance(time.Minute)
			id := f.text(t, `SELECT id FROM invitations`)
			requireOwnLinks(send("/api/invitations/"+id+"/resend/", ""))
			page := f.do(t, http.MethodGet, "http://evil.test/invite/", "", "X-Forwarded-Host", "evil.test", "Forwarded", "host=evil.test")
			require.NotContains(t, page.Body.String()+fmt.Sprint(page.Header()), "evil")
		})
	}
}

// shape is the elements and attributes of a document without its texts.
func shape(t require.TestingT, document string) (elements []string, text string) {
	root, err := html.Parse(strings.NewReader(document))
	require.NoError(t, err)
	for node := range root.Descendants() {
		switch node.Type {
		case html.ElementNode:
			element := node.Data
			for _, attribute := range node.Attr {
				element += " " + attribute.Key
			}
			elements = append(elements, element)
		case html.TextNode:
			text += node.Data
		default:
			elements = append(elements, fmt.Sprint(node.Type))
		}
	}
	return elements, text
}

// TestHardening_CWE93_CWE79_CVE202142574_NoTextOfAPersonChangesAMail puts each
// text into each place whose text a person chooses. Through the API it may be
// refused; other services may have stored it all the same. The mail is read as
// a mail program reads it.
func TestHardening_CWE93_CWE79_CVE202142574_NoTextOfAPersonChangesAMail(t *testing.T) {
	t.Parallel()
	const plainName = "Plain"
	texts := map[string]string{ // and what must be left of them
		"a\r\nBcc: victim@evil.test":                                   "aBcc: victim@evil.test",
		"a\nX-Evil: 1\n\n<b>body</b>":                                  "aX-Evil: 1<b>body</b>",
		"a\rTo: victim@evil.test":                                      "aTo: victim@evil.test",
		"a\u2028Bcc: victim@evil.test\u2029\u0085":                     "aBcc: victim@evil.test",
		"a\r\n.\r\nMAIL FROM:<evil@evil.test>\r\n":                     "a.MAIL FROM:<evil@evil.test>",
		"\r\n--Plain\r\nContent-Type: text/html\r\n\r\n<h1>own</h1>":   "--PlainContent-Type: text/html<h1>own</h1>",
		"Content-Type: multipart/mixed; boundary=\"x\"":                "Content-Type: multipart/mixed; boundary=\"x\"",
		"\u202egnp.exe\u202c \u2066x\u2069 \u200f":                     "gnp.exe x ",
		"<script>alert(1)</script>":                                    "<script>alert(1)</script>",
		`"'><img src=x onerror=alert(1)>`:                              `"'><img src=x onerror=alert(1)>`,
		"</title></strong></p><!-- <a href='https://evil.test'>x":      "</title></strong></p><!-- <a href='https://evil.test'>x",
		"&lt;script&gt;&#x3c;b&#x3e;":                                  "&lt;script&gt;&#x3c;b&#x3e;",
		"=?utf-8?q?=0D=0ABcc:_victim@evil.test?=":                      "=?utf-8?q?=0D=0ABcc:_victim@evil.test?=",
		"=?utf-8?B?PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==?= =3Cb=3E =0A": "=?utf-8?B?PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==?= =3Cb=3E =0A",
		"%0d%0aBcc:%20victim@evil.test":                                "%0d%0aBcc:%20victim@evil.test",
		"{{.Token}} {{.Link}} ${token} %s %n":                          "{{.Token}} {{.Link}} ${token} %s %n",
		"Zoë \U0001F469\u200d\U0001F680 名前 ' \" \\ = . ;":              "Zoë \U0001F469\u200d\U0001F680 名前 ' \" \\ = . ;",
	}
	var number atomic.Int64
	for evil, left := range texts {
		t.Run(strconv.Itoa(int(number.Add(1))), func(t *testing.T) {
			t.Parallel()
			f, folder := inFolder(t)
			// send returns the mail of an invitation with these names.
			send := func(tenant, inviter, name, note string) (parsed, string, answer) {
				f.exec(t, `UPDATE tenants SET name = $1 WHERE id = 1`, tenant)
				f.exec(t, `UPDATE users SET name = $1 WHERE id = $2`, inviter, admin)
				email := fmt.Sprintf("p%d@x.test", number.Add(1)+1000)
				body, err := json.Marshal(map[string]any{"email": email, "name": name, "metadata": map[string]string{"note": note}})
				require.NoError(t, err)
				f.clock.Advance(time.Second) // mails are in the order of their names
				a := f.as(t, admin, 1, http.MethodPost, "/api/invitations/", string(body))
				if a.Code != http.StatusCreated {
					return parsed{}, "", a
				}
				mails := mailsIn(t, folder)
				m := parseMail(t, mails[len(mails)-1])
				return m, email, a
			}
			good, _, a := send(plainName, plainName, plainName, plainName)
			require.Equal(t, http.StatusCreated, a.Code, a.Body)
			goodShape, _ := shape(t, good.html)
			refused := evil != left

			for place, names := range map[string][4]string{
				"tenant":  {evil, plainName, plainName, plainName},
				"inviter": {plainName, evil, plainName, plainName},
				"name":    {plainName, plainName, evil, plainName},
				"note":    {plainName, plainName, plainName, evil},
			} {
				m, email, a := send(names[0], names[1], names[2], names[3])
				if refused && (place == "name" || place == "note") {
					require.Equal(t, http.StatusUnprocessableEntity, a.Code, "%s: %s", place, a.Body)
					pointer := map[string]string{"name": "/name", "note": "/metadata/note"}[place]
					require.Equal(t, []string{pointer + " unprintable"}, a.fields())
					continue
				}
				require.Equal(t, http.StatusCreated, a.Code, "%s: %s", place, a.Body)

				require.Len(t, m.header, 8, place)
				for name := range m.header {
					require.Len(t, m.header[name], 1, "%s: %s", place, name)
				}
				for _, name := range []string{"From", "Subject", "Auto-Submitted", "Mime-Version"} {
					require.Equal(t, good.header[name], m.header[name], place)
				}
				require.Equal(t, []string{"<" + email + ">"}, m.header["To"], place)
				require.Regexp(t, `^<[0-9a-f-]{36}@gate\.test>$`, m.header.Get("Message-Id"), place)

				elements, text := shape(t, m.html)
				require.Equal(t, goodShape, elements, "%s: no element more, none less", place)
				require.Equal(t, strings.Count(good.text, "\n"), strings.Count(m.text, "\n"), "%s: no line more, none less", place)
				if place == "note" {
					require.NotContains(t, m.text, left, "a note is for the inviter")
					require.NotContains(t, text, left, "a note is for the inviter")
					continue
				}
				require.Contains(t, m.text, left, place)
				require.Contains(t, text, left, place)
			}
		})
	}
}

// TestHardening_CWE532_CWE312_TheTokenIsInNoLogLineAndNoColumn does with a token
// whatever can be done with it, and looks for it and for the password everywhere.
func TestHardening_CWE532_CWE312_TheTokenIsInNoLogLineAndNoColumn(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		core, logs := observer.New(zap.DebugLevel)
		f := newFixture(t, url, withWebhook(t), withLimits(invitation.Limits{PerInviter: 1000, PerTenant: 1000, PerRecipient: 1000, PerAddress: 1000}),
			func(c *invitation.Config) { c.Log = zap.New(core) })
		f.mayReadTokens(t, 1)
		id, first := f.invite(t, "a@x.test")
		f.clock.Advance(time.Minute)
		require.Equal(t, http.StatusOK, f.as(t, admin, 1, http.MethodPost, "/api/invitations/"+id+"/resend/", "").Code)
		token := tokenIn(t, f.mails.last(t).Text)
		_, cancelledToken := f.invite(t, "cancelled@x.test")
		_, existing := f.invite(t, "admin@globex.test")
		tokens := []string{first, token, cancelledToken, existing}

		var answers strings.Builder
		keep := func(a answer) answer {
			answers.WriteString(fmt.Sprint(a.Header()) + a.Body.String() + "\n")
			return a
		}
		// given keeps all of an answer but the places where the inviter is given n tokens.
		given := func(n int, a answer) {
			require.Less(t, a.Code, 300, a.Body)
			found := givenToken.FindAllStringSubmatch(a.Body.String(), -1)
			require.Len(t, found, n)
			for _, one := range found {
				require.Equal(t, one[1], one[2], "the token and that in the link")
				require.Equal(t, http.StatusOK, keep(f.look(t, one[1])).Code)
				tokens = append(tokens, one[1])
			}
			answers.WriteString(fmt.Sprint(a.Header()) + givenToken.ReplaceAllString(a.Body.String(), "") + "\n")
		}
		f.clock.Advance(time.Minute)
		for n := range 2 { // with a key and a second time, which is given none
			given(1-n, f.create(t, `{"email":"given@x.test","deliver":false}`, idempotency.Header, "k"))
			given(2-2*n, f.bulk(t, `{"invitations":[{"email":"d@x.test","deliver":false},{"email":"e@x.test"},{"email":"f@x.test","deliver":false}]}`, idempotency.Header, "k"))
			given(1-n, f.resend(t, f.text(t, `SELECT id FROM invitations WHERE email = 'cancelled@x.test'`), `{"deliver":false}`, idempotency.Header, "k"))
			if n == 0 {
				f.clock.Advance(time.Minute)
				given(1, f.resend(t, f.text(t, `SELECT id FROM invitations WHERE email = 'given@x.test'`), `{"deliver":false}`))
			}
		}
		given(0, f.bulk(t, `{"atomic":true,"invitations":[{"email":"g@x.test","deliver":false},{"email":"nobody"}]}`))
		for _, failure := range []error{errMail, errRefused, nil} {
			f.mails.failWith(failure)
			given(0, f.create(t, fmt.Sprintf(`{"email":"failed%d@x.test"}`, len(f.mails.tried))))
			f.clock.Advance(time.Minute)
			require.NoError(t, f.service.SendDue(t.Context()))
		}
		for _, m := range f.mails.tried {
			tokens = append(tokens, tokenIn(t, m.Text))
		}
		list := keep(f.as(t, admin, 1, http.MethodGet, "/api/invitations/", ""))
		require.Len(t, list.body["items"], 10)
		for _, item := range list.body["items"].([]any) {
			one := item.(map[string]any)["id"].(string)
			keep(f.as(t, admin, 1, http.MethodGet, "/api/invitations/"+one+"/", ""))
			if item.(map[string]any)["email"] == "cancelled@x.test" {
				keep(f.as(t, admin, 1, http.MethodPost, "/api/invitations/"+one+"/cancel/", ""))
			}
		}
		for _, token := range tokens {
			keep(f.do(t, http.MethodGet, "/invite/?token="+token, ""))
			keep(f.do(t, http.MethodPost, "/api/invitations/accept/?token="+token, `{"token":"`+token+`","password":"short"}`))
			keep(f.do(t, http.MethodPost, "/api/invitations/accept/", `{"token":"`+token+`","password":"short"`))
			keep(f.do(t, http.MethodPost, "/api/invitations/accept/", `{"token":["`+token+`"]}`, "Referer", "https://app.example.com/invite#token="+token))
			keep(f.do(t, http.MethodPost, "/api/invitations/look/", `{"token":"`+token+`"}`))
			keep(f.accept(t, token+" ", goodPassword))
			keep(f.accept(t, token, goodPassword))
		}
		require.Equal(t, http.StatusCreated, keep(f.accept(t, existing, "the globex password")).Code)
		require.Equal(t, 9, f.count(t, `status = 'accepted'`))
		f.mails.failWith(errMail)
		keep(f.as(t, admin, 1, http.MethodPost, "/api/invitations/", `{"email":"b@x.test"}`))
		f.clock.Advance(invitation.DefaultLifetime)
		f.service.Settle()
		f.service.Sweep(t.Context())
		require.Subset(t, f.events(t), []string{
			"invitation.created", "invitation.accepted", "invitation.cancelled", "invitation.delivery_failed", "invitation.expired",
		})
		for _, m := range f.mails.tried {
			tokens = append(tokens, tokenIn(t, m.Text))
		}

		stored := everything(t, f, url)
		require.Contains(t, stored, "cancelled@x.test", "what is looked through is the store")
		require.Contains(t, stored, `"type":"invitation.delivery_failed"`, "with the webhook's events")
		var lines strings.Builder
		encoder := zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig())
		for _, entry := range logs.All() {
			line, err := encoder.EncodeEntry(entry.Entry, entry.Context)
			require.NoError(t, err)
			lines.Write(line.Bytes())
		}
		require.Contains(t, lines.String(), "invitation accepted", "what is looked through is the log")
		for _, token := range tokens {
			secret := strings.TrimPrefix(token, "inv_")
			raw, err := base64.RawURLEncoding.DecodeString(secret)
			require.NoError(t, err)
			for _, form := range []string{secret, string(raw)} {
				for place, text := range map[string]string{"store": stored, "log": lines.String(), "answers": answers.String()} {
					require.False(t, strings.Contains(text, form), "the %s: a token is in it", place) //nolint:testifylint // it would print all of it
				}
			}
		}
		for _, password := range []string{goodPassword, "the globex password"} {
			require.NotContains(t, lines.String()+answers.String(), password)
		}
	})
}

// everything returns all that the store holds: each column of each table, and
// on SQLite the bytes of its files too.
func everything(t *testing.T, f *fixture, url string) string {
	t.Helper()
	var all strings.Builder
	tables := `SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'`
	if path, ok := strings.CutPrefix(url, "sqlite://"); ok {
		tables = `SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'`
		files, err := filepath.Glob(path + "*")
		require.NoError(t, err)
		for _, file := range files {
			content, err := os.ReadFile(file)
			require.NoError(t, err)
			all.Write(content)
		}
	}
	for _, table := range f.lines(t, tables) {
		func() {
			rows, err := f.raw.QueryContext(t.Context(), `SELECT * FROM `+table)
			require.NoError(t, err)
			defer func() { require.NoError(t, rows.Close()) }()
			columns, err := rows.Columns()
			require.NoError(t, err)
			values, places := make([]any, len(columns)), make([]any, len(columns))
			for i := range values {
				places[i] = &values[i]
			}
			for rows.Next() {
				require.NoError(t, rows.Scan(places...))
				for _, value := range values {
					if raw, ok := value.([]byte); ok {
						value = string(raw)
					}
					fmt.Fprintf(&all, "%v\n", value)
				}
			}
			require.NoError(t, rows.Err())
		}()
	}
	return all.String()
}

// countingHasher counts what would cost memory and time.
type countingHasher struct {
	plainHasher
	runs atomic.Int64
}

func (h *countingHasher) Hash(ctx context.Context, password string) (string, error) {
	h.runs.Add(1)
	return h.plainHasher.Hash(ctx, password)
}

func (h *countingHasher) Verify(ctx context.Context, phc, password string) (ok, needsRehash bool, err error) {
	h.runs.Add(1)
	return h.plainHasher.Verify(ctx, phc, password)
}

// TestHardening_CWE400_JunkTokensCostNoHashAndNoMemory offers thousands of tokens
// that nobody was given. It runs by itself, because it measures the memory of
// the process.
func TestHardening_CWE400_JunkTokensCostNoHashAndNoMemory(t *testing.T) {
	hasher := &countingHasher{}
	f := newFixture(t, dbtest.SQLite(t), func(c *invitation.Config) { c.Hasher, c.Log = hasher, zap.NewNop() })
	_, live := f.invite(t, "a@x.test")
	random := func() string {
		token, _, err := invitation.NewToken(rand.Reader)
		require.NoError(t, err)
		return token.Reveal()
	}
	malformed := []string{
		"", "inv_", "null", live[:46], live + "A", " " + live, strings.ToUpper(live), strings.TrimPrefix(live, "inv_"), live[:20] + "\n" + live[20:],
		"inv_" + strings.Repeat("é", 43), "inv_" + strings.Repeat("=", 43), "inv_" + strings.Repeat("A", 60_000), strings.Repeat("\x00", 47),
		"' OR status = 'pending' --", "inv_%25", "../../admin", f.text(t, `SELECT id FROM invitations`),
	}
	var mu sync.Mutex
	answers := map[int]int{}
	flood := func(calls int) {
		const clients = 8
		var wg sync.WaitGroup
		for c := range clients {
			wg.Go(func() {
				for i := range calls / clients {
					token := random()
					if i%2 == 1 {
						token = malformed[(i/2*clients+c)%len(malformed)]
					}
					code := f.accept(t, token, goodPassword).Code
					mu.Lock()
					answers[code]++
					mu.Unlock()
				}
			})
		}
		wg.Wait()
	}
	flood(400)
	before := heapInUse()
	flood(8000)
	grown := heapInUse() - before
	t.Logf("8000 junk tokens: answers %v, heap %+d KiB", answers, grown>>10)
	require.Less(t, grown, int64(4<<20))
	require.Zero(t, hasher.runs.Load())
	for code := range answers {
		require.Contains(t, []int{http.StatusNotFound, http.StatusUnprocessableEntity, http.StatusTooManyRequests}, code)
	}
	require.Equal(t, 1, f.count(t, `status = 'pending'`))
	require.True(t, slices.Contains(f.lines(t, `SELECT action FROM audit_events`), "invitation.created"))
}

// TestHardening_CVE202232149_ALongAcceptLanguageCostsNothing asks for the page
// with headers that once took a parser of language tags minutes.
func TestHardening_CVE202232149_ALongAcceptLanguageCostsNothing(t *testing.T) {
	t.Parallel()
	f := newFixture(t, dbtest.SQLite(t))
	for _, header := range []string{
		strings.Repeat("de-", 300_000), strings.Repeat("a-a-a-a,", 100_000), strings.Repeat("x-", 60) + "x", "de" + strings.Repeat("-1996", 400),
		strings.Repeat("en-u-co-phonebk-", 60_000), strings.Repeat(",", 1<<20), strings.Repeat("\x00", 1<<20), "de-" + strings.Repeat("_", 1<<20), strings.Repeat(";q=", 300_000),
		strings.Repeat("ja,", 300_000) + "de",
	} {
		start := time.Now()
		for range 100 {
			a := f.do(t, http.MethodGet, "/invite", "", "Accept-Language", header)
			require.Equal(t, http.StatusOK, a.Code)
			require.Equal(t, "en", a.Header().Get("Content-Language"), "the default")
		}
		require.Less(t, time.Since(start), 10*time.Second, "%.20q", header)
	}
}

// heapInUse returns the bytes of live objects.
func heapInUse() int64 {
	runtime.GC()
	runtime.GC() // what finalizers of the first set free
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}
