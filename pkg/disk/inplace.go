package disk

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/landfall-project/landfall/pkg/luks2"
	"github.com/landfall-project/landfall/pkg/secret"
)

// cryptsetup encrypts in place by moving all data back by the length of the
// header, from the end to the beginning, a shift at a time. It first copies the
// head of the device to its last 16 MiB and writes the header where the head
// was; both within one write cache, with no flush in between.
//
// The 32 MiB tail must therefore be free. Before cryptsetup starts, the head is
// copied to the same last 16 MiB (saveHead): cryptsetup's own copy then changes
// nothing, and a power cut while the header is written leaves a head that can be
// put back.
const (
	tailSize  = 32 << 20 // --reduce-device-size
	shiftSize = tailSize / 2
)

// ErrOtherKey: an encryption was begun with another DEK. The TPM that sealed
// this disk, or its recovery key, is needed to go on.
var ErrOtherKey = errors.New("this disk is being encrypted under another key")

// examineInPlace looks for what would lose data; nothing was written yet.
func examineInPlace(job *Job, file *os.File, refuse refuser) error {
	dev := job.Device
	if dev.Size < 4*tailSize {
		return refuse.part(size(dev.Size)+" is too small for encryption in place", "use a larger disk or partition")
	}
	switch job.Content {
	case ContentExt:
	case ContentXFS:
		return refuse("XFS cannot shrink, and 32 MiB are needed behind it", "back it up and use the way \"format\"")
	default:
		if saved, err := savedHead(file, dev.Size); err != nil || saved == nil {
			return refuse(fmt.Sprintf("it holds %s; only ext2/3/4 is encrypted in place", job.Content), "use the way \"format\" if its data may go")
		}
		job.State = StateTorn
		return nil
	}
	head := make([]byte, 4096)
	if err := readFull(file, head, 0); err != nil {
		return refuse.part(err.Error(), "replace the disk")
	}
	end, ok := extSize(head)
	if !ok || end > dev.Size {
		return refuse("its filesystem says that it is larger than the disk", "repair it with e2fsck")
	}
	if why, do := job.unmountable(head); why != "" {
		return refuse(why, do)
	}
	if saved, err := savedHead(file, dev.Size); err != nil {
		return refuse.part(err.Error(), "replace the disk")
	} else if saved != nil && bytes.Equal(sectorOf(saved), sectorOf(head)) {
		job.State = StateTorn
		return nil
	}
	job.Shrink = max(0, end-(dev.Size-tailSize))
	job.halfShrunk = halfShrunk(head)
	if free := extFree(head); job.Shrink > free && !job.halfShrunk {
		return refuse(fmt.Sprintf("its filesystem is too full: %s are free, and it must shrink by %s", size(free), size(job.Shrink)),
			"free "+size(job.Shrink)+" in it, or use the way \"format\"")
	}
	return nil
}

// inPlace goes on from whatever state the device is in.
func (m *Maker) inPlace(ctx context.Context, dek *secret.Bytes, job *Job) error {
	pass, err := luks2.Passphrase(dek, job.Spec.UUID)
	if err != nil {
		return err
	}
	defer pass.Wipe()
	if job.State == StateTorn {
		if err := m.putBack(job.Device); err != nil {
			return err
		}
		job.State = StateToDo
	}
	if job.State == StateInProgress {
		if err := m.checkBegun(ctx, job, pass); err != nil {
			return err
		}
	}
	if job.State == StateInProgress {
		if err := m.recover(ctx, job, pass); err != nil {
			return err
		}
	}
	if job.State == StateToDo {
		if err := m.begin(ctx, job, pass); err != nil {
			return err
		}
		job.State = StateInProgress
	}
	if job.State == StateInProgress {
		if err := m.resume(ctx, job, pass); err != nil {
			return err
		}
		job.State = StateEncrypted
	}
	return nil
}

// checkBegun tells a header whose keyslot was cut off in writing, which is put
// back, from an encryption under another key, which only that key can end.
func (m *Maker) checkBegun(ctx context.Context, job *Job, pass *secret.Bytes) error {
	ok, err := m.tools().opens(ctx, job.Device.Path, pass)
	if ok || err != nil {
		return err
	}
	meta, _, luks, err := m.tools().dump(ctx, job.Device.Path)
	if err != nil {
		return err
	}
	if luks && meta.begun() {
		return fmt.Errorf("volume %s on %s: %w", job.Spec.Name, job.Device.Path, ErrOtherKey)
	}
	file, err := os.Open(job.Device.Path)
	if err != nil {
		return err
	}
	defer file.Close()
	if saved, err := savedHead(file, job.Device.Size); err != nil || saved == nil {
		return errors.Join(fmt.Errorf("volume %s on %s: %w", job.Spec.Name, job.Device.Path, ErrOtherKey), err)
	}
	if err := m.putBack(job.Device); err != nil {
		return err
	}
	job.State = StateToDo
	return nil
}

