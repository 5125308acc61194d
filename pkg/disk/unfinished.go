package disk

import (
	"bytes"
	"errors"
	"os"
)

// cryptsetup fills the place of the keyslots with random bytes before it writes
// the header of a fresh volume. A power cut in between leaves a disk that holds
// "unknown data". So that the next run knows whose it is, the last 4 KiB of the
// device say so until the header is written: nothing else is there yet.
const (
	blankMark     = "landfall: was blank, is being formatted as "
	blankMarkSize = 4096
)

func blankMarkAt(dev Device) int64 { return dev.Size&^(blankMarkSize-1) - blankMarkSize }

func blankMarkOf(uuid string) []byte {
	b := make([]byte, blankMarkSize)
	copy(b, blankMark+uuid)
	return b
}

// wasBlank says whether the device was blank when formatting it as the volume
// began, and has no header yet.
func wasBlank(file *os.File, dev Device, uuid string) (bool, error) {
	if dev.Size < blankMarkSize {
		return false, nil
	}
	b := make([]byte, blankMarkSize)
	if err := readFull(file, b, blankMarkAt(dev)); err != nil {
		return false, err
	}
	return bytes.Equal(b, blankMarkOf(uuid)), nil
}

// markBlank writes the mark, or with no UUID clears it, and flushes.
func markBlank(dev Device, uuid string) (err error) {
	f, err := os.OpenFile(dev.Path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	b := make([]byte, blankMarkSize)
	if uuid != "" {
		b = blankMarkOf(uuid)
	}
	if _, err := f.WriteAt(b, blankMarkAt(dev)); err != nil {
		return place("write", blankMarkAt(dev), err)
	}
	return f.Sync()
}
