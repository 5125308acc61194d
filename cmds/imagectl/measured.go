package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/landfall-project/landfall/pkg/files"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/signed"
)

// maxLog bounds a console log, in bytes.
const maxLog = 64 << 20

// readMeasured reads the image PCRs from a JSON object or a console log. A log
// may hold several boots: the last one counts, and a line that was garbled is
// an error, not a reason to take an earlier one.
func readMeasured(name string) (map[int]measure.Hex, error) {
	b, err := files.Read(name, maxLog)
	if err != nil {
		return nil, err
	}
	pcrs, err := parseMeasured(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return pcrs, nil
}

func parseMeasured(b []byte) (map[int]measure.Hex, error) {
	pcrs := map[int]measure.Hex{}
	if b := bytes.TrimSpace(b); len(b) > 0 && b[0] == '{' {
		if err := json.Unmarshal(b, &pcrs); err != nil {
			return nil, fmt.Errorf("%w: %w", errMeasured, signed.Where(b, err))
		}
		return pcrs, nil
	}
	const mark = "measured sha256 "
	i := bytes.LastIndex(b, []byte(mark))
	if i < 0 {
		return nil, errMeasured
	}
	line, _, _ := strings.Cut(string(b[i+len(mark):]), "\n")
	for _, field := range strings.Fields(line) {
		number, value, _ := strings.Cut(field, "=")
		n, err := strconv.Atoi(number)
		if err != nil {
			return nil, fmt.Errorf("%w: %q", errMeasured, field)
		}
		var h measure.Hex
		if err := h.UnmarshalText([]byte(value)); err != nil || pcrs[n] != nil {
			return nil, fmt.Errorf("%w: %q", errMeasured, field)
		}
		pcrs[n] = h
	}
	return pcrs, nil
}

var errMeasured = errors.New("no line \"measured sha256 4=... 9=... 11=... 12=...\" and no JSON object of PCRs")
