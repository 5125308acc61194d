// Package uki reads a unified kernel image as far as its measurements need it:
// the sections that systemd-stub takes, the hash by which firmware measures the
// whole file, and the events that starting it makes. It opens no file and no
// socket. docs/spec/uki.md says what is read and what is measured.
package uki

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// MaxSize bounds a UKI, in bytes.
const MaxSize = 1 << 30

// ErrFormat wraps every refusal of a file: it is no UKI, or one that two readers
// could read differently. Make it anew with make image.
var ErrFormat = errors.New("not a sane unified kernel image")

// measured are the sections that systemd-stub reads and measures, in the order
// in which it does so, which is fixed (UAPI.5 Unified Kernel Image; systemd,
// systemd-stub(7), and the enumeration UnifiedSection of version 252).
func measured() []string {
	return []string{".linux", ".osrel", ".cmdline", ".initrd", ".splash", ".dtb", ".pcrpkey"}
}

// read are all the sections whose content the stub uses; .pcrsig it does not
// measure, since it is made from the measurements.
func read() []string { return append(measured(), ".pcrsig") }

// Section is one section of the image.
type Section struct {
	Name string
	// Data is the content: as many bytes of the file as the section has in
	// memory (VirtualSize), without the padding of the file.
	Data []byte
}

// Image is a parsed UKI.
type Image struct {
	Sections []Section // in the order of the section table

	file   *pe
	kernel *pe // .linux, which is a PE file itself
}

// Parse reads a UKI. It keeps references to b. Errors are ErrFormat.
func Parse(b []byte) (*Image, error) {
	file, err := parsePE(b)
	if err != nil {
		return nil, err
	}
	img := &Image{file: file}
	seen := map[string]bool{}
	for _, h := range file.sections {
		name, err := stubName(h.name)
		if err != nil {
			return nil, err
		}
		if name != "" && seen[name] {
			return nil, refuse("two sections %s", name)
		}
		if name != "" && h.memory.size > h.file.size {
			return nil, refuse("section %s has %d bytes in the file and %d in memory", name, h.file.size, h.memory.size)
		}
		seen[name] = true
		s := Section{Name: h.name}
		if n := min(h.memory.size, h.file.size); n != 0 {
			s.Data = b[h.file.off:][:n:n]
		}
		img.Sections = append(img.Sections, s)
	}
	linux, ok := img.Section(".linux")
	if !ok {
		return nil, refuse("no section .linux: it holds no kernel")
	}
	if img.kernel, err = parsePE(linux); err != nil {
		return nil, fmt.Errorf("section .linux: %w", err)
	}
	return img, nil
}

// stubName returns the section that systemd-stub takes a name for; "" is none.
// Stubs up to version 252 compare the beginning only, so that a section
// ".linuxX" would be the kernel: such a name is refused.
func stubName(name string) (string, error) {
	for _, s := range read() {
		if name == s {
			return s, nil
		}
		if strings.HasPrefix(name, s) {
			return "", refuse("section %q: the stub takes it for %s", name, s)
		}
	}
	return "", nil
}

// Section returns the content of the section of that name.
func (img *Image) Section(name string) (data []byte, ok bool) {
	i := slices.IndexFunc(img.Sections, func(s Section) bool { return s.Name == name })
	if i < 0 {
		return nil, false
	}
	return img.Sections[i].Data, true
}

// Hash is the Authenticode digest of the file, SHA-256.
func (img *Image) Hash() [sha256.Size]byte { return img.file.hash() }

// KernelHash is the Authenticode digest of the kernel in .linux, SHA-256.
func (img *Image) KernelHash() [sha256.Size]byte { return img.kernel.hash() }

// Signed reports whether the file carries a certificate table. It does not check
// a signature: only the firmware knows which keys it trusts.
func (img *Image) Signed() bool { return img.file.cert.size != 0 }
