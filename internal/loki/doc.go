// Package loki ships log lines to Grafana Loki. A line is taken at once, kept in a
// buffer on disk until Loki has acknowledged it, and sent again after whatever
// goes wrong: docs/log-shipping.md.
//
// A [Shipper] is made of a queue in memory, an encoder that turns lines into
// entries of Loki's push API, a [segment.Log] for each tenant of Loki, and a
// delivery that knows what each of Loki's answers means.
package loki
