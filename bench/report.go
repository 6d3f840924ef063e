package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
)

// result is one variant's loads, each beside a load of the anchor.
type result struct {
	variant variant
	pairs   [][2]sample // anchor, variant
}

// A measure is a figure of a sample.
type measure func(sample) float64

// cpu is microseconds of CPU per request.
func cpu(s sample) float64 { return float64(s.CPU.Microseconds()) / float64(s.Requests) }

// rate is requests per second.
func rate(s sample) float64 { return float64(s.Requests) / s.Seconds }

func p50(s sample) float64 { return s.P50 }

func p99(s sample) float64 { return s.P99 }

// rss is MiB.
func rss(s sample) float64 { return float64(s.RSS) / (1 << 20) }

// ratios returns variant / anchor for each pair.
func (r result) ratios(m measure) []float64 {
	var all []float64
	for _, pair := range r.pairs {
		all = append(all, m(pair[1])/m(pair[0]))
	}
	return all
}

// medianOf returns the median of a measure of one side: 0 anchor, 1 variant.
func (r result) medianOf(side int, m measure) float64 {
	var all []float64
	for _, pair := range r.pairs {
		all = append(all, m(pair[side]))
	}
	_, median, _ := quartiles(all)
	return median
}

// quartiles returns the 25th, 50th and 75th percentile, interpolated.
func quartiles(values []float64) (low, median, high float64) {
	sorted := slices.Sorted(slices.Values(values))
	at := func(p float64) float64 {
		position := p * float64(len(sorted)-1)
		below := int(position)
		above := min(below+1, len(sorted)-1)
		return sorted[below] + (sorted[above]-sorted[below])*(position-float64(below))
	}
	return at(0.25), at(0.5), at(0.75)
}

// String is the line printed when a variant is done.
func (r result) String() string {
	low, median, high := quartiles(r.ratios(cpu))
	return fmt.Sprintf("%-22s CPU per request %.2f of bare [%.2f..%.2f]", r.variant.name, median, low, high)
}

// report returns the table in Markdown.
func (o options) report(ctx context.Context, results []result) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %d cores, %s; %s. %d connections, %d pairs of %s each.\n\n",
		processor(), runtime.NumCPU(), kernel(), version(ctx, o.binary), o.conns, o.pairs, o.slot)
	b.WriteString("| variant | what | CPU per request / bare | quartiles | CPU µs | req/s / bare | req/s | p50 ms | p99 ms | RSS MiB |\n")
	b.WriteString("|---|---|---|---|---|---|---|---|---|---|\n")
	first := results[0]
	fmt.Fprintf(&b, "| %s | %s | 1.00 | – | %s | 1.00 | %s |\n", bare.name, bare.what, micros(first, 0), figures(first, 0))
	for _, r := range results {
		low, median, high := quartiles(r.ratios(cpu))
		_, throughput, _ := quartiles(r.ratios(rate))
		fmt.Fprintf(&b, "| %s | %s | **%.2f** | %.2f–%.2f | %s | %.2f | %s |\n",
			r.variant.name, r.variant.what, median, low, high, micros(r, 1), throughput, figures(r, 1))
	}
	return b.String()
}

func micros(r result, side int) string { return fmt.Sprintf("%.0f", r.medianOf(side, cpu)) }

func figures(r result, side int) string {
	return fmt.Sprintf("%.0f | %.1f | %.1f | %.0f", r.medianOf(side, rate), r.medianOf(side, p50), r.medianOf(side, p99), r.medianOf(side, rss))
}

// The table stands between these lines of the page; the rest is written by hand.
const (
	beginMark = "<!-- written by `make bench`: begin -->\n"
	endMark   = "<!-- written by `make bench`: end -->\n"
)

// rewrite replaces the table in the page.
func rewrite(page, table string) error {
	content, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	updated, err := replaceTable(string(content), table)
	if err != nil {
		return fmt.Errorf("%s: %w", page, err)
	}
	return os.WriteFile(page, []byte(updated), 0o644)
}

func replaceTable(page, table string) (string, error) {
	before, rest, ok := strings.Cut(page, beginMark)
	_, after, ended := strings.Cut(rest, endMark)
	if !ok || !ended {
		return "", fmt.Errorf("no place for the table: the lines %q and %q are missing", beginMark, endMark)
	}
	return before + beginMark + table + endMark + after, nil
}

// processor returns the CPU's name.
func processor() string {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range strings.Lines(string(info)) {
		if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// kernel returns the kernel's release.
func kernel() string {
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return runtime.GOOS
	}
	number, _, _ := strings.Cut(strings.TrimSpace(string(release)), "-")
	return "Linux " + number
}

// version returns what Go and which Caddy the binary is built from.
func version(ctx context.Context, binary string) string {
	out, err := exec.CommandContext(ctx, "go", "version", "-m", binary).Output()
	if err != nil {
		return runtime.Version()
	}
	return parseVersion(string(out))
}

// parseVersion reads the Go and Caddy version in `go version -m`.
func parseVersion(text string) string {
	found := runtime.Version()
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 2 && strings.HasPrefix(fields[1], "go") {
			found = fields[1]
		}
		if len(fields) >= 3 && fields[0] == "dep" && fields[1] == "github.com/caddyserver/caddy/v2" {
			found += ", Caddy " + fields[2]
		}
	}
	return found
}
