package tiers

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestOneDecidesWhatIsPrintable: no other package than pkg/printable compares
// characters with the bounds of what may be shown. The files here read formats
// that have a rule of their own.
func TestOneDecidesWhatIsPrintable(t *testing.T) {
	decides := regexp.MustCompile(`[<>]=? ?('~'|0x7[ef]|0x9f|0xa0)|unicode\.Is(Print|Graphic|Control)|strconv\.IsPrint`)
	own := []string{
		"pkg/lldp/optional.go", // octets, not characters
		"pkg/luks2/binary.go",  // labels that cryptsetup writes
	}
	files(t, func(rel string, data []byte) {
		if !strings.HasSuffix(rel, ".go") || strings.HasSuffix(rel, "_test.go") || strings.HasPrefix(rel, "pkg/printable/") || slices.Contains(own, rel) {
			return
		}
		if m := decides.Find(data); m != nil {
			t.Errorf("%s decides what is printable (%s): that is pkg/printable's matter", rel, m)
		}
	})
}

// TestErrorsArePrintable: what a program says at its end may name what others
// named.
func TestErrorsArePrintable(t *testing.T) {
	files(t, func(rel string, data []byte) {
		if !strings.HasPrefix(rel, "cmds/") || !strings.HasSuffix(rel, "/main.go") {
			return
		}
		if !strings.Contains(string(data), "printable.Text(err.Error())") {
			t.Errorf("%s prints an error that is not printable.Text", rel)
		}
	})
}
