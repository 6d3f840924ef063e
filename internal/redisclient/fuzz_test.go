package redisclient_test

import (
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/redisclient"
)

// FuzzParse: no URL panics; what is accepted is printed as a URL that means the
// same; and neither the printed form nor an error repeats the password or the
// user name, whatever signs surround and split them.
func FuzzParse(f *testing.F) {
	for _, seed := range [][3]string{
		{"redis://", "", "localhost:6379/0"},
		{"rediss://u", "p", "h?ca=a.pem&server_name=x"},
		{"unix://", "", "/run/redis.sock?db=1"},
		{"redis+sentinel://u", "p", "s1,s2:1/m/0?sentinel_username=u&sentinel_password=p"},
		{"redis+cluster://", ":", "a:1,[::1]:2"},
		{"redis://u", "%2F/?#@", "h"},
		{"redis://u:1?x=", "", "h"},
		{"unix://@/", "", "/x"},
		{"redis+sentinel://a,b/", "", "/m"},
		{"", "", ""},
	} {
		f.Add(seed[0], seed[1], seed[2])
	}
	f.Fuzz(func(t *testing.T, before, password, after string) {
		if strings.Contains(before+after, secretText) {
			t.Skip()
		}
		// As it stands in a URL that gives a password, right or wrong.
		checkURL(t, before+":"+secretText+password+"@"+after)
		checkURL(t, before+":"+password+secretText+"@"+after)
		checkURL(t, before+after)
	})
}

func checkURL(t *testing.T, url string) {
	t.Helper()
	o, err := redisclient.Parse(url)
	if err != nil {
		require.Nil(t, o)
		require.NotContains(t, err.Error(), secretText)
		return
	}
	require.NotContains(t, o.String(), secretText)
	again, err := redisclient.Parse(o.String())
	require.NoError(t, err)
	require.Equal(t, o.String(), again.String())
	if !strings.Contains(url, secretText) || strings.Contains(url, "?") { // may name files
		return
	}
	client, err := o.Open()
	require.NoError(t, err)
	defer func() { require.NoError(t, client.Close()) }()
	switch c := client.(type) {
	case *redis.Client:
		requireSecretIsThePassword(t, c.Options().Username, c.Options().Password)
	case *redis.ClusterClient:
		requireSecretIsThePassword(t, c.Options().Username, c.Options().Password)
	}
}

// A secret that was accepted went where secrets are kept.
func requireSecretIsThePassword(t *testing.T, username, password string) {
	t.Helper()
	require.Contains(t, username+password, secretText)
}
