package measure

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func ev(pcr int, what, data string) Event {
	d := sha256.Sum256([]byte(data))
	return Event{PCR: pcr, What: what, Digest: d[:]}
}

// started is an image as its manifest has it.
func started() []Event {
	return []Event{
		ev(4, "firmware action", "call"), ev(4, "separator", "0"), ev(4, "UKI", "uki"), ev(4, "kernel", "kernel"),
		ev(9, "command line", "quiet"), ev(9, "initrd", "initrd"),
		ev(11, "name of section .linux", ".linux"), ev(11, "section .linux (kernel)", "linux"),
		ev(11, "name of section .osrel", ".osrel"), ev(11, "section .osrel", "osrel"),
	}
}

func manifestOf(events []Event) *Manifest {
	m := manifest()
	m.Form, m.Events, m.PCRs = FormUKI, events, map[int]Hex{}
	for n, v := range Replay(events) {
		m.PCRs[n] = v
	}
	return m
}

// replace changes what was measured of one component.
func replace(what, data string) func([]Event) []Event {
	return func(log []Event) []Event {
		i := slices.IndexFunc(log, func(e Event) bool { return e.What == what })
		log[i] = ev(log[i].PCR, what, data)
		return log
	}
}

func TestExplain(t *testing.T) {
	tests := []struct {
		name string
		log  func([]Event) []Event // what the machine measures and claims
		want []string
	}{
		{"the image", func(l []Event) []Event { return l }, nil},
		{"edited kernel", func(l []Event) []Event {
			l = replace("UKI", "uki'")(l)
			l = replace("kernel", "kernel'")(l)
			return replace("section .linux (kernel)", "linux'")(l)
		}, []string{
			"PCR 4: UKI differs (measured f1cd3196…, manifest 80fb8ca4…)",
			"PCR 4: kernel differs (measured ", "PCR 11: section .linux (kernel) differs (measured ",
		}},
		{"edited initrd", replace("initrd", "initrd'"), []string{"PCR 9: initrd differs (measured "}},
		{"edited command line", replace("command line", "rd.break"), []string{"PCR 9: command line differs (measured "}},
		{"override", func(l []Event) []Event {
			return append(replace("command line", "init=/bin/sh")(l), ev(12, `command line override "init=/bin/sh"`, "x"))
		}, []string{"PCR 9: command line differs", `PCR 12: more than the image: command line override "init=/bin/sh" (measured 2d711642…)`}},
		{"a boot loader before ours", func(l []Event) []Event {
			return slices.Insert(l, 2, ev(4, `EFI application "\shimx64.efi"`, "shim"))
		}, []string{`PCR 4: more than the image: EFI application "\shimx64.efi" (measured `}},
		{"a section less", func(l []Event) []Event { return l[:8] }, []string{
			"PCR 11: name of section .osrel was not measured (manifest ", "PCR 11: section .osrel was not measured",
		}},
		{"nothing", func([]Event) []Event { return nil }, []string{
			"PCR 4: nothing was measured (measured 00000000…, manifest ", "PCR 9: nothing was measured", "PCR 11: nothing was measured",
		}},
		{"much more", func(l []Event) []Event {
			for i := range 9 {
				l = append(l, ev(12, fmt.Sprintf("thing %d", i), fmt.Sprint(i)))
			}
			return l
		}, []string{"PCR 12: more than the image: thing 0", "PCR 12: more than the image: thing 1", "PCR 12: more than the image: thing 2", "PCR 12: more than the image: thing 3", "PCR 12: and 5 more differences"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			log := tt.log(started())
			explained(t, manifestOf(started()).Explain(Replay(log), log), tt.want)
		})
	}
}

