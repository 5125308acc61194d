package main

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// The advice is for what happened: who is refused has a station and a cable to
// it, and a UKI that is not there is in no plan.
func TestAdvice(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	if _, body := l.post(t, "/v1/assignment", []byte("{}")); !strings.Contains(string(body), "of one release") {
		t.Errorf("for a request that cannot be read: %s", body)
	}
	resp, err := http.Get(l.plain + "/boot/server.efi")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusNotFound || !strings.Contains(string(body), "copy the UKI of that name into its folder boot") {
		t.Errorf("for a UKI that is not there: %s %s %v", resp.Status, body, err)
	}
}
