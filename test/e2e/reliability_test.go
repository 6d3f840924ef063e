package e2e

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

// The pages that `make reliability` writes its numbers into, between two marks.
const (
	reliabilityPage = root + "/docs/reliability.md"
	permissionsPage = root + "/docs/permissions.md"
	numbersMark     = "<!-- written by `make reliability`: %s -->\n"
	permissionsMark = "<!-- written by `make reliability`, permissions: %s -->\n"
	shippingPage    = root + "/docs/log-shipping.md"
	shippingMark    = "<!-- written by `make reliability`, log shipping: %s -->\n"
)

var report struct {
	sync.Mutex
	faults, numbers          []string // of Redis
	propagation, storeFaults []string // of the permission table
	shipping                 []string // of log lines
}

// reportPropagation notes how long gateways answered by what was no longer so.
func reportPropagation(name string, changed, asked int, p99, most time.Duration) {
	report.Lock()
	defer report.Unlock()
	report.propagation = append(report.propagation, fmt.Sprintf("| %s | %d | %d | %s | %s |\n", name, changed, asked, round(p99), round(most)))
}

// reportStoreFault notes a row of the table of faults of the database.
func reportStoreFault(name string, sent, wrong int, calm, during, followed time.Duration) {
	report.Lock()
	defer report.Unlock()
	report.storeFaults = append(report.storeFaults, fmt.Sprintf("| %s | %d | **%d** | %s | %s | %s |\n",
		name, sent, wrong, round(calm), round(during), round(followed)))
}

// reportFault notes a row of the table of faults.
func reportFault(name string, sent, wrong int, calm, during, agreed time.Duration) {
	report.Lock()
	defer report.Unlock()
	report.faults = append(report.faults, fmt.Sprintf("| %s | %d | **%d** | %s | %s | %s | %s |\n",
		name, sent, wrong, round(calm), round(during), round(max(0, during-calm)), round(agreed)))
}

// reportNumber notes another figure.
func reportNumber(what, figure string) {
	report.Lock()
	defer report.Unlock()
	report.numbers = append(report.numbers, fmt.Sprintf("| %s | %s |\n", what, figure))
}

// reportShipping notes a figure about log lines.
func reportShipping(what, figure string) {
	report.Lock()
	defer report.Unlock()
	report.shipping = append(report.shipping, fmt.Sprintf("| %s | %s |\n", what, figure))
}

// round makes a time fit for reading.
func round(d time.Duration) string {
	switch {
	case d >= time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d >= 10*time.Millisecond:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
}

// machine says where the numbers are from.
func machine() string {
	return fmt.Sprintf("%d cores, %s/%s, %s.\n\n", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version())
}

// writeReport puts the numbers into the pages. A page of which not everything
// was measured stays as it is.
func writeReport() error {
	if !measuring {
		return nil
	}
	slices.Sort(report.shipping) // two Lokis are tested at once
	if len(report.faults) > 0 && len(report.numbers) > 0 {
		text := machine() +
			"| what happens to Redis | requests | answered wrongly | p99 before | p99 during | added | all agree after |\n|---|---|---|---|---|---|---|\n" +
			strings.Join(report.faults, "") + "\n| what | figure |\n|---|---|\n" + strings.Join(report.numbers, "")
		if err := writePage(reliabilityPage, numbersMark, text); err != nil {
			return err
		}
	}
	if len(report.propagation) > 0 && len(report.storeFaults) > 0 {
		text := machine() +
			"| changes of rights | changes | answers | p99 of the stale answers | most |\n|---|---|---|---|---|\n" +
			strings.Join(report.propagation, "") +
			"\n| what happens to the database | requests | answered wrongly | p99 before | p99 during | next change followed after |\n|---|---|---|---|---|---|\n" +
			strings.Join(report.storeFaults, "")
		if err := writePage(permissionsPage, permissionsMark, text); err != nil {
			return err
		}
	}
	if len(report.shipping) > 0 {
		text := machine() + "| what | figure |\n|---|---|\n" + strings.Join(report.shipping, "")
		return writePage(shippingPage, shippingMark, text)
	}
	return nil
}

// writePage replaces what stands between the two marks of a page.
func writePage(path, mark, text string) error {
	begin, end := fmt.Appendf(nil, mark, "begin"), fmt.Appendf(nil, mark, "end")
	page, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	head, rest, ok := bytes.Cut(page, begin)
	_, tail, ok2 := bytes.Cut(rest, end)
	if !ok || !ok2 {
		return fmt.Errorf("%s lacks the marks between which the numbers go", path)
	}
	return os.WriteFile(path, bytes.Join([][]byte{head, begin, []byte(text), end, tail}, nil), 0o600)
}
