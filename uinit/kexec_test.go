package main

import (
	"errors"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/landfall-project/landfall/pkg/report"
)

func TestKexecProblem(t *testing.T) {
	for errno, wantDB := range map[syscall.Errno]bool{unix.ENOKEY: true, unix.EKEYREJECTED: true, unix.EPERM: true, unix.EINVAL: false, unix.ENOMEM: false} {
		var p *report.Problem
		if err := kexecProblem("/vmlinuz", errno); !errors.As(err, &p) || p.Code != report.BootKexec || !errors.Is(err, errno) {
			t.Fatalf("%v became %v", errno, err)
		}
		if got := strings.Contains(p.Do, "db"); got != wantDB {
			t.Errorf("%v: the repair is %q", errno, p.Repair())
		}
	}
}
