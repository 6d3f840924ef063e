package redisclient_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/redisclient"
)

// secretText stands for a password in the URLs of the tests.
const secretText = "hunter2"

func TestURLsThatAreUnderstood(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"redis://localhost":                         "redis://localhost:6379/0",
		"redis://localhost/":                        "redis://localhost:6379/0",
		"REDIS://localhost:6380/15":                 "redis://localhost:6380/15",
		"redis://10.0.0.1/0":                        "redis://10.0.0.1:6379/0",
		"redis://[::1]":                             "redis://[::1]:6379/0",
		"redis://[2001:db8::0:1]:7000/2":            "redis://[2001:db8::1]:7000/2",
		"redis://redis_1.internal-net:1":            "redis://redis_1.internal-net:1/0",
		"redis://:hunter2@localhost":                "redis://localhost:6379/0",
		"redis://user:hunter2@localhost":            "redis://localhost:6379/0",
		"redis://user:hunter2:@localhost:65535/1":   "redis://localhost:65535/1",
		"redis://:@localhost":                       "redis://localhost:6379/0",
		"redis://@localhost":                        "redis://localhost:6379/0",
		"redis://localhost?":                        "redis://localhost:6379/0",
		"rediss://localhost":                        "rediss://localhost:6379/0",
		"rediss://u:hunter2@r:6380/3?ca=/ca.pem":    "rediss://r:6380/3",
		"rediss://r?cert=c.pem&key=k.pem":           "rediss://r:6379/0",
		"rediss://r?server_name=redis.example.com":  "rediss://r:6379/0",
		"unix:///run/redis.sock":                    "unix:///run/redis.sock?db=0",
		"unix:///run/redis.sock?db=2":               "unix:///run/redis.sock?db=2",
		"unix://user:hunter2@/run/a%20b%40.sock":    "unix:///run/a%20b%40.sock?db=0",
		"redis+sentinel://s1/mymaster":              "redis+sentinel://s1:26379/mymaster/0",
		"redis+sentinel://u:hunter2@s1,s2:1/my-m/4": "redis+sentinel://s1:26379,s2:1/my-m/4",
		"redis+sentinel://s/m?sentinel_username=su&sentinel_password=hunter2": "redis+sentinel://s:26379/m/0",
		"redis+sentinel://s/m?sentinel_password=hunter2":                      "redis+sentinel://s:26379/m/0",
		"rediss+sentinel://s/m?sentinel_password=hunter2&ca=ca.pem":           "rediss+sentinel://s:26379/m/0",
		"redis+cluster://a":                           "redis+cluster://a:6379",
		"redis+cluster://:hunter2@a:1,b,[::1]:2/":     "redis+cluster://a:1,b:6379,[::1]:2",
		"rediss+cluster://a,b?ca=ca.pem&server_name=": "error",
		"rediss+cluster://a,b?ca=ca.pem":              "rediss+cluster://a:6379,b:6379",
	} {
		t.Run(url, func(t *testing.T) {
			t.Parallel()
			o, err := redisclient.Parse(url)
			if want == "error" {
				require.Error(t, err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, want, o.String())
		})
	}
}

func TestWhatTheClientIsTold(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]redis.Options{
		"redis://h":                                {Addr: "h:6379"},
		"redis://:p%40%2F%3F%23%25:+&=@h:1/2":      {Addr: "h:1", Password: "p@/?#%:+&=", DB: 2},
		"redis://u%3A:p@h":                         {Addr: "h:6379", Username: "u:", Password: "p"},
		"unix://u:p@/run/a%2Bb.sock?db=1":          {Network: "unix", Addr: "/run/a+b.sock", Username: "u", Password: "p", DB: 1},
		"redis+sentinel://u:p@s/m/3":               {Addr: "FailoverClient", Username: "u", Password: "p", DB: 3},
		"redis+sentinel://s/m?sentinel_password=x": {Addr: "FailoverClient"},
	} {
		t.Run(url, func(t *testing.T) {
			t.Parallel()
			if want.Network == "" {
				want.Network = "tcp"
			}
			got := open(t, url).(*redis.Client).Options()
			require.Equal(t, want, redis.Options{Network: got.Network, Addr: got.Addr, Username: got.Username, Password: got.Password, DB: got.DB})
		})
	}
	got := open(t, "redis+cluster://u:p@a:1,b").(*redis.ClusterClient).Options()
	require.Equal(t, []string{"a:1", "b:6379"}, got.Addrs)
	require.Equal(t, []string{"u", "p"}, []string{got.Username, got.Password})
}

