package audit

// Event names what a line tells. An event that its reader does not know is no
// reason to refuse a log.
type Event string

// EventRecovered names the line that follows bytes that are no lines, as a power
// cut leaves them; its Digest is over those bytes.
const EventRecovered Event = "recovered"

// The member and its store.
const (
	EventStart    Event = "start"    // it serves from now on
	EventSettled  Event = "settled"  // in front of lines of a change of which the log did not know
	EventRestored Event = "restored" // a backup took the store's place
	EventBackup   Event = "backup"   // an agent took one
)

// What changed, by an agent's command. Each has its Agent.
const (
	EventDeviceAdded       Event = "device-added"
	EventDeviceApproved    Event = "device-approved"
	EventDeviceRemoved     Event = "device-removed"
	EventSuspend           Event = "suspend"
	EventResume            Event = "resume"
	EventSlice             Event = "slice"    // recorded
	EventManifest          Event = "manifest" // an image is accepted
	EventRevoke            Event = "revoke"
	EventMinimum           Event = "minimum" // Detail is "role ROLE: VERSION[, before VERSION]"
	EventLinkDemand        Event = "link-demand"
	EventFirmwareDemand    Event = "firmware-demand"
	EventFirmwareAccepted  Event = "firmware-accepted"
	EventRegion            Event = "region" // State is the new one
	EventRecoveryRequested Event = "recovery-requested"
	EventRecoveryApproved  Event = "recovery-approved"
	EventRecoveryRead      Event = "recovery-read"
	EventRecoveryRefused   Event = "recovery-refused"
)

// What a device got, or changed by what it said.
const (
	EventEnrol            Event = "enrol" // Detail is "ek NAME ak NAME"
	EventRelease          Event = "release"
	EventKEK              Event = "kek" // an existing one, while it is sealed
	EventKEKCreated       Event = "kek-created"
	EventAuths            Event = "auths"
	EventRecovery         Event = "recovery"
	EventRecoveryEscrowed Event = "recovery-escrowed"
	EventSealed           Event = "sealed"
	EventAccepted         Event = "accepted"
	EventAcceptedNoMore   Event = "accepted-no-more"
	EventCapture          Event = "capture"
	EventSliceSent        Event = "slice-sent"
)

// What a device said, or was refused.
const (
	EventRefuse   Event = "refuse"
	EventEvidence Event = "evidence" // how its image differs
	EventReport   Event = "report"   // of its boot
	EventLinks    Event = "links"
	EventProgress Event = "progress" // of seal; State is the phase and its result
)
