package scenario

import (
	"fmt"
	"strings"

	"github.com/landfall-project/landfall/qemu/debian"
	"github.com/landfall-project/landfall/qemu/vm"
)

// Debian is the stock production system.
func (l *Lab) Debian() *debian.Root {
	l.Helper()
	r, err := debian.Build(l.Context(), l.Cache)
	l.Check(err)
	return r
}

// systemRuns is what Debian's kernel and init print on the unlocked root, some
// 30 s before there is a login prompt: systemd's first line, behind ext4's.
const systemRuns = `(?s)EXT4-fs \(dm-\d+\): mounted filesystem .*systemd\[1\]: systemd \d+`

// promptOrNone is Debian's login prompt, or what says that none will come.
const promptOrNone = debian.Hostname + ` login: |` + vm.NoConsole

// Prompt waits for Debian's login prompt on the serial console, but not for one
// that cannot come.
func (m *Machine) Prompt() *vm.Match {
	m.lab.Helper()
	at := m.Expect(promptOrNone)
	m.lab.Check(givenUp(at.Groups[0], m.Console(0).Tail(40)))
	return at
}

// givenUp is an error if systemd has given the console up, so that no login is
// started on it.
func givenUp(printed, tail string) error {
	signs := vm.Starvation(printed)
	if len(signs) == 0 {
		return nil
	}
	return &vm.Starved{Sign: signs[0], Load: vm.HostLoad(), Err: fmt.Errorf("no login prompt will come; last lines:\n%s", tail)}
}

// Login logs in as root at Debian's serial console.
func (m *Machine) Login() *vm.Match {
	m.lab.Helper()
	at := m.Prompt()
	m.Type("root")
	m.Expect(`Password: `)
	m.Type(debian.RootPassword)
	m.Expect(`root@` + debian.Hostname + `:~# `)
	// Without these the shell's line editor mixes the echo with the output.
	m.Type("stty -echo; bind 'set enable-bracketed-paste off'; PS1=; PS2=")
	m.Type("echo shell-$((40+2))-ready")
	m.Expect(`shell-42-ready\r?\n`)
	return at
}

// Run runs a command in the shell that Login left, and returns what it printed
// and its exit status.
func (m *Machine) Run(command string) (output string, status string) {
	m.lab.Helper()
	m.Type("printf 'begin-%s\\n' run; { " + command + "; } 2>&1; printf 'end-%s-%d\\n' run $?")
	g := m.Expect(`(?s)begin-run\r?\n(.*?)end-run-(\d+)\r?\n`).Groups
	return crlf(g[1]), g[2]
}

// crlf undoes what the terminal driver does to line ends.
func crlf(s string) string { return strings.ReplaceAll(s, "\r\n", "\n") }
