package redisclient

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// maxSocketPath is the longest path of a Unix socket that Linux knows.
const maxSocketPath = 107

var (
	errScheme = errors.New("the URL begins with no known scheme: write redis://, rediss://, unix://, redis+sentinel://, " +
		"rediss+sentinel://, redis+cluster:// or rediss+cluster://")
	errControl = errors.New("the URL holds a space or a control character such as a line end: remove it, or write a space as %20")
	errHash    = errors.New("the URL holds a #: write it as %23")
	// A second @, or one behind the host, mostly comes from a password. Where
	// that one ends would be a guess, and a wrong guess shows a part of it.
	errAt = errors.New("the URL holds an @ that is not the one before the host: " +
		"in a user name, a password, a path or an option write @ as %40, / as %2F and ? as %3F")
	errUser = errors.New("the URL names a user without a password: write user:password@ or leave the user out")
)

// Parse reads a URL of one of these forms:
//
//	redis://[[user]:password@]host[:6379][/db]
//	unix://[[user]:password@]/path/to.sock[?db=N]
//	redis+sentinel://[[user]:password@]host[:26379],…/master[/db][?sentinel_username=…&sentinel_password=…]
//	redis+cluster://[[user]:password@]host[:6379],…
//
// With rediss, rediss+sentinel and rediss+cluster the connections use TLS, and
// these options are known: ca, cert and key (PEM files) and server_name. What
// stands in a URL for something else is escaped as usual, an @ as %40.
//
// Parse opens nothing and reads no file. Its errors name the part that is wrong
// and never repeat it: which part a password has slipped into cannot be known.
func Parse(rawURL string) (*Options, error) {
	if strings.ContainsFunc(rawURL, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return nil, errControl
	}
	name, rest, _ := strings.Cut(rawURL, "://")
	i := slices.IndexFunc(schemes, func(s scheme) bool { return s.name == strings.ToLower(name) })
	if i < 0 {
		return nil, errScheme
	}
	if strings.Contains(rest, "#") {
		return nil, errHash
	}
	o := &Options{scheme: schemes[i]}
	rest, query, _ := strings.Cut(rest, "?")
	authority, path, hasPath := strings.Cut(rest, "/")
	if hasPath {
		path = "/" + path
	}
	if at := strings.Count(rawURL, "@"); at > 1 || at == 1 && !strings.Contains(authority, "@") {
		return nil, errAt
	}
	hosts := authority
	if credentials, after, found := strings.Cut(authority, "@"); found {
		hosts = after
		if err := o.parseCredentials(credentials); err != nil {
			return nil, err
		}
	}
	if err := o.parseHosts(hosts); err != nil {
		return nil, err
	}
	if err := o.parsePath(path); err != nil {
		return nil, err
	}
	if err := o.parseQuery(query); err != nil {
		return nil, err
	}
	return o, nil
}

func (o *Options) parseCredentials(text string) (err error) {
	username, password, _ := strings.Cut(text, ":")
	if o.username, err = unescape("user name", username); err != nil {
		return err
	}
	if o.password, err = unescape("password", password); err != nil {
		return err
	}
	// go-redis would not log in at all and so speak as the default user.
	if o.username != "" && o.password == "" {
		return errUser
	}
	return nil
}

func (o *Options) parseHosts(text string) error {
	if o.scheme.kind == socket {
		if text != "" {
			return errors.New("the URL of a Unix socket names a host: write three slashes, as in unix:///run/redis.sock")
		}
		return nil
	}
	hosts := strings.Split(text, ",")
	if len(hosts) > 1 && o.scheme.kind == single {
		return fmt.Errorf("the URL names several hosts: write %[1]s+sentinel://host1,host2/master or %[1]s+cluster://host1,host2", o.scheme.name)
	}
	for _, host := range hosts {
		addr, err := o.scheme.parseHost(host)
		if err != nil {
			return err
		}
		o.addrs = append(o.addrs, addr)
	}
	return nil
}

var validHost = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)

// parseHost returns host[:port] as host:port.
func (s scheme) parseHost(text string) (string, error) {
	host, port := text, s.port
	if i := strings.LastIndexByte(text, ':'); i >= 0 && !strings.HasSuffix(text, "]") {
		host, port = text[:i], text[i+1:]
	}
	if bracketed, ok := strings.CutPrefix(host, "["); ok {
		addr, err := netip.ParseAddr(strings.TrimSuffix(bracketed, "]"))
		if err != nil || !addr.Is6() || addr.Zone() != "" || !strings.HasSuffix(host, "]") {
			return "", fmt.Errorf("the host in brackets is no IPv6 address: write %s://[::1]:%s", s.name, s.port)
		}
		host = addr.String()
	} else if host == "" {
		return "", fmt.Errorf("a host is missing: write %s://host:%s", s.name, s.port)
	} else if !validHost.MatchString(host) {
		return "", errors.New("a host holds something else than letters, digits, - . and _: correct it, and put an IPv6 address into brackets")
	}
	if number, err := strconv.ParseUint(port, 10, 16); err != nil || number == 0 {
		return "", fmt.Errorf("a port is no number from 1 to 65535: write %s://host:%s", s.name, s.port)
	}
	return net.JoinHostPort(host, port), nil
}

