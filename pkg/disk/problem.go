package disk

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/landfall-project/landfall/pkg/luks2"
	"github.com/landfall-project/landfall/pkg/report"
)

// refusals makes one problem of all reasons that speak against a plan.
func refusals(errs []error) error {
	switch len(errs) {
	case 0:
		return nil
	case 1:
		var one *RefusedError
		if errors.As(errs[0], &one) {
			return &report.Problem{Code: report.FactoryDisk, What: errs[0].Error(), Do: one.Do, Err: errs[0]}
		}
	}
	// Each line has its own repair; the code's says so.
	all := errors.Join(errs...)
	return &report.Problem{Code: report.FactoryDisk, What: all.Error(), Err: all}
}

// problem gives an error of making a volume its code, other than what else it
// may be: a code that it has already, a disk's error, a key's.
func problem(job *Job, other report.Code, err error) error {
	var known *report.Problem
	var refused *RefusedError
	var header *luks2.HeaderError
	switch {
	case err == nil, errors.As(err, &known), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.As(err, &refused):
		return refusals([]error{err})
	case errors.Is(err, unix.EIO):
		return diskError(job, "", err)
	case errors.Is(err, ErrOtherKey), errors.Is(err, luks2.ErrNoKeyslot), errors.Is(err, luks2.ErrBudget):
		other = report.DiskKey
	case errors.Is(err, luks2.ErrMAC):
		other = report.DiskMAC
	case errors.As(err, &header):
		other = report.DiskHeader
	}
	var tool *toolError
	if errors.As(err, &tool) {
		if place, ok := diskTrouble(tool.said); ok {
			return diskError(job, place, err)
		}
	}
	return report.Errorf(other, "volume %s on %s: %w", job.Spec.Name, job.Device.Path, err)
}

// diskError names the disk as the one who replaces it finds it.
func diskError(job *Job, place string, err error) error {
	name := job.Device.Path
	if job.Device.Serial != "" {
		name += " (serial " + job.Device.Serial + ")"
	}
	if place != "" {
		place = " at byte " + place
	}
	return report.Errorf(report.FactoryDiskError, "disk %s failed%s while volume %s was made: %w", name, place, job.Spec.Name, err)
}

// diskTrouble recognizes what cryptsetup and the filesystem's programs say of a
// disk that does not read or write, and the place if they tell it.
func diskTrouble(said string) (place string, ok bool) {
	if m := regexp.MustCompile(`hotzone area starting at (\d+)`).FindStringSubmatch(said); m != nil {
		return m[1], true
	}
	for _, s := range []string{"Input/output error", "IO error", "I/O error", "resulted in short read",
		"Failed to sync data", "Failed to place new header", "Cannot wipe header", "Cannot wipe device",
		"Cannot write device", "Cannot read device", "Device write error", "Device read error"} {
		if strings.Contains(said, s) {
			return "", true
		}
	}
	return "", false
}

// place says where on a disk an access failed.
func place(what string, offset int64, err error) error {
	return fmt.Errorf("%s at byte %d: %w", what, offset, err)
}
