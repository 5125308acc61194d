package fleetdir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/files"
	"github.com/landfall-project/landfall/pkg/fleet"
	"github.com/landfall-project/landfall/pkg/kekstore"
	"github.com/landfall-project/landfall/pkg/secret"
	"github.com/landfall-project/landfall/pkg/signed"
)

// aside is where a restore leaves what was there.
const aside = ".before-restore"

// RestoreOptions says how a backup takes the store's place.
type RestoreOptions struct {
	Credentials string // $CREDENTIALS_DIRECTORY, for the barrier key
	NewLog      bool   // the audit log is lost too: begin another one
	Building    bool   // without a log: the region has not left yet
}

// Restore puts a backup in the place of a member's store. The member must not
// run. What was there stays beside it. Nothing is changed unless all is well, but
// that the log gets the line of a change which it did not know.
// Whoever runs this, the files are then whose they were before.
func (m *Member) Restore(ctx context.Context, backup string, o RestoreOptions) (*fleet.Restored, error) {
	unsealer, err := m.Unsealer(o.Credentials)
	if err != nil {
		return nil, err
	}
	key, err := unsealer.BarrierKey(ctx)
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	store := m.path(m.file.Store)
	saw, err := m.settle(ctx, store, key, o.NewLog)
	if err != nil {
		return nil, err
	}
	log, err := m.openLog(o.NewLog)
	if err != nil {
		return nil, err
	}
	if _, _, err := log.records(saw, "the store that is there"); err != nil {
		return nil, err
	}
	for _, name := range []string{store + aside, m.AuditPath() + aside} {
		if _, err := os.Lstat(name); err == nil {
			return nil, fmt.Errorf("%s is what an earlier restore left: look at it, and move it away", name)
		}
	}
	fresh := store + ".restoring"
	text, err := files.ReadRegular(backup)
	if err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	if err := (files.Output{Perm: 0o600, Force: true}).Write(fresh, text); err != nil {
		return nil, err
	}
	restored, err := kekstore.OpenBolt(fresh, key)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: want what `kekctl backup` wrote of this member; it is %s: %w", backup, signed.Kind(text), err), os.Remove(fresh))
	}
	out, err := restoreStore(ctx, restored, log, o.Building)
	if err := errors.Join(err, restored.Close()); err != nil {
		return nil, errors.Join(err, os.Remove(fresh))
	}
	was, err := ownerOf(store)
	if err == nil {
		err = was.give(fresh)
	}
	if err != nil {
		return nil, errors.Join(err, os.Remove(fresh))
	}
	return out, m.exchange(ctx, fresh, store, out, o.NewLog)
}

// owner is whose a file is, and who may read it.
type owner struct {
	uid, gid int
	perm     fs.FileMode
}

// ownerOf looks at a file; where there is none, its folder's owner has it.
func ownerOf(name string) (owner, error) {
	info, err := os.Stat(name)
	perm := fs.FileMode(0o600)
	switch {
	case err == nil:
		perm = info.Mode().Perm()
	case errors.Is(err, fs.ErrNotExist):
		info, err = os.Stat(filepath.Dir(name))
	}
	if err != nil {
		return owner{}, err
	}
	st := info.Sys().(*syscall.Stat_t)
	return owner{int(st.Uid), int(st.Gid), perm}, nil
}

// give lets a file be what another one was: root restores in the folder of a
// service, which must open it.
func (o owner) give(name string) error {
	is, err := ownerOf(name)
	if err != nil {
		return err
	}
	if is.uid != o.uid || is.gid != o.gid {
		if err := os.Chown(name, o.uid, o.gid); err != nil {
			return fmt.Errorf("%w: what was there is of user %d, group %d; restore as that user, or as root", err, o.uid, o.gid)
		}
	}
	return os.Chmod(name, o.perm)
}

// auditLog is a member's audit log; nil if it is lost.
type auditLog struct {
	path string
	text []byte
}