var validMaster = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)

func (o *Options) parsePath(path string) (err error) {
	switch o.scheme.kind {
	case socket:
		return o.parseSocket(path)
	case cluster:
		if path != "" && path != "/" {
			return errors.New("the URL of a cluster has a path: remove it, a cluster has one database only")
		}
		return nil
	case sentinel:
		master, database, found := strings.Cut(strings.TrimPrefix(path, "/"), "/")
		if !validMaster.MatchString(master) {
			return fmt.Errorf("the name of the master is missing or holds something else than letters, digits, - . and _: "+
				"write it after the hosts, as in %s://host/mymaster", o.scheme.name)
		}
		o.master = master
		if found {
			o.database, err = parseDatabase(database, o.scheme.name+"://host/mymaster/0")
		}
		return err
	default:
		if path != "" && path != "/" {
			o.database, err = parseDatabase(path[1:], o.scheme.name+"://host:6379/0")
		}
		return err
	}
}

func (o *Options) parseSocket(path string) error {
	path, err := unescape("path", path)
	if err != nil {
		return err
	}
	if path == "" || strings.HasSuffix(path, "/") {
		return errors.New("the path of the Unix socket is missing: write unix:///run/redis.sock")
	}
	if len(path) > maxSocketPath {
		return fmt.Errorf("the path of the Unix socket is longer than the %d bytes that the system allows: move the socket", maxSocketPath)
	}
	o.addrs = []string{path}
	return nil
}

func parseDatabase(text, example string) (int, error) {
	number, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("the database is no number from 0 to 65535: write %s", example)
	}
	return int(number), nil
}

// plainOption is what a name of an option looks like when it is no more than
// misspelt and may be repeated.
var plainOption = regexp.MustCompile(`^[a-z]+(_[a-z]+)*$`)

func (o *Options) parseQuery(query string) (err error) {
	var database string
	known, names := o.options(&database)
	for option := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(option, "=")
		target, ok := known[name]
		switch {
		case query == "":
			return nil
		case !ok && plainOption.MatchString(name) && strings.Contains(option, "="):
			return fmt.Errorf("option %q is unknown: %s:// takes %s", name, o.scheme.name, names)
		case !ok:
			return fmt.Errorf("an option after the ? is unknown: %s:// takes %s", o.scheme.name, names)
		case *target != "":
			return fmt.Errorf("option %s is given twice: write it once", name)
		}
		if *target, err = unescape("option "+name, value); err != nil {
			return err
		}
		if *target == "" {
			return fmt.Errorf("option %s is empty: write a value or leave it out", name)
		}
	}
	if database != "" {
		if o.database, err = parseDatabase(database, "unix:///run/redis.sock?db=0"); err != nil {
			return err
		}
	}
	return o.checkOptions()
}

// options returns where the values of the known options go, and their names.
func (o *Options) options(database *string) (targets map[string]*string, names string) {
	targets = map[string]*string{}
	if o.scheme.kind == socket {
		targets["db"], names = database, "db"
	}
	if o.scheme.kind == sentinel {
		targets["sentinel_username"], targets["sentinel_password"] = &o.sentinelUsername, &o.sentinelPassword
		names = "sentinel_username and sentinel_password"
	}
	if o.scheme.tls {
		targets["ca"], targets["cert"], targets["key"], targets["server_name"] = &o.ca, &o.cert, &o.key, &o.serverName
		names = strings.TrimPrefix(strings.ReplaceAll(names, " and ", ", ")+", ca, cert, key and server_name", ", ")
	}
	if names == "" {
		names = "no option"
	}
	return targets, names
}

func (o *Options) checkOptions() error {
	switch {
	case o.sentinelUsername != "" && o.sentinelPassword == "":
		return errors.New("option sentinel_username is given without sentinel_password: give both, or the password alone")
	case (o.cert == "") != (o.key == ""):
		return errors.New("only one of the options cert and key is given: give both, the client's certificate and its key")
	case o.serverName != "" && !validHost.MatchString(o.serverName):
		return errors.New("option server_name is no name of a host: write the name that stands in the server's certificate")
	}
	return nil
}

// unescape resolves escapes. The error of net/url would repeat what it did not
// understand.
func unescape(part, text string) (string, error) {
	plain, err := url.PathUnescape(text)
	if err != nil {
		return "", fmt.Errorf("the %s holds a %% that begins no escape: write %% as %%25", part)
	}
	return plain, nil
}
