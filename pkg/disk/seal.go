package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/landfall-project/landfall/pkg/dmcrypt"
	"github.com/landfall-project/landfall/pkg/luks2"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/secret"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// unfinishedLabel is in the header of a fresh volume from its first write on
// until its filesystem is made. Such a volume was never used.
const unfinishedLabel = "landfall-unfinished"

// unfinished says whether a volume of ours was cut off while it was made, so
// that making it anew destroys nothing. One that merely lost its token is not.
func unfinished(d Device, meta *metadata) bool {
	if len(meta.Keyslots) == 0 {
		return true // nobody can have opened it
	}
	h, err := readHeader(d)
	return err == nil && h.Label == unfinishedLabel
}

// format makes a fresh volume, with a filesystem or an image in it if the plan
// says so. Being cut off means starting over.
func (m *Maker) format(ctx context.Context, dek *secret.Bytes, job *Job) (err error) {
	var content io.ReadCloser
	var length int64
	if job.Spec.Factory.Way == snapshot.WayImage {
		if content, length, err = m.openImage(ctx, job); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, content.Close()) }()
	}
	if err := m.luksFormat(ctx, dek, job); err != nil {
		return err
	}
	switch {
	case content != nil:
		err = m.fill(ctx, dek, job, content, length)
	case job.Spec.Factory.Filesystem != "":
		err = m.makeFilesystem(ctx, dek, job)
	}
	if err != nil {
		return fmt.Errorf("content of the volume: %w", err)
	}
	if _, err := m.tools().run(ctx, command{name: "cryptsetup", args: []string{"config", "--label", "", job.Device.Path}}); err != nil {
		return fmt.Errorf("finish the volume: %w", err)
	}
	m.logf("%s: formatted: safe to power off", job.Spec.Name)
	job.State = StateEncrypted
	return nil
}

// luksFormat writes a fresh header with the label of an unfinished volume.
func (m *Maker) luksFormat(ctx context.Context, dek *secret.Bytes, job *Job) error {
	pass, err := luks2.Passphrase(dek, job.Spec.UUID)
	if err != nil {
		return err
	}
	defer pass.Wipe()
	if err := markBlank(job.Device, job.Spec.UUID); err != nil {
		return err
	}
	args := append([]string{"luksFormat", "--label", unfinishedLabel}, formatArgs(job)...)
	if _, err := m.tools().run(ctx, command{name: "cryptsetup", args: append(args, job.Device.Path), input: pass.Expose()}); err != nil {
		return fmt.Errorf("format: %w", err)
	}
	if err := flush(job.Device); err != nil {
		return err
	}
	return markBlank(job.Device, "")
}

// fill writes an image to a volume without the kernel's help.
func (m *Maker) fill(ctx context.Context, dek *secret.Bytes, job *Job, content io.Reader, length int64) error {
	key, err := m.open(ctx, dek, job)
	if err != nil {
		return err
	}
	defer key.Wipe()
	return m.writeImage(ctx, job, key, content, length)
}

// makeFilesystem needs the kernel's device-mapper.
func (m *Maker) makeFilesystem(ctx context.Context, dek *secret.Bytes, job *Job) (err error) {
	key, err := m.open(ctx, dek, job)
	if err != nil {
		return err
	}
	defer key.Wipe()
	mapping, err := dmcrypt.Create(dmcrypt.Config{
		Name: job.Spec.Name, UUID: key.UUID, Device: job.Device.Path,
		Cipher: key.Cipher, Key: key.Key, SectorSize: key.SectorSize,
		Offset: key.Offset, Size: key.Size, IVOffset: key.IVOffset,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dmcrypt.Remove(mapping.Name)) }()
	_, err = m.tools().run(ctx, command{name: "mke2fs", args: []string{"-q", "-t", "ext4", "-F", mapping.Path}})
	return err
}

