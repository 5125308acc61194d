package provision

import (
	"errors"
	"fmt"
	"strings"

	"github.com/landfall-project/landfall/pkg/keyblob"
	"github.com/landfall-project/landfall/pkg/nvslot"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/tpm"
)

// Problem gives an error of the TPM or its slots, met in the factory, its code,
// what only the TPM knows of it, and the repair. nil stays nil, and what has a
// code already keeps it.
func Problem(t *tpm.TPM, err error) error {
	var has *report.Problem
	if err == nil || errors.As(err, &has) {
		return err
	}
	err = t.Explain(err)
	p := report.Errorf(code(err), "%w", err)
	p.Do = repair(err)
	return p
}

// code sorts an error. The causes come before what they lead to: a slot whose
// TPM is gone is no damaged slot.
func code(err error) report.Code {
	for _, c := range []struct {
		is   error
		code report.Code
	}{
		{tpm.ErrBanks, report.TPMBanks},
		{tpm.ErrLockout, report.TPMLockout},
		{tpm.ErrNVFull, report.NVFull},
		{tpm.ErrOtherTPM, report.TPMOther},
		{nvslot.ErrForeign, report.NVForeign},
		{tpm.ErrNVLocked, report.NVLocked},
		{tpm.ErrNVBlank, report.NVMissing},
		{tpm.ErrCleared, report.TPMCleared},
		{tpm.ErrPolicy, report.NVPolicyBad},
		{keyblob.ErrBlank, report.NVMissing},
		{keyblob.ErrCorrupt, report.NVDamaged},
		{keyblob.ErrVersion, report.NVDamaged},
		{keyblob.ErrMismatch, report.NVForeign},
		{keyblob.ErrAuth, report.NVForeign},
	} {
		if errors.Is(err, c.is) {
			return c.code
		}
	}
	return report.TPMFailed
}

// repair is what to do where the code's own advice is not about this machine.
func repair(err error) string {
	var lockout *tpm.LockoutError
	var full *tpm.FullError
	switch {
	case errors.Is(err, ErrInUse):
		return "write nothing to these disks: look whether this TPM was cleared or the disks are another device's; restore from backup where neither can be undone"
	case errors.As(err, &lockout):
		return lockout.Ends() + "; then start seal again"
	case errors.As(err, &full):
		return makeRoom(full)
	case errors.Is(err, tpm.ErrAuth), errors.Is(err, tpm.ErrState), errors.Is(err, nvslot.ErrForeign):
		return "clear the TPM in the firmware's setup, and start seal again; on a device that is sealed already, that loses its disks"
	}
	return ""
}

// makeRoom names the commands that would free NV memory; nobody runs them here.
func makeRoom(full *tpm.FullError) string {
	const most = 4
	var commands []string
	for _, n := range full.Removable() {
		commands = append(commands, fmt.Sprintf("`tpm2_nvundefine -C o %#x`", n.Index))
	}
	for _, h := range full.Evictable() {
		commands = append(commands, fmt.Sprintf("`tpm2_evictcontrol -C o -c %#x`", h))
	}
	if len(commands) == 0 {
		return "none of them can be removed by an owner: clear the TPM in the firmware's setup, or replace it"
	}
	more := ""
	if len(commands) > most {
		commands, more = commands[:most], " and so on"
	}
	return "ask who made them, remove what nobody needs (" + strings.Join(commands, ", ") + more +
		"), or clear the TPM in the firmware's setup; then start seal again"
}
