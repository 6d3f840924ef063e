// Command bench measures what the whole chain costs: the CPU time per request
// of trace_context, jwt_auth, check_permission and breaker_proxy with the
// access log on, against Caddy's bare reverse_proxy in the same binary.
//
// A machine's speed drifts by half within minutes, so absolute numbers are
// never compared: both proxies stay up, short loads alternate A B B A, and
// what counts is the median of the ratios of neighbours.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// options are the flags of the command.
type options struct {
	binary, output    string
	pairs, conns      int
	slot              time.Duration
	maxRatio, maxBest float64
}

func main() {
	// A broken pipe too: the proxies must not outlive us.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGPIPE)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run dispatches to the parts that run as processes of their own, so that
// their CPU time is not the proxy's nor the reporter's.
func run(ctx context.Context, args []string) error {
	if len(args) > 0 {
		switch args[0] {
		case "upstream":
			return serveUpstream(ctx)
		case "load":
			return loadCommand(ctx, args[1:])
		}
	}
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&o.binary, "binary", "bin/tenantgate", "the gateway to measure")
	flags.StringVar(&o.output, "output", "docs/benchmarks.md", "the page whose table is rewritten; empty: none")
	flags.IntVar(&o.pairs, "pairs", 12, "pairs of loads for each variant")
	flags.IntVar(&o.conns, "connections", 64, "client connections")
	flags.DurationVar(&o.slot, "slot", time.Second, "how long one load takes")
	flags.Float64Var(&o.maxRatio, "max", 1.35, "fail when the full chain costs more than this, lower quartile")
	flags.Float64Var(&o.maxBest, "max-tuned", 1.35, "the same for the tuned chain")
	if err := flags.Parse(args); err != nil {
		return err
	}
	return o.measure(ctx)
}

// measure runs every variant against the anchor, prints the table, rewrites
// the page and judges the bars.
func (o options) measure(ctx context.Context) error {
	folder, err := os.MkdirTemp("", "tenantgate-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(folder) }()

	upstream, err := startUpstream(ctx)
	if err != nil {
		return err
	}
	defer upstream.stop()
	site, err := newSite(ctx, folder, upstream.address)
	if err != nil {
		return err
	}
	anchor, err := site.start(ctx, o.binary, bare)
	if err != nil {
		return err
	}
	defer anchor.stop()

	var results []result
	for _, v := range variants {
		r, err := o.compare(ctx, site, anchor, v)
		if err != nil {
			return fmt.Errorf("%s: %w", v.name, err)
		}
		fmt.Println(r)
		results = append(results, r)
	}
	report := o.report(ctx, results)
	fmt.Print("\n", report)
	if o.output != "" {
		if err := rewrite(o.output, report); err != nil {
			return err
		}
	}
	return o.judge(results)
}

// compare starts the variant beside the anchor and alternates loads A B B A.
func (o options) compare(ctx context.Context, site *site, anchor *proxy, v variant) (result, error) {
	other, err := site.start(ctx, o.binary, v)
	if err != nil {
		return result{}, err
	}
	defer other.stop()
	load := func(p *proxy) (sample, error) { return p.load(ctx, site.tokens, o.conns, o.slot) }
	for _, p := range []*proxy{anchor, other} { // warm-up: pools, caches, heap
		if _, err := load(p); err != nil {
			return result{}, err
		}
	}
	r := result{variant: v}
	for i := range o.pairs {
		order := [2]*proxy{anchor, other}
		if i%2 == 1 {
			order[0], order[1] = other, anchor
		}
		var pair [2]sample
		for _, p := range order {
			s, err := load(p)
			if err != nil {
				return result{}, err
			}
			if p == anchor {
				pair[0] = s
			} else {
				pair[1] = s
			}
		}
		r.pairs = append(r.pairs, pair)
	}
	return r, nil
}

// judge fails when a bar is exceeded by more than noise: by the lower quartile.
func (o options) judge(results []result) error {
	bars := map[string]float64{chain.name: o.maxRatio, tuned.name: o.maxBest}
	for _, r := range results {
		if low, _, _ := quartiles(r.ratios(cpu)); bars[r.variant.name] > 0 && low > bars[r.variant.name] {
			return fmt.Errorf("%s costs %.2f of the bare proxy's CPU (lower quartile), more than %.2f", r.variant.name, low, bars[r.variant.name])
		}
	}
	return nil
}

// loadCommand is the load process: it loads one address and prints JSON.
func loadCommand(ctx context.Context, args []string) error {
	var l load
	var tokens string
	flags := flag.NewFlagSet("load", flag.ContinueOnError)
	flags.StringVar(&l.address, "address", "", "host:port of the proxy")
	flags.StringVar(&l.path, "path", "/", "path to ask for")
	flags.StringVar(&tokens, "tokens", "", "file with one bearer token a line, used in turn")
	flags.IntVar(&l.conns, "connections", 64, "connections")
	flags.DurationVar(&l.duration, "duration", time.Second, "how long")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := l.readTokens(tokens); err != nil {
		return err
	}
	measured, err := l.run(ctx)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(measured)
}
