package tracecontext

import (
	"fmt"
	"strconv"
)

// Sampling decides the sampled flag of a trace. The zero value is "parent".
type Sampling struct {
	always bool
	// reject is the share of new traces not sampled, in 2^-56: a new trace is
	// sampled if its 56 random bits are not below it. Every service that uses
	// the threshold of OpenTelemetry's consistent sampling decides alike.
	reject uint64
}

// ParseSampling parses a sampling rule:
//
//   - "parent" or "": a continued trace keeps its flag, a new one is sampled;
//   - "always": every trace is sampled, whatever its caller said;
//   - a ratio from 0 to 1: a continued trace keeps its flag, that share of the
//     new ones is sampled.
func ParseSampling(s string) (Sampling, error) {
	switch s {
	case "", "parent":
		return Sampling{}, nil
	case "always":
		return Sampling{always: true}, nil
	}
	ratio, err := strconv.ParseFloat(s, 64)
	if err != nil || !(ratio >= 0 && ratio <= 1) {
		return Sampling{}, fmt.Errorf("sampled is %q, want parent, always or a ratio from 0 to 1", s)
	}
	return Sampling{reject: uint64((1 - ratio) * (1 << 56))}, nil
}

// apply returns flags with the sampled flag as s decides.
func (s Sampling) apply(flags byte, traceID []byte, continued bool) byte {
	if s.always {
		return flags | FlagSampled
	}
	if continued {
		return flags
	}
	var random uint64
	for _, digit := range traceID[18:] { // the last 7 bytes
		random = random<<4 | uint64(unhex(digit))
	}
	if random >= s.reject {
		return flags | FlagSampled
	}
	return flags
}
