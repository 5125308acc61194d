package snapshot

import "errors"

// Validate reports all contradictions of a snapshot at once, by the names of
// the devices and interfaces that they are about.
func (d *Document) Validate() error {
	c := new(checker)
	if d.Type != DocumentType {
		c.add("type", "is %q, must be %q", d.Type, DocumentType)
	}
	return errors.Join(c.errs...)
}