func TestURLsThatAreRefused(t *testing.T) {
	t.Parallel()
	const (
		anAt       = "the URL holds an @ that is not the one before the host: in a user name, a password, a path or an option write @ as %40, / as %2F and ? as %3F"
		noScheme   = "the URL begins with no known scheme: write redis://, rediss://, unix://, redis+sentinel://, rediss+sentinel://, redis+cluster:// or rediss+cluster://"
		control    = "the URL holds a space or a control character such as a line end: remove it, or write a space as %20"
		badHost    = "a host holds something else than letters, digits, - . and _: correct it, and put an IPv6 address into brackets"
		badPort    = "a port is no number from 1 to 65535: write redis://host:6379"
		badDB      = "the database is no number from 0 to 65535: write redis://host:6379/0"
		noMaster   = "the name of the master is missing or holds something else than letters, digits, - . and _: write it after the hosts, as in redis+sentinel://host/mymaster"
		longSocket = "the path of the Unix socket is longer than the 107 bytes that the system allows: move the socket"
	)
	for _, c := range []struct{ url, want string }{
		{"", noScheme},
		{"hunter2", noScheme},
		{"localhost:6379", noScheme},
		{"http://:hunter2@localhost", noScheme},
		{"redis:hunter2@localhost", noScheme},
		{"redis+tls://:hunter2@localhost", noScheme},
		{"redis://:hunter2@localhost\n", control},
		{" redis://:hunter2@localhost", control},
		{"redis://:hun ter2@localhost", control},
		{"redis://:hunter2\x7f@localhost", control},
		{"redis://:hunter2#@localhost", "the URL holds a #: write it as %23"},
		{"redis://:hunter2@localhost/0#x", "the URL holds a #: write it as %23"},

		// Signs in a password that end what they stand in.
		{"redis://u:hunter2/x@localhost", anAt},
		{"redis://u:6379/hunter2@localhost", anAt},
		{"redis://u:6379?hunter2@localhost", anAt},
		{"redis://u:6379?hunter2=@localhost", anAt},
		{"redis://u:@hunter2@localhost", anAt},
		{"redis://u:a@1/hunter2@localhost", anAt},
		{"redis://u:a@1?hunter2=@localhost", anAt},
		{"redis+sentinel://u:a@s/m/hunter2@localhost", anAt},
		{"redis+sentinel://s/m?sentinel_password=hunter2@", anAt},
		{"unix://u:pa/hunter2@/run/redis.sock", anAt},
		{"unix://@/:hunter2@/run/redis.sock", anAt},

		{"redis://u:hunter2%@localhost", "the password holds a % that begins no escape: write % as %25"},
		{"redis://u:hunter2%zz@localhost", "the password holds a % that begins no escape: write % as %25"},
		{"redis://u%hunter2:p@localhost", "the user name holds a % that begins no escape: write % as %25"},
		{"redis://hunter2@localhost", "the URL names a user without a password: write user:password@ or leave the user out"},
		{"redis://user:@localhost", "the URL names a user without a password: write user:password@ or leave the user out"},

		{"redis://", "a host is missing: write redis://host:6379"},
		{"redis:///0", "a host is missing: write redis://host:6379"},
		{"redis://:hunter2@", "a host is missing: write redis://host:6379"},
		{"redis://:hunter2@:6379", "a host is missing: write redis://host:6379"},
		{"redis://:6379", "a host is missing: write redis://host:6379"},
		{"redis://?", "a host is missing: write redis://host:6379"},
		{"redis+cluster://a,,b", "a host is missing: write redis+cluster://host:6379"},
		{"redis+sentinel://,s/m", "a host is missing: write redis+sentinel://host:26379"},
		{"redis://u:hunter2", badPort},
		{"redis://h:", badPort},
		{"redis://h:0", badPort},
		{"redis://h:65536", badPort},
		{"redis://h:+1", badPort},
		{"redis+sentinel://s:hunter2/m", "a port is no number from 1 to 65535: write redis+sentinel://host:26379"},
		{"redis://hünter2", badHost},
		{"redis://hunter2%20", badHost},
		{"redis://::1", badHost},
		{"redis://fe80::1:6379", badHost},
		{"redis://[hunter2]", "the host in brackets is no IPv6 address: write redis://[::1]:6379"},
		{"redis://[::1", "the host in brackets is no IPv6 address: write redis://[::1]:6379"},
		{"redis://[fe80::1%25eth0]", "the host in brackets is no IPv6 address: write redis://[::1]:6379"},
		{"redis://[127.0.0.1]", "the host in brackets is no IPv6 address: write redis://[::1]:6379"},
		{"redis://[::1]6379", "the host in brackets is no IPv6 address: write redis://[::1]:6379"},
		{"redis://a,b", "the URL names several hosts: write redis+sentinel://host1,host2/master or redis+cluster://host1,host2"},
		{"rediss://:hunter2@a,b", "the URL names several hosts: write rediss+sentinel://host1,host2/master or rediss+cluster://host1,host2"},

		{"redis://h/hunter2", badDB},
		{"redis://h/-1", badDB},
		{"redis://h/65536", badDB},
		{"redis://h/0/", badDB},
		{"redis://h//0", badDB},
		{"redis+sentinel://s", noMaster},
		{"redis+sentinel://s/", noMaster},
		{"redis+sentinel://s//0", noMaster},
		{"redis+sentinel://:hunter2@s/a%20b", noMaster},
		{"redis+sentinel://s/m/", "the database is no number from 0 to 65535: write redis+sentinel://host/mymaster/0"},
		{"redis+sentinel://s/m/x", "the database is no number from 0 to 65535: write redis+sentinel://host/mymaster/0"},
		{"redis+cluster://:hunter2@a/0", "the URL of a cluster has a path: remove it, a cluster has one database only"},

		{"unix://run/redis.sock", "the URL of a Unix socket names a host: write three slashes, as in unix:///run/redis.sock"},
		{"unix://u:hunter2@h/redis.sock", "the URL of a Unix socket names a host: write three slashes, as in unix:///run/redis.sock"},
		{"unix://", "the path of the Unix socket is missing: write unix:///run/redis.sock"},
		{"unix://:hunter2@", "the path of the Unix socket is missing: write unix:///run/redis.sock"},
		{"unix:///run/", "the path of the Unix socket is missing: write unix:///run/redis.sock"},
		{"unix:///hunter2%", "the path holds a % that begins no escape: write % as %25"},
		{"unix:///" + strings.Repeat("x", 107), longSocket},
		{"unix:///r.sock?db=x", "the database is no number from 0 to 65535: write unix:///run/redis.sock?db=0"},
		{"unix:///r.sock?db=", "option db is empty: write a value or leave it out"},
		{"unix:///r.sock?db=1&db=1", "option db is given twice: write it once"},
		{"unix:///r.sock?db=1&", "an option after the ? is unknown: unix:// takes db"},
		{"unix:///r.sock?ca=x", `option "ca" is unknown: unix:// takes db`},

		{"redis://h?db=1", `option "db" is unknown: redis:// takes no option`},
		{"redis://h?hunter2", "an option after the ? is unknown: redis:// takes no option"},
		{"redis://h?hunter2=", "an option after the ? is unknown: redis:// takes no option"},
		{"redis://h?ca=ca.pem", `option "ca" is unknown: redis:// takes no option`},
		{"rediss://h?insecure=true", `option "insecure" is unknown: rediss:// takes ca, cert, key and server_name`},
		{"redis+sentinel://s/m?password=hunter2", `option "password" is unknown: redis+sentinel:// takes sentinel_username and sentinel_password`},
		{"redis+sentinel://s/m?sentinel_password:hunter2", "an option after the ? is unknown: redis+sentinel:// takes sentinel_username and sentinel_password"},
		{"rediss+sentinel://s/m?skip_verify=true", `option "skip_verify" is unknown: rediss+sentinel:// takes sentinel_username, sentinel_password, ca, cert, key and server_name`},
		{"rediss+cluster://s?skip_verify=true", `option "skip_verify" is unknown: rediss+cluster:// takes ca, cert, key and server_name`},
		{"redis+sentinel://s/m?sentinel_password=hunter2%", "the option sentinel_password holds a % that begins no escape: write % as %25"},
		{"redis+sentinel://s/m?sentinel_password=hunter2&sentinel_password=x", "option sentinel_password is given twice: write it once"},
		{"redis+sentinel://s/m?sentinel_password=", "option sentinel_password is empty: write a value or leave it out"},
		{"redis+sentinel://s/m?sentinel_username=hunter2", "option sentinel_username is given without sentinel_password: give both, or the password alone"},
		{"rediss://h?cert=hunter2", "only one of the options cert and key is given: give both, the client's certificate and its key"},
		{"rediss://h?key=hunter2", "only one of the options cert and key is given: give both, the client's certificate and its key"},
		{"rediss://h?server_name=hunter2:1", "option server_name is no name of a host: write the name that stands in the server's certificate"},
	} {
		t.Run(c.url, func(t *testing.T) {
			t.Parallel()
			o, err := redisclient.Parse(c.url)
			require.EqualError(t, err, c.want)
			require.Nil(t, o)
			require.NotContains(t, err.Error(), secretText)
		})
	}
}

