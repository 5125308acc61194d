package main

import (
	"context"
	"errors"

	"github.com/landfall-project/landfall/pkg/kekclient"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/keyblob"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/secret"
)

// release asks the fleet, member by member, for this device's KEK.
func (m *machine) release(t *trust, c *carried) (*kekclient.Released, error) {
	client := &kekclient.Client{
		Members: c.Fleet.Members, CA: c.Fleet.CA, Device: c.Device.ID, Logf: m.note,
	}
	quoter := kekclient.QuoterFunc(func(qualifying []byte) (kekproto.Quote, error) {
		return t.Quote(qualifying, t.pcrs)
	})
	ctx, cancel := context.WithTimeout(context.Background(), kekclient.RoundTimeout)
	defer cancel()
	rel, err := client.Release(ctx, quoter, c.Generation)
	if err != nil {
		var p *report.Problem
		if errors.As(err, &p) {
			return nil, p
		}
		return nil, tpmProblem(err)
	}
	m.guard(rel.KEK.Key)
	if rel.Next != nil {
		m.guard(rel.Next.Key)
	}
	m.logf("key of generation %d released by %s", rel.KEK.Generation, rel.Member)
	return rel, nil
}

// unwrap opens the wrapped DEK that lies in the slot which the release named.
// A failure may be the fleet's as well as the TPM's, so that the next attempt
// asks the fleet again.
func (m *machine) unwrap(t *trust, c *carried, rel **kekclient.Released) (*secret.Bytes, error) {
	if *rel == nil {
		again, err := m.release(t, c)
		if err != nil {
			return nil, err
		}
		*rel = again
	}
	kek := (*rel).KEK
	dek, err := func() (*secret.Bytes, error) {
		record, err := t.read(kek.Generation)
		if err != nil {
			return nil, err
		}
		dek, err := keyblob.Unwrap(kek.Key, record, keyblob.Ident{Device: c.Device.ID, KEKID: kek.ID, Generation: kek.Generation})
		if err != nil {
			return nil, nvProblem(err)
		}
		return dek, nil
	}()
	if err != nil {
		(*rel).Close()
		*rel = nil
		return nil, err
	}
	m.guard(dek)
	return dek, nil
}
