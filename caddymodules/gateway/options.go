package gateway

import "github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

// EachOption calls read with the name of each option in the block that d stands
// before. None may be there twice. read consumes the option.
func EachOption(d *caddyfile.Dispenser, read func(name string) error) error {
	seen := map[string]bool{}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name := d.Val()
		if seen[name] {
			return d.Errf("%s is given twice", name)
		}
		seen[name] = true
		if err := read(name); err != nil {
			return err
		}
	}
	return nil
}

// OneArgument reads the one argument of an option without a block, which want
// describes.
func OneArgument(d *caddyfile.Dispenser, name, want string, value *string) error {
	if !d.AllArgs(value) || *value == "" {
		return d.Errf("%s needs one argument: %s", name, want)
	}
	if d.NextBlock(d.Nesting()) {
		return d.Errf("%s takes no block", name)
	}
	return nil
}