// openLog reads a member's audit log, unless there shall be a new one.
func (m *Member) openLog(newLog bool) (*auditLog, error) {
	if newLog {
		return nil, nil
	}
	l := &auditLog{path: m.AuditPath()}
	var err error
	l.text, err = files.ReadRegular(l.path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(l.text) == 0 {
		return nil, fmt.Errorf("audit log %s is missing or empty: bring it, since only it knows what was decided after the backup; if it is lost, --without-log", l.path)
	}
	return l, err
}

// records returns the verified records, none of them of a log that is lost, and
// where they end. It refuses a log without the line that a store saw last: what
// was decided there would be undone by the restore, and nobody would hear of it.
func (l *auditLog) records(saw kekstore.Head, who string) ([]audit.Record, kekstore.Head, error) {
	if l == nil {
		return nil, kekstore.Head{}, nil
	}
	log := []audit.Record{}
	end, _, err := audit.VerifyFrom(audit.Head{Number: saw.Number, Hash: saw.Hash}, l.text, func(r audit.Record) error {
		log = append(log, r)
		return nil
	})
	if errors.Is(err, audit.ErrBehind) {
		err = fmt.Errorf("%w (%s saw it): bring the whole log; if it is lost, --without-log", err, who)
	}
	if err != nil {
		return nil, kekstore.Head{}, fmt.Errorf("audit log %s: %w", l.path, err)
	}
	return log, kekstore.Head{Number: end.Number, Hash: end.Hash}, nil
}

// settle refuses while a member has its store open, and returns which end of the
// log the store saw last. What the log owes of that store's last change, which is
// not in the backup, it gets first. A store that is gone, damaged or put back is why
// there is a restore: of that nothing is told.
func (m *Member) settle(ctx context.Context, store string, key *secret.Bytes, newLog bool) (saw kekstore.Head, err error) {
	s, err := kekstore.OpenBolt(store, key)
	if errors.Is(err, kekstore.ErrInUse) {
		return saw, err
	}
	if err != nil {
		return saw, nil
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	saw = s.Kept()
	if newLog {
		return saw, nil
	}
	ledger, err := fleet.OpenLedger(ctx, s, time.Now, func(*audit.Record) {},
		func(known audit.Head, each func(audit.Record) error) (fleet.Log, error) {
			return audit.Open(m.AuditPath(), known, each)
		}, func(audit.Record) error { return nil })
	for _, why := range []error{kekstore.ErrTampered, audit.ErrBehind, audit.ErrChain, audit.ErrNoLog} {
		if errors.Is(err, why) { // what is wrong with the log is said when it is read
			return saw, nil
		}
	}
	if err != nil {
		return saw, err
	}
	return saw, errors.Join(ledger.Settle(ctx), ledger.Close())
}

// restoreStore lets the store keep the end of the log that it goes on with: the
// backup's own is of another time, perhaps of a log that is lost.
func restoreStore(ctx context.Context, store kekstore.Store, log *auditLog, building bool) (*fleet.Restored, error) {
	records, end, err := log.records(store.Kept(), "the backup")
	if err != nil {
		return nil, err
	}
	store.Follow(func() kekstore.Head { return end })
	return fleet.Restore(ctx, store, records, building)
}

// exchange moves what is there aside and puts the restored store, and a new log,
// in its place.
func (m *Member) exchange(ctx context.Context, fresh, store string, out *fleet.Restored, newLog bool) error {
	if !newLog { // before anything moves: can it be written?
		f, err := os.OpenFile(m.AuditPath(), os.O_WRONLY, 0)
		if err == nil {
			err = f.Close()
		}
		if err != nil {
			return errors.Join(fmt.Errorf("audit log: %w", err), os.Remove(fresh))
		}
	}
	if err := os.Rename(store, store+aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(fresh, store); err != nil {
		return err
	}
	if newLog {
		was, err := ownerOf(m.AuditPath())
		if err != nil {
			return err
		}
		if err := os.Rename(m.AuditPath(), m.AuditPath()+aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := audit.Create(m.AuditPath()); err != nil {
			return err
		}
		if err := was.give(m.AuditPath()); err != nil {
			return err
		}
	}
	log, err := audit.Open(m.AuditPath(), audit.Head{}, nil)
	if err != nil {
		return err
	}
	for i := 0; i < len(out.Lines) && err == nil; i++ {
		err = log.Append(ctx, out.Lines[i])
	}
	dir, err2 := os.Open(filepath.Dir(store))
	if err2 == nil {
		err2 = errors.Join(dir.Sync(), dir.Close())
	}
	return errors.Join(err, log.Close(), err2)
}
