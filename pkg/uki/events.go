package uki

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/printable"
)

// ErrPrediction wraps every reason why the measurements of a sane UKI cannot be
// predicted.
var ErrPrediction = errors.New("measurements of this UKI cannot be predicted")

// bootAction is measured before a boot option is tried (TCG PC Client Platform
// Firmware Profile, 10.4.4), in ASCII without a NUL.
const bootAction = "Calling EFI Application from Boot Option"

// stubs are the versions of systemd-stub whose measurements are known, as they
// stand in the section .sdmagic.
func stubs() []string { return []string{"252"} }

// Events are all extends of the image PCRs when the image is started in a form,
// PCR by PCR, in their order. Errors are ErrPrediction.
//
// Not predicted, so refused at release: what stands beside the UKI
// (credentials, extensions), load options, and a boot option of the firmware's
// that was tried and failed before.
func (img *Image) Events(form measure.Form) ([]measure.Event, error) {
	if err := img.predictable(form); err != nil {
		return nil, err
	}
	return append(append(img.firmware(form), img.handedOver()...), img.sections()...), nil
}

func (img *Image) predictable(form measure.Form) error {
	no := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrPrediction}, args...)...)
	}
	if !form.IsUKI() {
		return no("form %s does not start a UKI", form)
	}
	if form == measure.FormUKISecureBoot && !img.Signed() {
		return no("it is not signed, and Secure Boot starts no such file: sign it with sbsign first")
	}
	if v := img.StubVersion(); !known(v) {
		return no("its stub is systemd-stub %q; what versions %s measure is known", v, strings.Join(stubs(), ", "))
	}
	cmdline, _ := img.Section(".cmdline")
	if len(cmdline) == 0 {
		return no("it has no command line (.cmdline): whoever starts it would choose one")
	}
	// The stub trims white space and turns control characters into spaces.
	if !printable.IsASCII(string(cmdline)) || len(bytes.Trim(cmdline, " ")) != len(cmdline) {
		return no("its command line %q has blanks around it or is not printable ASCII", cmdline)
	}
	if initrd, _ := img.Section(".initrd"); len(initrd) == 0 {
		return no("it has no initrd (.initrd)")
	}
	for _, name := range []string{".pcrsig", ".pcrpkey"} {
		if _, ok := img.Section(name); ok {
			return no("from its section %s the stub makes a file in the initrd; our policies are not in the UKI: build it without", name)
		}
	}
	return nil
}

// StubVersion is the version of systemd-stub that the image says it is made of,
// such as "252.39-1~deb12u2"; "" if it does not say.
func (img *Image) StubVersion() string {
	magic, _ := img.Section(".sdmagic")
	_, rest, _ := strings.Cut(string(magic), "#### LoaderInfo: systemd-stub ")
	version, _, found := strings.Cut(rest, " ####")
	if !found {
		return ""
	}
	return version
}

func known(version string) bool {
	for _, v := range stubs() {
		if version == v || strings.HasPrefix(version, v+".") || strings.HasPrefix(version, v+"-") {
			return true
		}
	}
	return false
}

// firmware is what the firmware measures into PCR 4: that it tries a boot
// option, the end of its own work (EV_SEPARATOR, TCG PC Client Platform Firmware
// Profile, 10.4.1), and each application that is loaded. iPXE in a card's ROM
// loads the UKI twice. With Secure Boot the stub does not load the kernel
// through the firmware, so it is not measured a second time.
func (img *Image) firmware(form measure.Form) []measure.Event {
	events := []measure.Event{event(4, "firmware action", []byte(bootAction)), event(4, "separator", make([]byte, 4))}
	file, kernel := img.Hash(), img.KernelHash()
	events = append(events, measure.Event{PCR: 4, Digest: file[:], What: "UKI"})
	if form == measure.FormUKIiPXE {
		events = append(events, measure.Event{PCR: 4, Digest: file[:], What: "UKI, loaded again"})
	}
	if form != measure.FormUKISecureBoot {
		events = append(events, measure.Event{PCR: 4, Digest: kernel[:], What: "kernel"})
	}
	return events
}

// handedOver is what the kernel's EFI stub measures into PCR 9: its load
// options, the command line in UTF-16LE with a final NUL, and the initrd that it
// gets (Linux, drivers/firmware/efi/libstub, since 5.18).
func (img *Image) handedOver() []measure.Event {
	cmdline, _ := img.Section(".cmdline")
	initrd, _ := img.Section(".initrd")
	var options []byte
	for _, c := range utf16.Encode([]rune(string(cmdline))) {
		options = append(options, byte(c), byte(c>>8))
	}
	return []measure.Event{event(9, "command line", append(options, 0, 0)), event(9, "initrd", initrd)}
}

// sections is what systemd-stub measures into PCR 11: of each section its name
// with a final NUL, and its content.
func (img *Image) sections() []measure.Event {
	var events []measure.Event
	for _, name := range measured() {
		data, ok := img.Section(name)
		if !ok || len(data) == 0 {
			continue
		}
		content := event(11, describe(name), data)
		if name == ".osrel" && len(data) <= measure.MaxText && utf8.Valid(data) {
			content.Text = string(data) // the image's own word for its name, version and role
		}
		events = append(events, event(11, "name of section "+name, []byte(name+"\x00")), content)
	}
	return events
}

func describe(section string) string {
	words := map[string]string{".linux": "kernel", ".cmdline": "command line", ".initrd": "initrd", ".osrel": "name and version"}
	if w := words[section]; w != "" {
		return "section " + section + " (" + w + ")"
	}
	return "section " + section
}

func event(pcr int, what string, data []byte) measure.Event {
	d := sha256.Sum256(data)
	return measure.Event{PCR: pcr, Digest: d[:], What: what}
}