// TestExplainWithoutLog is what can be said when no log is at hand, when it is
// not the one of this boot, and when the manifest tells no events.
func TestExplainWithoutLog(t *testing.T) {
	edited := replace("initrd", "initrd'")(started())
	capped := Replay(started())
	capped[CapPCR] = Extend(capped[CapPCR], CapDigest())
	learnt := manifestOf(started())
	learnt.Form, learnt.Events = FormEFIKernel, nil
	all := map[int][]byte{4: SliceValue(nil), 9: SliceValue(nil), 11: SliceValue(nil), 12: SliceValue(nil)}
	const disbelief = "; the event log that the machine sent does not make this value and is not believed)"
	tests := []struct {
		name string
		m    *Manifest
		pcrs map[int][]byte
		log  []Event
		want []string
	}{
		{"no log", manifestOf(started()), Replay(edited), nil, []string{"PCR 9: initrd or command line differs (measured "}},
		{"log of the good image, made up", manifestOf(started()), Replay(edited), started(), []string{"PCR 9: initrd or command line differs" + " … " + disbelief}},
		{"log with another kernel, made up", manifestOf(started()), Replay(edited), append(replace("kernel", "x")(started()), edited...), []string{"PCR 9: initrd or command line differs … " + disbelief}},
		{"capped", manifestOf(started()), capped, started(), []string{"PCR 12: capped: this image has already handed over to production … " + disbelief}},
		{"manifest without events", learnt, all, edited, []string{
			"PCR 4: boot loader or kernel differs", "PCR 9: initrd or command line differs", "PCR 11: sections of the UKI differ", "PCR 12: something overrides the image",
		}},
		{"quote without the PCR", manifestOf(started()), map[int][]byte{4: Replay(edited)[4], 9: Replay(started())[9], 11: Replay(started())[11]}, nil, []string{"PCR 12: something overrides the image: a command line, credential or add-on from outside (measured nothing, manifest 00000000…)"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { explained(t, tt.m.Explain(tt.pcrs, tt.log), tt.want) })
	}
}

// explained compares the beginnings, and the ends after " … ".
func explained(t *testing.T, got []Difference, want []string) {
	t.Helper()
	var lines []string
	for _, d := range got {
		lines = append(lines, d.String())
	}
	if len(lines) != len(want) {
		t.Fatalf("got %d differences, want %d:\n%s", len(lines), len(want), strings.Join(lines, "\n"))
	}
	for i, w := range want {
		begin, end, _ := strings.Cut(w, " … ")
		if !strings.HasPrefix(lines[i], begin) || !strings.HasSuffix(lines[i], end) {
			t.Errorf("got  %s\nwant %s", lines[i], w)
		}
	}
}

func TestEvents(t *testing.T) {
	tests := []struct {
		name   string
		change func(m *Manifest)
		want   string // part of the error; "" passes
	}{
		{"good", func(*Manifest) {}, ""},
		{"one digest", func(m *Manifest) { m.Events[3] = ev(4, "kernel", "other") }, "do not make the values of PCRs [4]"},
		{"an order", func(m *Manifest) { m.Events[4], m.Events[5] = m.Events[5], m.Events[4] }, "do not make the values of PCRs [9]"},
		{"a missing one", func(m *Manifest) { m.Events = m.Events[:9] }, "do not make the values of PCRs [11]"},
		{"another PCR's", func(m *Manifest) { m.Events = append(m.Events, ev(8, "slice", "x")) }, "no image PCR"},
		{"SHA-1", func(m *Manifest) { m.Events[0].Digest = m.Events[0].Digest[:20] }, "digest of 20 bytes"},
		{"no words", func(m *Manifest) { m.Events[0].What = "" }, "0 bytes what it is"},
		{"many words", func(m *Manifest) { m.Events[0].What = strings.Repeat("x", maxWhat+1) }, "129 bytes what it is"},
		{"too many", func(m *Manifest) { *m = *manifestOf(slices.Repeat(started(), 7)) }, "70 events, limit 64"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := manifestOf(started())
			tt.change(m)
			err := m.Validate()
			if (err == nil) != (tt.want == "") || (err != nil && !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestVersions(t *testing.T) {
	order := []string{"not a version", "0.9", "1", "1.4.0-alpha", "1.4.0-rc.1", "1.4", "1.4.1", "1.10", "2.0"}
	for i, a := range order {
		if got := ValidVersion(a); got != (i > 0) {
			t.Errorf("ValidVersion(%q) = %v", a, got)
		}
		for j, b := range order {
			if got, want := CompareVersions(a, b), cmp.Compare(i, j); got != want {
				t.Errorf("CompareVersions(%q, %q) = %d, want %d", a, b, got, want)
			}
		}
	}
	for _, v := range []string{"", "v1.4", "1.4.", "01.4", "1.4-rc1", "1.4/..", "one"} {
		if ValidVersion(v) {
			t.Errorf("%q passes as a version", v)
		}
	}
	if got := CompareVersions("1.4", "1.4.0"); got != 0 {
		t.Errorf("CompareVersions(1.4, 1.4.0) = %d, want 0", got)
	}
}
