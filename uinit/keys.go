package main

import (
	"context"
	"errors"

	"github.com/landfall-project/landfall/pkg/kekclient"
	"github.com/landfall-project/landfall/pkg/keyblob"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/secret"
)

// client talks to the members that a slice names.
func (m *machine) client(c *carried) *kekclient.Client {
	return &kekclient.Client{Members: c.Fleet.Members, CA: c.Fleet.CA, Device: c.Device.ID, Slice: c.Generation, Logf: m.note}
}

// release asks the fleet, member by member, for this device's KEK. links is a
// link report, or nil.
func (m *machine) release(t *trust, c *carried, links []byte) (*kekclient.Released, error) {
	if t.noPolicy != nil {
		m.lookAgain(t)
	}
	client := m.client(c)
	client.NeedPolicy, client.Links = t.noPolicy != nil, links
	offered := m.evidence.wanted()
	if offered {
		client.Evidence = m.eventLog
	}
	ctx, cancel := context.WithTimeout(context.Background(), kekclient.RoundTimeout)
	defer cancel()
	rel, err := client.Release(ctx, t.quoter(), c.Generation)
	if err != nil {
		var p *report.Problem
		if errors.As(err, &p) {
			return nil, m.evidence.seen(p, offered)
		}
		return nil, tpmProblem(err)
	}
	m.guardReleased(rel)
	m.logf("key of generation %d released by %s", rel.KEK.Generation, rel.Member)
	return rel, nil
}

// guardReleased remembers the keys, and what they came out of: the key of the
// request and the answer are the KEK for whoever finds both.
func (m *machine) guardReleased(rel *kekclient.Released) {
	m.guard(rel.KEK.Key, rel.Traces)
	if rel.Next != nil {
		m.guard(rel.Next.Key)
	}
}

// maxGuarded bounds what attempts that failed leave for the search at the end: a
// page each.
const maxGuarded = 1024

// unwrap opens the wrapped DEK that lies in the slot which the release named.
// A failure may be the fleet's as well as the TPM's, so that the next attempt
// asks the fleet again.
func (m *machine) unwrap(t *trust, device string, rel **kekclient.Released, release func() (*kekclient.Released, error)) (*secret.Bytes, error) {
	if *rel == nil {
		again, err := release()
		if err != nil {
			return nil, err
		}
		*rel = again
	}
	dek, err := m.openSlot(t, *rel, device)
	if err != nil {
		m.giveUp(*rel)
		*rel = nil
		return nil, err
	}
	return dek, nil
}

func (m *machine) openSlot(t *trust, rel *kekclient.Released, device string) (*secret.Bytes, error) {
	if t.noPolicy != nil {
		if err := t.adopt(rel); err != nil {
			return nil, err
		}
		m.logf("PCR policy of %s from %s: no LANDFALL partition has it", t.policy.Image, rel.Member)
	}
	record, err := t.read(rel.KEK.Generation)
	if err != nil {
		return nil, err
	}
	return m.openRecord(record, &rel.KEK, device)
}

// openRecord opens the content of a slot and wipes it. What the TPM's libraries
// hold of it is searched for at the end: with the KEK it is the DEK.
func (m *machine) openRecord(record []byte, kek *kekclient.KEK, device string) (*secret.Bytes, error) {
	defer secret.Wipe(record)
	dek, err := keyblob.Unwrap(kek.Key, record, keyblob.Ident{Device: device, KEKID: kek.ID, Generation: kek.Generation})
	if err != nil {
		return nil, nvProblem(err)
	}
	m.guard(dek, secret.Take(keyblob.Sealed(record)))
	return dek, nil
}

// giveUp drops a release whose key opened nothing. Its secrets stay guarded:
// copies of them are searched for before the next kernel starts. A machine that
// has held for hours wipes them without.
func (m *machine) giveUp(rel *kekclient.Released) {
	if len(m.guarded()) >= maxGuarded {
		rel.Close()
		return
	}
	rel.Hangup()
}