// open opens a volume that has no token yet, with our own code.
func (m *Maker) open(ctx context.Context, dek *secret.Bytes, job *Job) (*luks2.VolumeKey, error) {
	file, err := os.Open(job.Device.Path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	h, err := luks2.Read(file, job.Device.Size)
	if err != nil {
		return nil, err
	}
	if h.UUID != job.Spec.UUID {
		return nil, fmt.Errorf("the volume's UUID is %s", h.UUID)
	}
	return unlock(ctx, file, h, dek)
}

// Seal puts the recovery key into keyslot 1, if there is to be one (of a sealed
// volume it is taken out only if again is set), writes the
// token with the volume-key MAC as the last thing, and opens the volume as a
// booting server will. A token that holds already stays, unless again is set; a
// false one is refused: somebody put it there. Its errors are *report.Problem, or
// the context's.
func (m *Maker) Seal(ctx context.Context, dek *secret.Bytes, device string, job *Job, again bool) error {
	if job.State == StateSealed && !again {
		if err := m.check(ctx, dek, device, job); err != nil {
			return problem(job, report.FactoryTool, err)
		}
		if !job.Spec.Factory.Recovers() {
			return nil // nothing takes a way back out of a sealed volume unasked
		}
		return problem(job, report.FactoryRecovery, m.recovery(ctx, dek, job))
	}
	if err := m.dropToken(ctx, job); err != nil {
		return problem(job, report.FactoryTool, err)
	}
	key, err := m.open(ctx, dek, job)
	if err != nil {
		return problem(job, report.FactoryTool, fmt.Errorf("open it for its token: %w", err))
	}
	defer key.Wipe()
	if err := m.recovery(ctx, dek, job); err != nil {
		return problem(job, report.FactoryRecovery, err)
	}
	if err := m.addToken(ctx, dek, key, device, job); err != nil {
		return problem(job, report.FactoryTool, err)
	}
	if err := m.check(ctx, dek, device, job); err != nil {
		return problem(job, report.FactoryTool, err)
	}
	job.State = StateSealed
	m.logf("%s: sealed and checked", job.Spec.Name)
	return nil
}

// addToken writes the token with the MAC.
func (m *Maker) addToken(ctx context.Context, dek *secret.Bytes, key *luks2.VolumeKey, device string, job *Job) error {
	mac, err := luks2.MAC(dek, key)
	if err != nil {
		return err
	}
	token, err := luks2.TokenJSON(luks2.Token{Keyslots: []int{key.Keyslot}, Device: device, Volume: job.Spec.Name, MAC: mac})
	if err != nil {
		return err
	}
	_, err = m.tools().run(ctx, command{name: "cryptsetup", args: []string{"token", "import", "--json-file", "-", job.Device.Path}, input: token})
	if err != nil {
		return fmt.Errorf("write the token: %w", err)
	}
	return nil
}

// dropToken removes landfall tokens, before a new one is written.
func (m *Maker) dropToken(ctx context.Context, job *Job) error {
	h, err := readHeader(job.Device)
	if err != nil {
		return err
	}
	token, err := luks2.FindToken(h)
	if errors.Is(err, luks2.ErrNoToken) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = m.tools().run(ctx, command{name: "cryptsetup", args: []string{"token", "remove", "--token-id", strconv.Itoa(token.ID), job.Device.Path}})
	return err
}

// check opens the volume from its device alone, by the path of a boot.
func (m *Maker) check(ctx context.Context, dek *secret.Bytes, device string, job *Job) error {
	h, err := readHeader(job.Device)
	if err != nil {
		return err
	}
	key, _, err := openCandidate(ctx, candidate{job.Device, h}, dek, device, job.Spec)
	if err != nil {
		return fmt.Errorf("it does not open as it will at the destination: %w", err)
	}
	key.Wipe()
	return nil
}

// isSealed says whether the volume has a token, be it true or false.
func isSealed(d Device) bool {
	h, err := readHeader(d)
	if err != nil {
		return false
	}
	_, err = luks2.FindToken(h)
	return err == nil
}
