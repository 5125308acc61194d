package report

// Info is what the runbook says about a code.
type Info struct {
	Code  Code
	Name  string // the Go identifier, so that a test can tie use to table
	Title string // a few words, beside the code on every console
	Why   string // the causes, the likeliest first
	Do    string // the repair, for the person in front of the rack
	Wait  Wait
}

// Wait says what the machine does meanwhile.
type Wait string

// What a machine does after it has shown a problem.
const (
	Goes   Wait = "goes on by itself" // retries; continues when the cause is gone
	Fixed  Wait = "needs a repair"    // retries, but time alone repairs nothing
	Warned Wait = "went on"           // a warning; nothing waits
)

// Hardware and image.
const (
	HWPanic     Code = "LF-HW-01"
	HWMounts    Code = "LF-HW-02"
	HWModules   Code = "LF-HW-03"
	HWImage     Code = "LF-HW-04"
	HWFactory   Code = "LF-HW-05"
	HWLab       Code = "LF-HW-06"
	FleetDaemon Code = "LF-HW-07"
)

// Slice and LANDFALL partition.
const (
	SliceNoPartition Code = "LF-SLICE-01"
	SlicePartition   Code = "LF-SLICE-02"
	SliceMissing     Code = "LF-SLICE-03"
	SliceSignature   Code = "LF-SLICE-04"
	SliceInvalid     Code = "LF-SLICE-05"
	SliceOther       Code = "LF-SLICE-06"
	SliceRole        Code = "LF-SLICE-07"
	SliceAmendment   Code = "LF-SLICE-08"
)

// TPM.
const (
	TPMMissing Code = "LF-TPM-01"
	TPMCleared Code = "LF-TPM-02"
	TPMOther   Code = "LF-TPM-03"
	TPMLockout Code = "LF-TPM-04"
	TPMFailed  Code = "LF-TPM-05"
	TPMBanks   Code = "LF-TPM-06"
	TPMNoCert  Code = "LF-TPM-07"
)

// NV slots, their policy and the wrapped key in them.
const (
	NVMissing   Code = "LF-NV-01"
	NVLocked    Code = "LF-NV-02"
	NVDamaged   Code = "LF-NV-03"
	NVForeign   Code = "LF-NV-04"
	NVNoPolicy  Code = "LF-NV-05"
	NVPolicyBad Code = "LF-NV-06"
	NVFull      Code = "LF-NV-07"
)

// Network.
const (
	NetNoInterface Code = "LF-NET-01"
	NetNoCarrier   Code = "LF-NET-02"
	NetNoLease     Code = "LF-NET-03"
	NetWrongLease  Code = "LF-NET-04"
	NetApply       Code = "LF-NET-05"
	NetQuarantine  Code = "LF-NET-06"
)

// Links to neighbors.
const (
	LinkSilent       Code = "LF-LINK-01"
	LinkNoCarrier    Code = "LF-LINK-02"
	LinkWrongPort    Code = "LF-LINK-03"
	LinkWrongDevice  Code = "LF-LINK-04"
	LinkDisagrees    Code = "LF-LINK-05"
	LinkBadSignature Code = "LF-LINK-06"
	LinkForeign      Code = "LF-LINK-07"
	LinkLLDP         Code = "LF-LINK-08"
	LinkDemand       Code = "LF-LINK-09"
	LinkConfig       Code = "LF-LINK-10"
	LinkDHCPWaits    Code = "LF-LINK-11"
)

// Key release; most of them come from the fleet.
const (
	KeyUnreachable Code = "LF-KEY-01"
	KeyCertificate Code = "LF-KEY-02"
	KeyUnknown     Code = "LF-KEY-03"
	KeySuspended   Code = "LF-KEY-04"
	KeyState       Code = "LF-KEY-05"
	KeyImage       Code = "LF-KEY-06"
	KeySliceOld    Code = "LF-KEY-07"
	KeyQuote       Code = "LF-KEY-08"
	KeyProtocol    Code = "LF-KEY-09"
	KeySliceNew    Code = "LF-KEY-10"
	KeyEnroll      Code = "LF-KEY-11"
	KeyOpen        Code = "LF-KEY-12"
	KeyFleet       Code = "LF-KEY-13"
	KeyFirmware    Code = "LF-KEY-14"
)

// Disks.
const (
	DiskMissing   Code = "LF-DISK-01"
	DiskHeader    Code = "LF-DISK-02"
	DiskMAC       Code = "LF-DISK-03"
	DiskKey       Code = "LF-DISK-04"
	DiskUnsealed  Code = "LF-DISK-05"
	DiskDuplicate Code = "LF-DISK-06"
	DiskMap       Code = "LF-DISK-07"
	DiskOptional  Code = "LF-DISK-08"
	DiskMount     Code = "LF-DISK-09"
)

// The factory: what seal refuses, resumes or waits for.
const (
	FactoryStation    Code = "LF-FACT-01"
	FactoryPlan       Code = "LF-FACT-02"
	FactoryIdentity   Code = "LF-FACT-03"
	FactoryDisk       Code = "LF-FACT-04"
	FactoryDiskError  Code = "LF-FACT-05"
	FactoryImage      Code = "LF-FACT-06"
	FactoryAcceptance Code = "LF-FACT-07"
	FactoryLeaks      Code = "LF-FACT-08"
	FactoryRecovery   Code = "LF-FACT-09"
	FactoryTool       Code = "LF-FACT-10"
)

// Boot entry, handover and the last steps.
const (
	BootNoEntry  Code = "LF-BOOT-01"
	BootKernel   Code = "LF-BOOT-02"
	BootInitrd   Code = "LF-BOOT-03"
	BootKexec    Code = "LF-BOOT-04"
	BootLock     Code = "LF-BOOT-05"
	BootUnmount  Code = "LF-BOOT-06"
	BootWipe     Code = "LF-BOOT-07"
	BootUnsigned Code = "LF-BOOT-08"
	BootChanged  Code = "LF-BOOT-09"
	BootPassed   Code = "LF-BOOT-10"
)

// Lookup returns what is known about a code.
func Lookup(code Code) (Info, bool) {
	for _, area := range [][]Info{hardware(), partitions(), tpms(), nvs(), networks(), links(), keys(), disks(), factories(), boots()} {
		for _, info := range area {
			if info.Code == code {
				return info, true
			}
		}
	}
	return Info{}, false
}

// Codes returns the whole table, in the order of the runbook.
func Codes() []Info {
	var all []Info
	for _, area := range [][]Info{hardware(), partitions(), tpms(), nvs(), networks(), links(), keys(), disks(), factories(), boots()} {
		all = append(all, area...)
	}
	return all
}

// Repair is what to do: the problem's own words, else the code's.
func (p *Problem) Repair() string {
	if p.Do != "" {
		return p.Do
	}
	info, _ := Lookup(p.Code)
	return info.Do
}
