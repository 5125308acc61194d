package main

import (
	"github.com/landfall-project/landfall/pkg/bootentry"
	"github.com/landfall-project/landfall/pkg/disk"
	"github.com/landfall-project/landfall/pkg/kekclient"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/secret"
)

// boot brings a server from its first instruction in user space to its
// production kernel. It never returns. Each step is repeated until it succeeds;
// what fails is shown with its code, and nothing is skipped.
//
// Work that waits for nothing runs beside: drivers, TPM, ports and disks start
// as soon as what they need is known.
func (m *machine) boot(img *image) {
	m.plan = serverSteps()
	// Hardware: drivers for what is there, and later for what comes.
	tpm := start(m, m.openTPM)
	hw := hold(m, "hardware", func() (*hardware, error) { return m.startHardware() })

	// Slice: signed by the region root, whose key is in the image.
	c := hold(m, "slice", func() (*carried, error) { return m.readSlice(img) })

	// Network and disks: at their own pace from here on.
	s := m.settle(img, c)

	// TPM: it must be the slice's. The slice is measured; the slots are being
	// prepared, and neighbors answered, from here on.
	t := hold(m, "tpm", func() (*trust, error) {
		return m.identifyTPM(&tpm, func(t *trust) error { return t.identify(m, c, img) })
	})
	s.certify(t)

	crypto := start(m, func() (struct{}, error) { hw.crypto(); return struct{}{}, nil })

	// Lease: the slice's, or none. Here and in the next two steps the fleet may
	// have a newer slice, which is begun with again.
	hold(m, "lease", s.lease)

	// Links: the neighbors are those of the factory, as far as the slice wants.
	hold(m, "links", s.linked)

	// Key: the fleet's, for a quote made on this very connection.
	rel := hold(m, "key", s.release)

	// Unwrap: the DEK from the NV slot that the release named.
	dek := hold(m, "unwrap", func() (*secret.Bytes, error) { return m.unwrap(t, c.Device.ID, &rel, s.release) })

	// Disks: only those that the factory sealed.
	_, _ = crypto.wait() // loads what it can; a missing module shows below
	vols := hold(m, "disks", func() (*volumes, error) { return m.openDisks(s.finder, dek, s.c) })

	// Root: read-only; and what to start from it.
	entry := hold(m, "root", func() (*bootentry.Entry, error) { return m.openRoot(vols.root.Path, s.c) })

	// Kernel: signed if the slice wants it, measured, then loaded.
	hold(m, "kernel", func() (struct{}, error) {
		return struct{}{}, m.loadKernel(t, entry, s.c.Slice, vols.handover)
	})

	// Report, on the connection that released the key.
	m.post(s.c, rel, entry.Kernel, vols.outcome)
	m.done("report")

	// Neighbors may still be asking: they are answered, for a while.
	s.linger()

	// Leave: what runs next can neither read the slots nor pass as this image,
	// and finds no key that opened anything here.
	hold(m, "leave", func() (struct{}, error) { return struct{}{}, m.leave(t, s, rel) })
	m.kexec()
}

// startHardware finds drivers until the machine has settled.
func (m *machine) startHardware() (*hardware, error) {
	hw, err := newHardware(m)
	if err != nil {
		return nil, err
	}
	hw.hotplug()
	hw.coldplug()
	return hw, nil
}

// identifyTPM opens the TPM again where the first attempt failed.
func (m *machine) identifyTPM(opened **later[*trust], identify func(*trust) error) (*trust, error) {
	t, err := (*opened).wait()
	if err != nil {
		*opened = start(m, m.openTPM)
		return nil, err
	}
	return t, identify(t)
}

// look starts reading the disks' headers early. Its error comes back when the
// disks are opened.
func (m *machine) look(f *disk.Finder) {
	if err := f.Look(); err != nil {
		m.logf("disks: %v", err)
	}
}

// leave closes everything that the production kernel shall not find open. It
// may be repeated.
func (m *machine) leave(t *trust, s *site, rel *kekclient.Released) error {
	if err := t.lock(); err != nil {
		return err
	}
	s.leave()
	if err := closeRoot(); err != nil {
		return err
	}
	if err := wipeAll(scrub, m.guarded()...); err != nil {
		return report.Errorf(report.BootWipe, "%w", err)
	}
	rel.Close()
	return nil
}
