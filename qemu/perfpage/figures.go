// Package perfpage keeps the counted figures of docs/performance.md true: what
// can be counted without a clock is counted in the tests of the packages that
// the figures are about, and compared there with what the page says. The page's
// tables are the only place that the figures are kept in.
package perfpage

// Kind is how a figure's numbers are written.
type Kind int

// The kinds.
const (
	Plain    Kind = iota // whole numbers
	Bytes                // MB, two decimals
	Commands             // how many, then their names in order
)

// Section is a section of the page that holds counted figures only.
type Section struct {
	Title   string
	Intro   string
	Columns []string // heads of the table: of the names, then of the values
	Kind    Kind
	Slack   float64 // the part of a figure by which a count may differ from it
	Figures []Figure
}

// Figure is one row of a section's table.
type Figure struct {
	Name   string
	Target int64 // that the first number may not exceed; 0: there is none
}

// The figures, as tests name them.
const (
	Unlock    = "PID 1 → root unlocked"
	Provision = "`seal provision` of a new TPM"
	Seal      = "`seal`: the key made, wrapped, written, read back"

	ServerBare    = "server, without modules"
	ServerCloud   = "server, the cloud kernel's modules"
	ServerGeneric = "server, the generic kernel's modules"
	Keyserver     = "keyserver, the cloud kernel's modules"
	Factory       = "factory, the cloud kernel's modules"

	OpenSlice  = "a slice: signature verified, parsed, validated"
	ReadPart   = "a LANDFALL partition"
	ReadHeader = "a LUKS2 header: both copies checked"
	Release    = "one release: device and key server together, a new TLS 1.3 connection"

	Rack   = "40 devices, one rack"
	Region = "400 devices, ten racks"

	ReleaseSyncs  = "writes made durable (`fdatasync`, `fsync`)"
	ReleaseOpens  = "files opened"
	ReleaseWrites = "writes into files (`write`, `pwrite64`)"
)

// Sections are all sections of counted figures, in the page's order.
func Sections() []Section {
	return []Section{
		{
			Title: "TPM commands",
			Intro: "Counted with swtpm, in the tests of `uinit` and `pkg/provision`; TestBus of `qemu/scenario` compares the first row with the bus of a virtual machine, " +
				"where the key for the links is certified (ReadPublic and a Quote) beside the preparation of the slots and so comes in between. ×n: n times in a row. No count may differ.\n\n" +
				"On a discrete TPM a quote's signature takes about 0.2 s, everything else of a boot some milliseconds.",
			Columns: []string{"from, to", "commands", "in order"}, Kind: Commands,
			Figures: []Figure{{Name: Unlock, Target: 12}, {Name: Provision}, {Name: Seal}},
		},
		{
			Title:   "Images",
			Intro:   "Built by the tests of `image/builder`: initramfs, zstd. A size may differ by 1 %, which is room for a patch release of Go or of Debian's kernel, and for small changes; not for a library that comes or goes.",
			Columns: []string{"image", "compressed", "unpacked"}, Kind: Bytes, Slack: 0.01,
			Figures: []Figure{
				{Name: ServerBare, Target: 2_600_000}, {Name: ServerCloud, Target: 3_200_000}, {Name: ServerGeneric, Target: 7_500_000},
				{Name: Keyserver}, {Name: Factory},
			},
		},
		{
			Title:   "Allocations",
			Intro:   "Counted by the tests of `pkg/snapshot`, `pkg/luks2` and `pkg/kekserver`, without the race detector. A count may differ by 5 %: Go keeps pools, which a collection of garbage empties.",
			Columns: []string{"of what", "allocations"}, Slack: 0.05,
			Figures: []Figure{{Name: OpenSlice}, {Name: ReadPart}, {Name: ReadHeader}, {Name: Release}},
		},
		{
			Title:   "System calls",
			Intro:   "Of `kekd` for one release, the audit line included, seen by strace in the tests of `pkg/kekserver`. No count may differ.",
			Columns: []string{"for what", "calls"},
			Figures: []Figure{{Name: ReleaseSyncs}, {Name: ReleaseOpens}, {Name: ReleaseWrites}},
		},
		{
			Title: "Links",
			Intro: "Counted by TestRegion of `qemu/fabric`, in virtual time: racks of 40, each with a DHCP device, all powered on within one second, 1 % of the datagrams lost. " +
				"A server has three links, a DHCP device one to each server of its rack. Ready: it and all its neighbors have proved their links. No count may differ.",
			Columns: []string{"region", "all ready after, virtual ms", "datagrams sent", "most within 100 ms by a server", "by a DHCP device"},
			Figures: []Figure{{Name: Rack}, {Name: Region}},
		},
	}
}

// find is the section of a figure, and the figure.
func find(name string) (Section, Figure, bool) {
	for _, s := range Sections() {
		for _, f := range s.Figures {
			if f.Name == name {
				return s, f, true
			}
		}
	}
	return Section{}, Figure{}, false
}
