package scenario

import (
	"bytes"
	"crypto/aes"
	"fmt"
	"io"
	"os"

	"golang.org/x/crypto/xts"

	"github.com/landfall-project/landfall/pkg/luks2"
	"github.com/landfall-project/landfall/pkg/secret"
)

// sameContent ends the scenario unless the volume on a disk's partition, opened
// with a passphrase, begins with the content of a file. It reads the disk itself,
// without device-mapper or any guest: every byte is compared.
func (l *Lab) sameContent(disk string, pass []byte, want string) {
	l.Helper()
	d, err := os.Open(disk)
	l.Check(err)
	defer d.Close()
	info, err := d.Stat()
	l.Check(err)
	volume := io.NewSectionReader(d, partitionStart, info.Size()-partitionStart)
	h, err := luks2.Read(volume, volume.Size())
	l.Check(err)
	vk, err := h.Unlock(l.Context(), volume, secret.Take(bytes.Clone(pass)), luks2.UnlockOptions{})
	l.Check(err)
	defer vk.Wipe()
	w, err := os.Open(want)
	l.Check(err)
	defer w.Close()
	info, err = w.Stat()
	l.Check(err)
	l.Check(compare(volume, vk, io.NewSectionReader(w, 0, info.Size())))
}

// compare reads plaintext as dm-crypt does: one XTS unit per sector, numbered in
// 512-byte units.
func compare(volume io.ReaderAt, vk *luks2.VolumeKey, want *io.SectionReader) error {
	c, err := xts.NewCipher(aes.NewCipher, vk.Key.Expose())
	if err != nil {
		return err
	}
	got, original := make([]byte, 1<<20), make([]byte, 1<<20)
	for at := int64(0); at < want.Size(); at += int64(len(got)) {
		n, err := want.ReadAt(original, at)
		if err != nil && err != io.EOF {
			return err
		}
		if _, err := volume.ReadAt(got, int64(vk.Offset)+at); err != nil {
			return err
		}
		for i := 0; i < n; i += int(vk.SectorSize) {
			c.Decrypt(got[i:i+int(vk.SectorSize)], got[i:i+int(vk.SectorSize)], vk.IVOffset+uint64(at+int64(i))/512)
		}
		if !bytes.Equal(got[:n], original[:n]) {
			return fmt.Errorf("the volume's content from byte %d on is not what was there before", at)
		}
	}
	return nil
}