func TestNoOutputShowsCredentials(t *testing.T) {
	t.Parallel()
	o, err := redisclient.Parse("rediss+sentinel://alice:hunter2@s/m?sentinel_username=bob&sentinel_password=hunter2&ca=a")
	require.NoError(t, err)
	encoded, err := json.Marshal([]any{o, *o, o.Key()})
	require.NoError(t, err)
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("redis", "pointer", o, "value", *o)
	slog.New(slog.NewTextHandler(&log, nil)).Info("redis", "pointer", o, "nested", struct{ O *redisclient.Options }{o})
	require.Contains(t, log.String(), `"pointer":"rediss+sentinel://s:26379/m/0"`)

	out := string(encoded) + log.String()
	for _, value := range []any{o, *o, struct{ O *redisclient.Options }{o}, []redisclient.Options{*o}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%T"} {
			out += fmt.Sprintf(verb, value)
		}
	}
	for _, hidden := range []string{secretText, "68756e74657232", "alice", "bob"} {
		require.NotContains(t, out, hidden)
	}
	require.Equal(t, "REDACTED REDACTED", fmt.Sprintf("%v %s", o.Key(), o.Key()))
	var none *redisclient.Options
	require.Equal(t, "<nil>", fmt.Sprint(none))
}

func TestTheKeyTellsOptionsApart(t *testing.T) {
	t.Parallel()
	key := func(url string) redisclient.Key {
		o, err := redisclient.Parse(url)
		require.NoError(t, err)
		return o.Key()
	}
	require.Equal(t, key("redis://h"), key("REDIS://h:6379/0"))
	seen := map[redisclient.Key]string{}
	for _, url := range []string{
		"redis://h", "rediss://h", "redis://h/1", "redis://h:1", "redis://:p@h", "redis://:q@h", "redis://u:p@h", "redis://p:u@h", "unix:///h", "unix:///h?db=1",
		"redis+cluster://h", "redis+cluster://h,i", "redis+sentinel://h/m", "redis+sentinel://h/n", "redis+sentinel://:p@h/m",
		"redis+sentinel://h/m?sentinel_password=p", "redis+sentinel://h/m?sentinel_password=p&sentinel_username=u",
		"rediss://h?ca=x", "rediss://h?cert=x&key=x", "rediss://h?cert=x&key=y", "rediss://h?server_name=x",
	} {
		k := key(url)
		require.Empty(t, seen[k], url)
		seen[k] = url
	}
}
