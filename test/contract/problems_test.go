package contract_test

import (
	"fmt"
	"os"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/backends/contract"
	"github.com/tenantgate/tenantgate/test/repo"
)

// TestTheDescriptionAndTheTableOfProblemsAgree holds the codes and statuses of
// openapi.yaml against docs/problems.md.
func TestTheDescriptionAndTheTableOfProblemsAgree(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/problems.md")
	require.NoError(t, err)
	doc, err := contract.Load(description)
	require.NoError(t, err)
	listed := repo.Problems(string(page))
	for _, o := range doc.Operations {
		for _, status := range append(doc.Statuses(o), 0) {
			if status != 0 && status < 400 {
				continue
			}
			codes := doc.Codes(o, status)
			require.NotEmpty(t, codes, fmt.Sprint(o, " ", status))
			for _, code := range codes {
				require.Contains(t, listed, code, o)
				if status != 0 {
					require.Contains(t, listed[code], strconv.Itoa(status), "%s %s", o, code)
				}
			}
		}
	}
}
