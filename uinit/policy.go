package main

import (
	"crypto/rsa"

	"github.com/landfall-project/landfall/pkg/kekclient"
	"github.com/landfall-project/landfall/pkg/pcrpolicy"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// readPolicies reads the PCR policies of all partitions, those beside the slice
// in use first: a boot volume may bring the policy of its own image. Nothing
// here is believed; anybody can write such a partition.
func (m *machine) readPolicies(own *snapshot.Part, parts []*snapshot.Part) []*pcrpolicy.Policy {
	texts := own.Policies
	for _, part := range parts {
		if part != own {
			texts = append(texts[:len(texts):len(texts)], part.Policies...)
		}
	}
	if len(texts) > snapshot.MaxPolicies {
		m.warn(report.Errorf(report.NVPolicyBad, "%d PCR policies on %d LANDFALL partitions: only the first %d count", len(texts), len(parts), snapshot.MaxPolicies))
		texts = texts[:snapshot.MaxPolicies]
	}
	var policies []*pcrpolicy.Policy
	for i, text := range texts {
		// Policies of other images may be newer than this program; only the
		// fitting one counts, and the TPM checks its signature.
		p, err := pcrpolicy.Parse(text)
		if err != nil {
			m.warn(report.Errorf(report.NVPolicyBad, "PCR policy %d of the LANDFALL partitions: %w", i, err))
			continue
		}
		policies = append(policies, p)
	}
	return policies
}

// fitting returns the policy that approves what was measured. The TPM will
// verify its signature; that is looked at here only so that a planted document
// does not hide the good one.
func fitting(policies []*pcrpolicy.Policy, pcrs map[int][]byte, key *rsa.PublicKey) (*pcrpolicy.Policy, *report.Problem) {
	var bad *report.Problem
	for _, p := range policies {
		if _, err := pcrpolicy.Select([]*pcrpolicy.Policy{p}, pcrs); err != nil {
			continue
		}
		err := p.Verify(key)
		if err == nil {
			return p, nil
		}
		bad = report.Errorf(report.NVPolicyBad, "PCR policy of %s: %w", p.Image, err)
	}
	if bad != nil {
		return nil, bad
	}
	_, err := pcrpolicy.Select(policies, pcrs)
	return nil, report.Errorf(report.NVNoPolicy, "%w; %s", err, measured(pcrs))
}

// lookAgain looks for a policy on partitions that came late, before the fleet is
// asked for one.
func (m *machine) lookAgain(t *trust) {
	parts, _, err := m.lookForParts()
	if err != nil {
		return // what was there before did not fit, either
	}
	p, bad := fitting(m.readPolicies(new(snapshot.Part), parts), t.pcrs, t.slots.PolicyKey)
	if bad != nil {
		return // what is wrong was said at the first look
	}
	t.policy, t.noPolicy = p, nil
	t.prepared = start(m, func() (struct{}, error) { return struct{}{}, t.slots.Prepare(p) })
}

// adopt takes the PCR policy that a member of the fleet sent with a release,
// because none at hand fits. It opens nothing unless the policy key signed it
// for exactly what this machine measured, whoever sent it.
func (t *trust) adopt(rel *kekclient.Released) error {
	if rel.Policy == nil {
		return report.Errorf(t.noPolicy.Code, "key server %s has no PCR policy for this image: %w", rel.Member, t.noPolicy.Err)
	}
	p, err := pcrpolicy.Parse(rel.Policy)
	if err != nil {
		return report.Errorf(report.NVPolicyBad, "from key server %s: %w", rel.Member, err)
	}
	p, bad := fitting([]*pcrpolicy.Policy{p}, t.pcrs, t.slots.PolicyKey)
	if bad != nil {
		return report.Errorf(report.NVPolicyBad, "from key server %s: %w", rel.Member, bad.Err)
	}
	t.policy, t.noPolicy = p, nil
	return nil
}
