package report

func hardware() []Info {
	return []Info{
		{HWPanic, "HWPanic", "the boot program crashed",
			"A fault of the image, or of memory.",
			"note the lines above this one; the machine reboots by itself. If it comes back, boot the previous image and report it", Goes},
		{HWMounts, "HWMounts", "kernel file systems missing",
			"The image's kernel lacks devtmpfs, proc or sysfs.",
			"boot an image that landfall built", Fixed},
		{HWModules, "HWModules", "a driver does not load",
			"The module is damaged, or belongs to another kernel.",
			"if a disk or port is missing below, boot an image whose module list has this hardware", Warned},
		{HWImage, "HWImage", "the image is incomplete",
			"/etc/landfall holds no region key, policy key or role, so nothing can be verified.",
			"rebuild the image with the region's public keys", Fixed},
		{HWFactory, "HWFactory", "sealing did not finish",
			"The seal command ended with an error, shown above.",
			"follow the seal command's own message; it resumes where it stopped", Goes},
		{HWLab, "HWLab", "UNMEASURED LAB BOOT",
			"The firmware measured neither kernel nor initrd, so this machine proves nothing about itself.",
			"never ship such a machine: boot through UEFI firmware", Warned},
		{FleetDaemon, "FleetDaemon", "key server of this device does not run",
			"The program kekd ended, or the partition LANDFALL-MEMBER that holds its store is missing or damaged. Its last lines are shown.",
			"read those lines; seat the member's disk, or restore it from the store's backup. The region's other key servers answer meanwhile", Goes},
	}
}

func partitions() []Info {
	return []Info{
		{SliceNoPartition, "SliceNoPartition", "no LANDFALL partition",
			"The boot volume is missing, or its partition is not named LANDFALL.",
			"check the boot disk and its cable; write the slice again with `snapshot part write --onto DISK`", Goes},
		{SlicePartition, "SlicePartition", "LANDFALL partition unreadable",
			"The partition's content is damaged, or two partitions carry slices of two devices (in the factory: two carry a slice or a station document).",
			"write it again with `snapshot part write --onto DISK --force`; remove the disk with the other device's partition", Goes},
		{SliceMissing, "SliceMissing", "no slice on the LANDFALL partition",
			"The device was provisioned, but its signed slice was never written.",
			"write the slice with `snapshot part write --onto DISK`", Goes},
		{SliceSignature, "SliceSignature", "slice not signed by this region",
			"Its signature is missing or wrong: edited, or from another region.",
			"write the slice that the region root signed; treat an edited one as an attack", Goes},
		{SliceInvalid, "SliceInvalid", "slice contradicts itself",
			"It was signed, but names something twice, or something that cannot be.",
			"correct it (`snapshot verify` lists all faults), sign and write it again", Goes},
		{SliceOther, "SliceOther", "slice of another device",
			"The slice names another TPM than this machine's.",
			"put the boot volume back into its own machine; after a TPM or board replacement enrol again", Goes},
		{SliceRole, "SliceRole", "slice of another role than the image",
			"A server's image was booted with the slice of a key server or DHCP device, or the reverse.",
			"boot the image that belongs to this device (its roles are in the slice), or write this device's slice with `snapshot part write --onto DISK --force`", Goes},
		{SliceAmendment, "SliceAmendment", "amended slice refused",
			"The fleet has a newer slice for this device, and it is not acceptable: not signed by this region, not newer, for another TPM, or contradicting itself.",
			"correct the amendment (`snapshot verify` lists all faults), sign it, and give it to the fleet (`kekctl slice add`)", Goes},
	}
}

