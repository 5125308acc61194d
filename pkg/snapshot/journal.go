package snapshot

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"time"

	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/strictjson"
)

// Records of the journal are of one sector each: magic, length of the JSON text
// (4 bytes, little-endian), the text, CRC-32C of all before it.
const (
	journalMagic   = "LFJ1"
	journalRecords = journalSize / sector
	maxJournalText = sector - 12
)

// JournalEntry says what seal did. It is for people and for results, and is
// believed by one decision only, which costs a restart at most: whether a sealed
// machine was sent into its server image already. The state of a device is in its
// disks, its TPM and at the fleet.
type JournalEntry struct {
	Seq     uint64    `json:"seq"`     // from 1
	Attempt int       `json:"attempt"` // the how-manieth run of seal
	Time    time.Time `json:"time"`    // by the machine's clock
	Phase   string    `json:"phase"`   // of report.Factory
	What    string    `json:"what"`    // printable; shortened to fit
}

// ErrNoJournal: the partition has no room for one.
var ErrNoJournal = errors.New("the LANDFALL partition has no room for a journal")

// Journal is the last 64 KiB of a LANDFALL partition: a ring of records.
type Journal struct {
	dev  PartDevice
	at   int64
	last JournalEntry
}

// OpenJournal finds the journal of a partition of size bytes, and returns its
// entries, the oldest first. What is no record, such as one torn by a power cut,
// is passed over.
func OpenJournal(dev PartDevice, size int64) (*Journal, []JournalEntry, error) {
	at := size - size%sector - journalSize
	end := int64(sector)
	if entries, err := readEntries(dev, size); err == nil {
		for _, e := range entries {
			end = max(end, e.Offset+int64(len(e.Data))+sector)
		}
	}
	if at < end {
		return nil, nil, ErrNoJournal
	}
	entries, err := readJournal(dev, at)
	if err != nil {
		return nil, nil, err
	}
	j := &Journal{dev: dev, at: at}
	if len(entries) > 0 {
		j.last = entries[len(entries)-1]
	}
	return j, entries, nil
}

func readJournal(dev io.ReaderAt, at int64) ([]JournalEntry, error) {
	b := make([]byte, journalSize)
	if _, err := dev.ReadAt(b, at); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	var entries []JournalEntry
	for i := range journalRecords {
		if e, ok := parseRecord(b[i*sector : (i+1)*sector]); ok && e.Seq%journalRecords == uint64(i) {
			entries = append(entries, *e)
		}
	}
	slices.SortFunc(entries, func(a, b JournalEntry) int { return cmp.Compare(a.Seq, b.Seq) })
	return entries, nil
}

// parseRecord reads one sector.
func parseRecord(b []byte) (*JournalEntry, bool) {
	n := binary.LittleEndian.Uint32(b[4:])
	if string(b[:4]) != journalMagic || n > maxJournalText {
		return nil, false
	}
	if binary.LittleEndian.Uint32(b[8+n:]) != crc32.Checksum(b[:8+n], crc32.MakeTable(crc32.Castagnoli)) {
		return nil, false
	}
	e := new(JournalEntry)
	// A checksum keeps nobody out: what was put there must not draw on a console.
	if strictjson.Decode(b[8:8+n], maxJournalText, e) != nil || e.Seq == 0 || e.Seq > 1<<53 || e.Attempt < 0 || e.Attempt > 1<<30 ||
		!harmless(e.Phase, 32) || !harmless(e.What, maxJournalText) {
		return nil, false
	}
	return e, true
}

// record writes one sector, with What shortened so that it fits.
func record(e JournalEntry) ([]byte, error) {
	e.What = printable.ASCII(e.What)
	for n := len(e.What); ; n = n * 3 / 4 {
		e.What = e.What[:n]
		text, err := json.Marshal(&e)
		if err != nil {
			return nil, fmt.Errorf("journal: %w", err)
		}
		if len(text) > maxJournalText {
			if n == 0 {
				return nil, fmt.Errorf("journal: record of %d bytes", len(text))
			}
			continue
		}
		b := append([]byte(journalMagic), binary.LittleEndian.AppendUint32(nil, uint32(len(text)))...)
		b = append(b, text...)
		b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
		return append(b, make([]byte, sector-len(b))...), nil
	}
}

// Last returns the newest entry; one with Seq 0 when there is none.
func (j *Journal) Last() JournalEntry { return j.last }

// Append writes an entry, whose Seq it sets, and syncs. Only the record that is
// oldest is overwritten.
func (j *Journal) Append(e JournalEntry) error {
	e.Seq = j.last.Seq + 1
	b, err := record(e)
	if err != nil {
		return err
	}
	if err := writeSync(j.dev, chunk{j.at + int64(e.Seq%journalRecords)*sector, b}); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	j.last = e
	return nil
}
