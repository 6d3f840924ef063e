package webhook_test

import (
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/backends/webhook"
	"github.com/tenantgate/tenantgate/internal/secret"
)

// The example of the reference library, libraries/go/webhook_test.go in
// https://github.com/standard-webhooks/standard-webhooks.
const (
	exampleSecret    = secret.String("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	exampleID        = "msg_p5jXN8AQM9LWM0D4loKWxJek"
	exampleBody      = `{"test": 2432232314}`
	exampleSeconds   = 1614265330
	exampleSignature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
)

var exampleTime = time.Unix(exampleSeconds, 0)

func exampleHeader() http.Header {
	h := http.Header{}
	h.Set("webhook-id", exampleID)
	h.Set("webhook-timestamp", strconv.Itoa(exampleSeconds))
	h.Set("webhook-signature", exampleSignature)
	return h
}

func TestVerifyTakesTheExampleOfTheReference(t *testing.T) {
	t.Parallel()
	for name, header := range map[string]string{
		"alone":                     exampleSignature,
		"after others":              "v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc= v1a,AAAA v2,x " + exampleSignature,
		"before others":             exampleSignature + " v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc=",
		"with what is no signature": "x  , " + exampleSignature + " ",
	} {
		h := exampleHeader()
		h.Set("webhook-signature", header)
		for _, known := range [][]secret.String{{exampleSecret}, {secrets[0], exampleSecret}, {exampleSecret, secrets[0]}} {
			require.NoError(t, webhook.Verify(known, h, []byte(exampleBody), exampleTime, webhook.DefaultTolerance), name)
		}
		require.Error(t, webhook.Verify(secrets, h, []byte(exampleBody), exampleTime, webhook.DefaultTolerance), name)
	}
}

func TestVerifyRefusesTheWrongTime(t *testing.T) {
	t.Parallel()
	for age, good := range map[time.Duration]bool{
		-5*time.Minute - time.Nanosecond: false, -5 * time.Minute: true, 0: true,
		5 * time.Minute: true, 5*time.Minute + time.Nanosecond: false, 1 << 62: false, -1 << 62: false,
	} {
		err := webhook.Verify([]secret.String{exampleSecret}, exampleHeader(), []byte(exampleBody), exampleTime.Add(age), webhook.DefaultTolerance)
		if good {
			require.NoError(t, err, age)
			continue
		}
		require.EqualError(t, err, "webhook: webhook-timestamp is more than 5m0s away from now", age)
	}
}

func TestVerifyNeedsGoodSecrets(t *testing.T) {
	t.Parallel()
	for _, known := range [][]secret.String{nil, {}, {"x"}, {exampleSecret, ""}, {exampleSecret + "\n"}} {
		require.Error(t, webhook.Verify(known, exampleHeader(), []byte(exampleBody), exampleTime, webhook.DefaultTolerance))
	}
}

func TestSecretsAreReadInTheirOrder(t *testing.T) {
	t.Parallel()
	one, two := secrets[0].Reveal(), secrets[1].Reveal()
	for _, text := range []string{one + " " + two, one + "," + two, " " + one + " ,\n\t" + two + ",\r\n"} {
		got, err := webhook.ParseSecrets(text)
		require.NoError(t, err)
		require.Equal(t, secrets, got)
	}
}

func TestParseSecretsNamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	good := secrets[0].Reveal()
	long := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("Zx9", 22)))
	for text, want := range map[string]string{
		"":                            "there is none: make one by",
		" , \n":                       "there is none",
		"Zx9":                         "webhook secret 1 does not begin with whsec_",
		good + " Zx9":                 "webhook secret 2 does not begin with whsec_",
		good + ",WHSEC_" + good[6:]:   "webhook secret 2 does not begin with whsec_",
		"whsec_":                      "webhook secret 1 has 0 bytes in base64: want 24 to 64",
		"whsec_Zx9topsecretZx9":       "is no base64",
		good[:len(good)-1]:            "webhook secret 1: what follows whsec_ is no base64",
		"whsec_" + long[:28] + "Zx-_": "is no base64",
		"whsec_" + long[:28]:          "webhook secret 1 has 21 bytes",
		"whsec_" + long:               "webhook secret 1 has 66 bytes in base64: want 24 to 64",
		"whsec_" + long[:30] + "9=":   "is no base64", // bits that mean nothing
	} {
		got, err := webhook.ParseSecrets(text)
		require.ErrorContains(t, err, want, text)
		require.Nil(t, got)
		require.NotContains(t, err.Error(), "Zx9")
		require.NotContains(t, err.Error(), good[6:])
	}
}

func FuzzSecrets(f *testing.F) {
	f.Add(secrets[0].Reveal())
	f.Add(secrets[0].Reveal() + ", " + exampleSecret.Reveal())
	f.Add("whsec_ whsec_=")
	f.Add(secrets[0].Reveal() + "\u2028" + secrets[1].Reveal())
	f.Fuzz(func(t *testing.T, text string) {
		got, err := webhook.ParseSecrets(text)
		if err != nil {
			require.Nil(t, got)
			require.Less(t, len(err.Error()), 150, "nothing of the text is in it")
			return
		}
		require.NotEmpty(t, got)
		for _, s := range got {
			require.Regexp(t, `^whsec_[A-Za-z0-9+/]{32,86}={0,2}$`, s.Reveal())
			require.Contains(t, text, s.Reveal())
		}
		err = webhook.Verify(got, exampleHeader(), []byte(exampleBody), exampleTime, webhook.DefaultTolerance)
		require.Equal(t, strings.Contains(text, exampleSecret.Reveal()), err == nil)
	})
}

func FuzzSignatureHeader(f *testing.F) {
	f.Add(exampleSignature, exampleID, strconv.Itoa(exampleSeconds), []byte(exampleBody))
	f.Add("v1 v1, , "+exampleSignature, exampleID, "0"+strconv.Itoa(exampleSeconds), []byte(exampleBody))
	f.Add("", "", "", []byte(nil))
	f.Add("v1,", "a.b", "-1", []byte("."))
	f.Fuzz(func(t *testing.T, signature, id, timestamp string, body []byte) {
		h := http.Header{"Webhook-Id": {id}, "Webhook-Timestamp": {timestamp}, "Webhook-Signature": {signature}}
		if webhook.Verify([]secret.String{exampleSecret}, h, body, exampleTime, webhook.DefaultTolerance) == nil {
			// Nobody knows another signed request.
			require.Equal(t, exampleID+strconv.Itoa(exampleSeconds)+exampleBody, id+timestamp+string(body))
			require.Contains(t, strings.Split(signature, " "), exampleSignature)
		}
	})
}

func FuzzRetryAfter(f *testing.F) {
	for _, text := range []string{"", "0", "120", "-1", "+5", " 5", "1e3", strings.Repeat("9", 30), start.Add(time.Hour).Format(http.TimeFormat), "Sunday, 01-Mar-26 13:00:00 GMT", "Sun Mar  1 13:00:00 2026"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		wait := webhook.RetryAfter(text, start)
		require.GreaterOrEqual(t, wait, time.Duration(0))
		require.LessOrEqual(t, wait, webhook.MaxRetryAfter)
		if seconds, err := strconv.Atoi(text); err == nil && seconds >= 0 && seconds <= 86400 && text[0] != '+' && text[0] != '-' {
			require.Equal(t, time.Duration(seconds)*time.Second, wait)
		}
	})
}
