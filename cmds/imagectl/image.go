package main

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/landfall-project/landfall/pkg/files"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/uki"
)

func readUKI(name string) (*uki.Image, []byte, error) {
	raw, err := files.Read(name, uki.MaxSize)
	if err != nil {
		return nil, nil, err
	}
	img, err := uki.Parse(raw)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w; give the .efi file that `make image` wrote", name, err)
	}
	return img, raw, nil
}

// ukiForms are the forms that were asked for, or all in which the image can be
// started.
func ukiForms(asked []string, img *uki.Image) []measure.Form {
	var forms []measure.Form
	for _, f := range asked {
		forms = append(forms, measure.Form(f))
	}
	if len(forms) > 0 {
		return forms
	}
	forms = []measure.Form{measure.FormUKI, measure.FormUKIiPXE}
	if img.Signed() {
		forms = append(forms, measure.FormUKISecureBoot)
	}
	return forms
}

// osRelease reads a UKI's .osrel.
func osRelease(img *uki.Image) map[string]string {
	text, _ := img.Section(".osrel")
	return measure.Release(string(text))
}

// kernelVersion reads what a bzImage says of itself: kernel_version at 0x20e
// points to a text, less 0x200 (Linux, Documentation/arch/x86/boot.rst).
func kernelVersion(kernel []byte) string {
	const header, pointer = 0x202, 0x20e
	if len(kernel) < pointer+2 || string(kernel[header:header+4]) != "HdrS" {
		return "unknown"
	}
	at := 0x200 + int(binary.LittleEndian.Uint16(kernel[pointer:]))
	if at >= len(kernel) {
		return "unknown"
	}
	text, _, found := bytes.Cut(kernel[at:min(at+256, len(kernel))], []byte{0})
	if !found {
		return "unknown"
	}
	return fmt.Sprintf("%q", text)
}
