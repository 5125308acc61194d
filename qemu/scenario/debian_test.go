package scenario

import (
	"errors"
	"regexp"
	"testing"

	"github.com/landfall-project/landfall/qemu/debian"
	"github.com/landfall-project/landfall/qemu/vm"
)

// TestNoPrompt shows that what systemd prints when it gives a console up ends
// the wait for a prompt, as starvation.
func TestNoPrompt(t *testing.T) {
	console := "[  OK  ] Found device dev-ttyS0.device - /dev/ttyS0.\r\n"
	lost := "[\x1b[0;1;38;5;185mDEPEND\x1b[0m] Dependency failed for \x1b[0;1;39mseri…rvice\x1b[0m - Serial Getty on ttyS0.\r\n"
	end := regexp.MustCompile(promptOrNone)
	for text, want := range map[string]string{
		console + debian.Hostname + " login: ":                                              "",
		console + lost + debian.Hostname + " login: ":                                       "Dependency failed for seri…rvice - Serial Getty on ttyS0",
		"[DEPEND] Dependency failed for srv.mount - /srv.\n" + debian.Hostname + " login: ": "",
	} {
		var s *vm.Starved
		got := ""
		if errors.As(givenUp(end.FindString(text), "the tail"), &s) {
			got = s.Sign
		}
		if got != want {
			t.Errorf("%q: sign of starvation %q, want %q", text, got, want)
		}
	}
}
