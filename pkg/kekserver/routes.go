package kekserver

import (
	"slices"

	"github.com/landfall-project/landfall/pkg/fleet"
	"github.com/landfall-project/landfall/pkg/kekproto"
)

// routes is the whole operator plane.
func (s *Server) routes() []route {
	return slices.Concat(s.reads(), s.deviceCommands(), s.regionCommands(), s.imageCommands(), s.recoveryCommands())
}

// reads change nothing. Each but the metrics is for every role but one.
func (s *Server) reads() []route {
	m, read := s.fleet, []fleet.Role{fleet.RoleOperator, fleet.RoleAgent, fleet.RoleViewer}
	return []route{
		{"GET", "/v1/status", read, s.status},
		{"GET", "/v1/devices", read, s.devices},
		{"GET", "/v1/devices/{device}", read, func(c *call) (any, error) { return m.Device(c.Context(), c.PathValue("device")) }},
		{"GET", "/v1/devices/{device}/evidence", read, s.keptEvidence},
		{"GET", "/v1/slices/{device}", read, s.slice},
		{"GET", "/v1/manifests", read, s.images},
		{"GET", "/v1/links", read, s.links},
		{"GET", "/v1/recovery", read, func(c *call) (any, error) { return m.Recoveries(c.Context()) }},
		{"GET", "/v1/audit", read, s.audit},
		{"GET", "/metrics", append([]fleet.Role{fleet.RoleMetrics}, read...), s.showMetrics},
	}
}

// operator alone changes most things.
func operator() []fleet.Role { return []fleet.Role{fleet.RoleOperator} }

func (s *Server) deviceCommands() []route {
	m, write := s.fleet, operator()
	return []route{
		{"POST", "/v1/devices", write, s.addDevice},
		{"POST", "/v1/devices/{device}/approve", write, do(m, func(c *call, in kekproto.Approval) fleet.Command[fleet.None] {
			return fleet.Approve{Device: c.PathValue("device"), EKName: in.EKName}
		})},
		{"POST", "/v1/devices/{device}/remove", write, s.removeDevice},
		{"POST", "/v1/devices/{device}/suspend", write, do(m, func(c *call, in kekproto.Reason) fleet.Command[fleet.None] {
			return fleet.Suspend{Device: c.PathValue("device"), Reason: in.Reason}
		})},
		{"POST", "/v1/devices/{device}/resume", write, do(m, func(c *call, _ nothing) fleet.Command[fleet.None] {
			return fleet.Resume{Device: c.PathValue("device")}
		})},
		{"POST", "/v1/devices/{device}/firmware", write, do(m, func(c *call, in kekproto.AcceptFirmware) fleet.Command[fleet.None] {
			return fleet.AcceptFirmware{Device: c.PathValue("device"), Firmware: in.Firmware}
		})},
		{"POST", "/v1/slices", write, do(m, func(_ *call, in kekproto.Document) fleet.Command[fleet.None] {
			return &fleet.RecordSlice{Note: in.Note}
		})},
	}
}

func (s *Server) regionCommands() []route {
	m, write := s.fleet, operator()
	return []route{
		{"POST", "/v1/region/ship", write, then(s.status, do(m, func(*call, nothing) fleet.Command[fleet.None] { return fleet.Ship{} }))},
		{"POST", "/v1/region/received", fleet.TwoOf(), then(s.status, do(m, func(_ *call, in kekproto.Bundle) fleet.Command[fleet.None] {
			return fleet.Receive{Notes: in.Notes}
		}))},
		{"POST", "/v1/region/live", write, then(s.status, do(m, func(*call, nothing) fleet.Command[fleet.None] { return fleet.GoLive{} }))},
		{"POST", "/v1/region/links", write, then(s.status, do(m, func(_ *call, in kekproto.SetLinkDemand) fleet.Command[fleet.None] {
			return fleet.DemandLinks{Demand: in.Demand}
		}))},
		{"POST", "/v1/region/firmware", write, then(s.status, do(m, func(_ *call, in kekproto.SetFirmwareDemand) fleet.Command[fleet.None] {
			return fleet.DemandFirmware{Demand: in.Demand}
		}))},
		{"GET", "/v1/backup", write, s.backup},
	}
}

func (s *Server) imageCommands() []route {
	m, write := s.fleet, operator()
	return []route{
		{"POST", "/v1/manifests", write, do(m, func(_ *call, in kekproto.NewManifest) fleet.Command[fleet.None] {
			return fleet.AddManifest{Note: in.Note, Policy: in.Policy}
		})},
		{"POST", "/v1/manifests/revoke", write, then(s.images, do(m, func(_ *call, in kekproto.Revocation) fleet.Command[fleet.None] {
			return fleet.RevokeManifests{Revocation: in}
		}))},
		{"POST", "/v1/manifests/minimum", write, then(s.images, do(m, func(_ *call, in kekproto.Minimum) fleet.Command[fleet.None] {
			return fleet.SetMinimum{Minimum: in}
		}))},
	}
}

// recoveryCommands take two agents; what they are refused is recorded.
func (s *Server) recoveryCommands() []route {
	m, two := s.fleet, fleet.TwoOf()
	return []route{
		{"POST", "/v1/devices/{device}/recovery", two, s.recovery(do(m, func(c *call, in kekproto.NewRecovery) fleet.Command[*kekproto.RecoveryRequest] {
			return fleet.RequestRecovery{Device: c.PathValue("device"), Reason: in.Reason}
		}))},
		{"POST", "/v1/devices/{device}/recovery/{id}/approve", two, s.recovery(do(m, func(c *call, _ nothing) fleet.Command[*kekproto.RecoveryRequest] {
			return fleet.ApproveRecovery{Device: c.PathValue("device"), ID: c.PathValue("id")}
		}))},
		{"POST", "/v1/devices/{device}/recovery/{id}/read", two, s.recovery(s.readRecovery)},
	}
}
