package loki

import (
	"slices"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// UnmarshalCaddyfile reads the writer:
//
//	output loki <push url> {
//	    label      <name> <text>|{field.NAME}
//	    metadata   <field>...
//	    tenant     <org id> | {field.NAME} [<org id>]
//	    basic_auth <user> <password>
//	    bearer     <token>
//	    batch      <size> [<wait>]
//	    buffer     <folder> [<size>]
//	    sync       <interval>|always|never
//	    max_age    <duration>
//	    timeout    <duration>
//	    tls_ca     <pem file>
//	}
//
// Only label may be repeated. [Writer] says what the options mean.
func (w *Writer) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // writer name
	if !d.AllArgs(&w.URL) {
		return d.Err(`loki needs one argument: the URL of Loki, such as http://loki:3100, or "" to discard all lines`)
	}
	if err := w.check(); err != nil {
		return d.WrapErr(err)
	}
	var seen []string
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name := d.Val()
		if name != "label" {
			if slices.Contains(seen, name) {
				return d.Errf("%s is given twice", name)
			}
			seen = append(seen, name)
		}
		if err := w.unmarshalOption(d, name); err != nil {
			return err
		}
		if err := w.check(); err != nil {
			return d.WrapErr(err)
		}
	}
	return nil
}

func (w *Writer) unmarshalOption(d *caddyfile.Dispenser, name string) error {
	switch name {
	case "label":
		return w.unmarshalLabel(d)
	case "metadata":
		if w.Metadata = d.RemainingArgs(); len(w.Metadata) == 0 {
			return d.Err("metadata needs arguments: names of fields, such as trace_id")
		}
		return nil
	case "tenant":
		return arguments(d, "a tenant of Loki, or {field.NAME} and perhaps the tenant of lines that lack the field", &w.Tenant, &w.DefaultTenant)
	case "basic_auth":
		if !d.AllArgs(&w.Username, &w.Password) {
			return d.Err("basic_auth needs two arguments: the user and the password")
		}
		return nil
	case "bearer":
		return arguments(d, "a token", &w.Bearer)
	case "batch":
		return arguments(d, "a size such as 1MiB, and perhaps a wait such as 1s", &w.BatchSize, &w.BatchWait)
	case "buffer":
		return arguments(d, "a folder, and perhaps a size such as 1GiB", &w.Buffer, &w.BufferSize)
	case "sync":
		return arguments(d, "an interval such as 1s, always or never", &w.Sync)
	case "max_age":
		return arguments(d, "a duration such as 168h", &w.MaxAge)
	case "timeout":
		return arguments(d, "a duration such as 10s", &w.Timeout)
	case "tls_ca":
		return arguments(d, "a PEM file", &w.TLSCA)
	}
	return d.Errf("unrecognized option '%s': want label, metadata, tenant, basic_auth, bearer, batch, buffer, sync, max_age, timeout or tls_ca", name)
}

func (w *Writer) unmarshalLabel(d *caddyfile.Dispenser) error {
	var name, value string
	if !d.AllArgs(&name, &value) {
		return d.Err("label needs two arguments: a name, and a text or {field.NAME}")
	}
	if _, ok := w.Labels[name]; ok {
		return d.Errf("label %s is given twice", name)
	}
	if w.Labels == nil {
		w.Labels = map[string]string{}
	}
	w.Labels[name] = value
	return nil
}

// arguments reads the arguments of an option: one, and as many of the others as
// there are.
func arguments(d *caddyfile.Dispenser, what string, targets ...*string) error {
	name, given := d.Val(), d.RemainingArgs()
	if len(given) == 0 || len(given) > len(targets) {
		return d.Errf("%s needs %s", name, what)
	}
	for i, target := range targets {
		if i < len(given) {
			*target = given[i]
		}
	}
	return nil
}