func tpms() []Info {
	return []Info{
		{TPMMissing, "TPMMissing", "no TPM",
			"Switched off in the firmware, not plugged in, or without a driver in this image.",
			"switch on the TPM 2.0 in the firmware's setup; check the module's seat", Goes},
		{TPMCleared, "TPMCleared", "TPM was cleared",
			"The keys made in the factory are gone, though the chip is the same: cleared in the firmware's setup, or by the firmware at a request of the production system (/sys/class/tpm/tpm0/ppi/request needs root, no TPM authorization). No data was disclosed by it; look who was root there.",
			"the wrapped key is lost: open the disks with the recovery key (`kekctl recovery`), or restore from backup; provision and seal again", Fixed},
		{TPMOther, "TPMOther", "another TPM",
			"The chip or the board was replaced.",
			"put the old TPM or board back; without it, open the disks with the recovery key (`kekctl recovery`), or restore from backup", Fixed},
		{TPMLockout, "TPMLockout", "TPM locked out",
			"Too many failed authorizations (dictionary-attack lockout).",
			"leave the machine powered: the TPM recovers by itself; or reset it with the escrowed lockout auth", Goes},
		{TPMFailed, "TPMFailed", "TPM does not work",
			"It answers with errors, or not at all.",
			"power-cycle the machine (a reboot does not reset every TPM); replace the TPM if it comes back", Goes},
		{TPMBanks, "TPMBanks", "TPM keeps no SHA-256 measurements",
			"Its SHA-256 bank of PCRs is switched off, or it knows SHA-1 only: no quote or policy of this chip says anything.",
			"switch the SHA-256 PCR bank on in the firmware's setup and power-cycle; a TPM that has none must be replaced", Fixed},
		{TPMNoCert, "TPMNoCert", "TPM without a certificate",
			"The chip carries no EK certificate, none of a maker that the fleet trusts or none that counts (the reason is named), or it is not in the list of delivered TPMs; and this region demands one.",
			"have an operator compare the EK name shown here and approve it (a region of `kekctl init --ek-cert record`), or replace the TPM", Fixed},
	}
}

func nvs() []Info {
	return []Info{
		{NVMissing, "NVMissing", "NV slot missing",
			"The device was never sealed, or the TPM was cleared.",
			"seal the device in the factory image", Fixed},
		{NVLocked, "NVLocked", "NV slot locked until power-off",
			"An earlier program of this power-on has locked it: a reboot without TPM reset.",
			"power-cycle the machine", Fixed},
		{NVDamaged, "NVDamaged", "wrapped key damaged",
			"The record's checksum is wrong: worn or interrupted NV memory.",
			"power-cycle once; if it stays, open the disks with the recovery key (`kekctl recovery`), or restore from backup; seal again", Fixed},
		{NVForeign, "NVForeign", "wrapped key refused",
			"It does not open under the released KEK: another device's record, an old generation, or an attack.",
			"compare `kekctl device show` with the generation on screen; treat it as an attack until explained, and never overwrite the slot unseen", Fixed},
		{NVNoPolicy, "NVNoPolicy", "image not in any signed policy",
			"The measured values (image, kernel, command line, firmware) match no PCR policy on any LANDFALL partition, and the fleet has none for this image.",
			"boot the released image unchanged, or give the fleet the policy signed for it (`kekctl manifest add MANIFEST --policy POLICY`)", Goes},
		{NVPolicyBad, "NVPolicyBad", "TPM refuses the policy",
			"The policy's signature is wrong, the fleet sent one that is for other values, or the measurements changed since they were read.",
			"make the policy anew (`imagectl sign`) and give it to whoever had this one: the fleet, or the LANDFALL partition; reboot", Goes},
		{NVFull, "NVFull", "TPM has no room",
			"Other software keeps NV indices.",
			"remove them (tpm2_nvundefine) or clear the TPM, then provision again", Fixed},
	}
}

func networks() []Info {
	return []Info{
		{NetNoInterface, "NetNoInterface", "network port missing",
			"No port of this machine has a MAC address of the slice: a dead or replaced NIC, or no driver.",
			"seat or replace the NIC; a new MAC address needs an amended slice", Goes},
		{NetNoCarrier, "NetNoCarrier", "no link on any port",
			"Cable out, switch off, or port disabled.",
			"plug in the cable; look at the switch port", Goes},
		{NetNoLease, "NetNoLease", "no DHCP answer",
			"The DHCP device is off or not ready, or the cable leads elsewhere.",
			"bring up the region's DHCP device first", Goes},
		{NetWrongLease, "NetWrongLease", "wrong lease",
			"A DHCP server answers, but not with the slice's address: it offers another one, refuses what it offered (NAK, NoAddrsAvail), or sends what cannot be taken; the line says which. A cable in the wrong network, a rogue server, or one that is set up wrongly.",
			"find the server named here; check the cable", Goes},
		{NetApply, "NetApply", "address cannot be set",
			"The kernel refused the address or the route.",
			"report it, with the text shown", Goes},
		{NetQuarantine, "NetQuarantine", "unknown NIC in place of the slice's",
			"The NIC that the slice names is gone, and another one is there: replaced, or in the wrong machine. It has a quarantine lease, which reaches the key servers only, and no key comes over it.",
			"tell the operator this device, the missing port and the new MAC address, for `snapshot amend --mac DEVICE/PORT=MAC`, a signature and `kekctl slice add`; or put the old NIC back", Goes},
	}
}
