package main

import (
	"errors"
	"fmt"
	"regexp"

	"github.com/landfall-project/landfall/qemu/vm"
)

// boot runs a boot, once more if the host starved its guest.
func (st *story) boot(fn func()) {
	st.Check(repeat(st.s, func() (console string, err error) {
		err = st.Attempt(fn)
		st.followers.Wait() // the machine has ended
		if st.last != nil {
			console = st.last.Console(0).Output()
		}
		return console, err
	}))
}

// repeat runs a boot, which returns what its console showed, and once more if
// all that is known to be wrong is that the host starved it.
func repeat(s *screen, boot func() (console string, err error)) error {
	console, err := boot()
	cause := starvedOnly(err, console)
	if cause == nil {
		return err
	}
	s.line(fmt.Sprintf("A busy host starved this boot (load averages %s). The same boot again.", cause.Load))
	s.line("The guest said: " + cause.Sign)
	console, err = boot()
	if starvedOnly(err, console) != nil {
		return fmt.Errorf("starved twice: %w", err)
	}
	return err
}

// What a boot says when something is wrong that it knows of, and when that is
// over: a starved server holds for what comes late, and goes on.
var (
	hold      = regexp.MustCompile(`HOLD [^\n]*LF-[A-Z]+-\d+`)
	holdEnded = regexp.MustCompile(`landfall: hold ended after`)
)

// holds reports whether a console ends in a hold.
func holds(console string) bool {
	begun := hold.FindAllStringIndex(console, -1)
	if len(begun) == 0 {
		return false
	}
	return !holdEnded.MatchString(console[begun[len(begun)-1][1]:])
}

// starvedOnly returns how a boot was starved; nil if it was not, or said itself
// what is wrong. A boot that only came late is not told from a fault.
func starvedOnly(err error, console string) *vm.Starved {
	var s *vm.Starved
	if !errors.As(err, &s) || holds(console) {
		return nil
	}
	return s
}
