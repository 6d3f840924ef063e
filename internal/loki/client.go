package loki

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/s2"
)

// NewClient returns a client for requests to Loki, for [Settings.Client]. The
// authorities vouch for it; nil: the system's.
func NewClient(authorities *x509.CertPool) *http.Client {
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig:        &tls.Config{RootCAs: authorities, MinVersion: tls.VersionTLS12},
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		ForceAttemptHTTP2:      true,
		TLSHandshakeTimeout:    10 * time.Second,
		MaxIdleConns:           16,
		MaxIdleConnsPerHost:    4,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: maxAnswer,
	}}
}

// scratch has buffers for encodePush.
var scratch = sync.Pool{New: func() any { return new([2][]byte) }}

// encodePush returns the body of a push request: protobuf in a snappy block.
func encodePush(streams []stream) []byte {
	buffers := scratch.Get().(*[2][]byte)
	defer scratch.Put(buffers)
	plain := appendPush(buffers[0][:0], streams)
	compressed := s2.EncodeSnappy(buffers[1][:cap(buffers[1])], plain)
	buffers[0], buffers[1] = plain, compressed
	return bytes.Clone(compressed) // a transport may read it after it has answered
}

// answer is Loki's answer to a request. Of a body that is too long or breaks off,
// the beginning is followed by as many zeros as make it longer than maxAnswer.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// post sends a body for a tenant. It does not follow redirects: they would turn
// the request into a GET, or bring lines and credentials to who knows whom.
func post(ctx context.Context, client *http.Client, s Settings, tenant string, body []byte) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	request.Header.Set("Content-Type", "application/x-protobuf")
	request.Header.Set("User-Agent", "tenantgate")
	// A push can be repeated. This lets net/http do so itself if the server has
	// closed the connection meanwhile; the header is not sent.
	request.Header["Idempotency-Key"] = []string{}
	if tenant != "" {
		request.Header.Set("X-Scope-OrgID", tenant)
	}
	switch {
	case s.Bearer != "":
		request.Header.Set("Authorization", "Bearer "+s.Bearer.Reveal())
	case s.Username != "" || s.Password != "":
		request.SetBasicAuth(s.Username, s.Password.Reveal())
	}
	once := *client
	once.Timeout = 0
	once.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	response, err := once.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	if err != nil {
		// The status is known, and all that is needed in most cases.
		text = append(text, make([]byte, maxAnswer+1-len(text))...)
	}
	return answer{response.StatusCode, response.Header, text}, nil
}

// withoutSecrets replaces the credentials in a text: a proxy may repeat what it got.
func withoutSecrets(text string, s Settings) string {
	for _, secret := range []string{s.Password.Reveal(), s.Bearer.Reveal()} {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "[redacted]")
		}
	}
	return text
}
