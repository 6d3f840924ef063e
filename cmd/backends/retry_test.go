package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

const givenUp = `INSERT INTO webhook_events (id, type, tenant_id, payload, attempts, last_error, created_at, due_at)
	VALUES ($1, 'invitation.created', 1, '{}', 10, 'answered 500', 0, NULL)`

func TestRetryWebhooksMakesGivenUpEventsDueAgain(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, s shell) {
		s.ok(t, "migrate")
		require.Equal(t, "Webhook events made due again: 0\n", s.ok(t, "retry-webhooks"))
		s.exec(t, givenUp, "a")
		s.exec(t, givenUp, "b")
		s.exec(t, `INSERT INTO webhook_events (id, type, tenant_id, payload, created_at, due_at) VALUES ('c', 'x', 1, '{}', 0, 1)`)
		require.Equal(t, "Webhook events made due again: 2\n", s.ok(t, "retry-webhooks"))
		require.JSONEq(t, `{"due":0}`, s.ok(t, "retry-webhooks --output json"))
		s.exec(t, givenUp, "d")
		require.JSONEq(t, `{"due":1}`, s.ok(t, "retry-webhooks -o json"))
	})
}