// recover repeats a shift that was cut off, before the next one begins. It may
// have been the last one, and nothing is left to do then.
func (m *Maker) recover(ctx context.Context, job *Job, pass *secret.Bytes) error {
	path := job.Device.Path
	meta, err := m.header(ctx, path)
	if err != nil {
		return err
	}
	if !meta.all() {
		_, err := m.tools().run(ctx, command{name: "cryptsetup",
			args: []string{"repair", "--batch-mode", "--disable-external-tokens", "--key-file", "-", path}, input: pass.Expose()})
		if err != nil {
			return fmt.Errorf("recover the interrupted encryption of %s: %w", path, err)
		}
		if meta, err = m.header(ctx, path); err != nil {
			return err
		}
	}
	if !meta.inProgress() {
		job.State = StateEncrypted
		return nil
	}
	if !meta.all() {
		return nil
	}
	if meta.lastShift() {
		m.logf("%s: the last step of its encryption was cut off: doing it again", job.Spec.Name)
		if err := m.lastShift(ctx, job, meta, pass); err != nil {
			return fmt.Errorf("recover the interrupted encryption of %s: %w", path, err)
		}
	}
	m.logf("%s: all data is encrypted already: tidying the header", job.Spec.Name)
	if err := finish(ctx, job.Device, meta, pass); err != nil {
		return fmt.Errorf("finish the encryption of %s: %w", path, err)
	}
	job.State = StateEncrypted
	return nil
}

// header reads the metadata of a device that has some.
func (m *Maker) header(ctx context.Context, path string) (*metadata, error) {
	meta, _, ok, err := m.tools().dump(ctx, path)
	if err == nil && !ok {
		err = fmt.Errorf("%s: the header is gone", path)
	}
	return meta, err
}

// begin shrinks the filesystem if need be, saves the head and writes the header.
func (m *Maker) begin(ctx context.Context, job *Job, pass *secret.Bytes) error {
	path := job.Device.Path
	if job.Shrink > 0 || job.halfShrunk {
		if err := m.shrink(ctx, job); err != nil {
			return err
		}
	}
	if err := saveHead(job.Device); err != nil {
		return fmt.Errorf("save the head of %s: %w", path, err)
	}
	// What a killed cryptsetup leaves behind stops the next one.
	temp := filepath.Join(m.Dir, "LUKS2-temp-"+job.Spec.UUID+".new")
	if err := os.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	args := append(formatArgs(job), "--reduce-device-size", fmt.Sprintf("%dM", tailSize>>20), "--init-only", path)
	_, err := m.tools().run(ctx, command{name: "cryptsetup", args: append([]string{"reencrypt", "--encrypt"}, args...), input: pass.Expose()})
	if err != nil {
		return fmt.Errorf("begin encryption: %w", err)
	}
	return nil
}

// formatArgs are what header and keyslot are made with. The passphrase is 32
// random bytes, so its derivation costs the minimum.
func formatArgs(job *Job) []string {
	return []string{"--batch-mode", "--type", "luks2", "--uuid", job.Spec.UUID,
		"--cipher", luks2.CipherXTS, "--key-size", "512", "--sector-size", strconv.Itoa(job.encryptionSector()),
		"--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--hash", "sha256", "--key-file", "-"}
}

// resume runs the encryption to its end.
func (m *Maker) resume(ctx context.Context, job *Job, pass *secret.Bytes) error {
	m.logf("%s: encrypting in place: safe to power off, it goes on where it stopped", job.Spec.Name)
	start := time.Now()
	args := []string{"reencrypt", "--resume-only", "--batch-mode", "--disable-external-tokens", "--key-file", "-",
		"--progress-json", "--progress-frequency", "2"}
	if st, err := os.Stat(job.Device.Path); err == nil && st.Mode().IsRegular() {
		// Of an image file cryptsetup cannot tell whether it is mapped. Of a
		// block device it can, and must look.
		args = append(args, "--force-offline-reencrypt")
	}
	_, err := m.tools().run(ctx, command{name: "cryptsetup", args: append(args, job.Device.Path), input: pass.Expose(),
		line: func(line string) { m.progress(job.Spec.Name, line) }})
	if err != nil {
		return fmt.Errorf("encrypt %s in place: %w", job.Device.Path, err)
	}
	m.logf("%s: encrypted in %.1f s", job.Spec.Name, time.Since(start).Seconds())
	return nil
}

// progress tells a line of --progress-json; its numbers are strings.
func (m *Maker) progress(volume, line string) {
	var p struct {
		Done  int64 `json:"device_bytes,string"`
		Size  int64 `json:"device_size,string"`
		Speed int64 `json:"speed,string"`
		ETA   int64 `json:"eta_ms,string"`
	}
	if json.Unmarshal([]byte(line), &p) != nil || p.Size == 0 {
		return
	}
	m.logf("%s: %d %% of %s, %d MiB/s, %s to go, safe to power off", volume, p.Done*100/p.Size, size(p.Size), p.Speed>>20,
		(time.Duration(p.ETA) * time.Millisecond).Round(time.Second))
	if m.Progress != nil {
		m.Progress(volume, p.Done, p.Size, p.Speed)
	}
}
