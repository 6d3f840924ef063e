// Package redisclient reads the URL of a Redis server, of a group watched by
// Sentinels or of a Redis Cluster, and opens a client that connects when it is
// first used, keeps every deadline it is given and never waits for longer.
package redisclient

import (
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"strconv"
	"strings"
)

// kind says what answers at the addresses.
type kind int

const (
	single   kind = iota // one server at a host
	socket               // one server at a Unix socket
	sentinel             // Sentinels, which know the master
	cluster              // nodes of a cluster
)

// scheme is what the part before "://" stands for.
type scheme struct {
	name string
	kind kind
	tls  bool
	port string // unless the URL says another
}

var schemes = []scheme{
	{"redis", single, false, "6379"},
	{"rediss", single, true, "6379"},
	{"unix", socket, false, ""},
	{"redis+sentinel", sentinel, false, "26379"},
	{"rediss+sentinel", sentinel, true, "26379"},
	{"redis+cluster", cluster, false, "6379"},
	{"rediss+cluster", cluster, true, "6379"},
}

// Options say where Redis is and who we are to it. They are made by [Parse] and
// do not change. However they are printed, no user name and no password shows.
type Options struct {
	scheme   scheme
	addrs    []string // host:port of each, or the path of the socket
	master   string   // the name that the Sentinels know it by
	database int

	username, password                 string
	sentinelUsername, sentinelPassword string

	ca, cert, key string // files
	serverName    string // to be found in the certificate, "" for the host
}

// String returns the URL without credentials and options, fit for a log.
func (o Options) String() string {
	where := o.scheme.name + "://" + strings.Join(o.addrs, ",")
	switch o.scheme.kind {
	case socket:
		path := url.URL{Path: o.addrs[0]}
		return "unix://" + strings.ReplaceAll(path.EscapedPath(), "@", "%40") + "?db=" + strconv.Itoa(o.database)
	case sentinel:
		return where + "/" + o.master + "/" + strconv.Itoa(o.database)
	case cluster:
		return where
	default:
		return where + "/" + strconv.Itoa(o.database)
	}
}

// Format implements fmt.Formatter, so that no verb prints the fields.
func (o Options) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, o.String()) // fmt has nowhere to report it
}

// LogValue implements slog.LogValuer.
func (o Options) LogValue() slog.Value { return slog.StringValue(o.String()) }

// Key identifies options: those with the same key can share a client. It is a
// hash of everything, also of the passwords, and so nothing to print: a weak
// password could be guessed from it.
type Key [sha256.Size]byte

// String implements fmt.Stringer without the key.
func (Key) String() string { return "REDACTED" }

// Key returns the identity of the options.
func (o Options) Key() Key {
	fields := append([]string{
		o.scheme.name, o.master, strconv.Itoa(o.database), o.username, o.password,
		o.sentinelUsername, o.sentinelPassword, o.ca, o.cert, o.key, o.serverName,
	}, o.addrs...)
	return sha256.Sum256(fmt.Appendf(nil, "%q", fields))
}
