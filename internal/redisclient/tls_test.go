package redisclient_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/redisclient/redistest"
)

// authority issues certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return &authority{cert, key}
}

// file writes the authority's certificate.
func (a *authority) file(t *testing.T, dir string) string {
	t.Helper()
	return writePEM(t, filepath.Join(dir, "ca.pem"), "CERTIFICATE", a.cert.Raw)
}

// issue writes a certificate for 127.0.0.1 and redis.test, and its key.
func (a *authority) issue(t *testing.T, dir, name string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"redis.test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &private.PublicKey, a.key)
	require.NoError(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	return writePEM(t, filepath.Join(dir, name+".pem"), "CERTIFICATE", der), writePEM(t, filepath.Join(dir, name+".key"), "PRIVATE KEY", pkcs8)
}

func writePEM(t *testing.T, path, kind string, der []byte) string {
	t.Helper()
	require.NoError(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
	return path
}

// tlsFiles makes what servers and clients need for TLS: the arguments of a
// server that asks for a certificate, and the options of a URL that has one.
func tlsFiles(t *testing.T) (args []string, query string) {
	t.Helper()
	dir := t.TempDir()
	a := newAuthority(t)
	ca := a.file(t, dir)
	cert, key := a.issue(t, dir, "server")
	clientCert, clientKey := a.issue(t, dir, "client")
	return []string{
		"--port", "0", "--tls-port", "{port}", "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", ca,
		"--tls-auth-clients", "yes", "--tls-replication", "yes",
	}, "ca=" + ca + "&cert=" + clientCert + "&key=" + clientKey
}

func TestTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, other := newAuthority(t), newAuthority(t)
	ca := a.file(t, dir)
	cert, key := a.issue(t, dir, "server")
	clientCert, clientKey := a.issue(t, dir, "client")
	otherCA := other.file(t, t.TempDir())
	s := redistest.Start(t, "--port", "0", "--tls-port", "{port}", "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", ca, "--requirepass", "hunter2")
	base := "rediss://:hunter2@" + s.Addr() + "/2?"
	pair := "&cert=" + clientCert + "&key=" + clientKey

	for query, want := range map[string]string{
		"ca=" + ca + pair: "",
		"ca=" + ca + pair + "&server_name=redis.test": "",
		"ca=" + ca + pair + "&server_name=evil.test":  "certificate is valid for redis.test, not evil.test",
		"ca=" + otherCA + pair:                        "certificate signed by unknown authority",
		"server_name=redis.test" + pair:               "certificate signed by unknown authority",
	} {
		err := open(t, base+query).Ping(t.Context()).Err()
		if want == "" {
			require.NoError(t, err, query)
			continue
		}
		require.ErrorContains(t, err, want, query)
		require.NotContains(t, err.Error(), secretText)
	}
	require.Error(t, open(t, "redis://:hunter2@"+s.Addr()).Ping(t.Context()).Err(), "without TLS")
	require.Error(t, open(t, base+"ca="+ca).Ping(t.Context()).Err(), "without a certificate")

	client, cold := open(t, base+"ca="+ca+pair), open(t, base+"ca="+ca+pair)
	requireRecovery(t, client)
	s.Freeze()
	requireBounded(t, client)
	requireBounded(t, cold)
	s.Thaw()
	requireRecovery(t, client)
	requireRecovery(t, cold)
}

func TestARenewedCertificateNeedsNoNewClient(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a := newAuthority(t)
	cert, key := a.issue(t, dir, "server")
	s := redistest.Start(t, "--port", "0", "--tls-port", "{port}", "--tls-cert-file", cert, "--tls-key-file", key,
		"--tls-ca-cert-file", a.file(t, t.TempDir()), "--tls-auth-clients", "no")
	ca := newAuthority(t).file(t, dir)
	client := open(t, "rediss://"+s.Addr()+"?ca="+ca)
	require.ErrorContains(t, client.Ping(t.Context()).Err(), "unknown authority")
	require.Equal(t, ca, a.file(t, dir))
	require.NoError(t, client.Ping(t.Context()).Err())
	require.NoError(t, os.Remove(ca))
	require.NoError(t, client.Ping(t.Context()).Err(), "an open connection stays")
}

func TestOldTLSIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a := newAuthority(t)
	pair, err := tls.LoadX509KeyPair(a.issue(t, dir, "server"))
	require.NoError(t, err)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11})
	require.NoError(t, err)
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_ = conn.(*tls.Conn).Handshake()
			conn.Close()
		}
	}()
	client := open(t, "rediss://"+listener.Addr().String()+"?ca="+a.file(t, dir))
	require.ErrorContains(t, client.Ping(t.Context()).Err(), "protocol version")
}
