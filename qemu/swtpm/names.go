package swtpm

import (
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// CommandName names a command code as TPM 2.0 Part 2 §6.5.2 does, without its
// prefix TPM_CC_.
func CommandName(cc tpm2.TPMCC) string {
	for _, n := range commandNames() {
		if n.cc == cc {
			return n.name
		}
	}
	return fmt.Sprintf("CC_%#x", uint32(cc))
}

type commandName struct {
	cc   tpm2.TPMCC
	name string
}

// commandNames lists what firmware, the kernel, Landfall and tpm2-tools send.
func commandNames() []commandName {
	return append(managementNames(), useNames()...)
}

// managementNames are the commands of hierarchies, NV and PCRs: codes up to
// TPM_CC_ActivateCredential.
func managementNames() []commandName {
	return []commandName{
		{tpm2.TPMCCEvictControl, "EvictControl"},
		{tpm2.TPMCCHierarchyControl, "HierarchyControl"},
		{tpm2.TPMCCNVUndefineSpace, "NV_UndefineSpace"},
		{tpm2.TPMCCNVUndefineSpaceSpecial, "NV_UndefineSpaceSpecial"},
		{tpm2.TPMCCClear, "Clear"},
		{tpm2.TPMCCClearControl, "ClearControl"},
		{tpm2.TPMCCHierarchyChanegAuth, "HierarchyChangeAuth"},
		{tpm2.TPMCCNVDefineSpace, "NV_DefineSpace"},
		{tpm2.TPMCCPCRAllocate, "PCR_Allocate"},
		{tpm2.TPMCCPCRSetAuthPolicy, "PCR_SetAuthPolicy"},
		{tpm2.TPMCCSetPrimaryPolicy, "SetPrimaryPolicy"},
		{tpm2.TPMCCCreatePrimary, "CreatePrimary"},
		{tpm2.TPMCCNVIncrement, "NV_Increment"},
		{tpm2.TPMCCNVSetBits, "NV_SetBits"},
		{tpm2.TPMCCNVExtend, "NV_Extend"},
		{tpm2.TPMCCNVWrite, "NV_Write"},
		{tpm2.TPMCCNVWriteLock, "NV_WriteLock"},
		{tpm2.TPMCCDictionaryAttackLockReset, "DictionaryAttackLockReset"},
		{tpm2.TPMCCDictionaryAttackParameters, "DictionaryAttackParameters"},
		{tpm2.TPMCCPCREvent, "PCR_Event"},
		{tpm2.TPMCCPCRReset, "PCR_Reset"},
		{tpm2.TPMCCSequenceComplete, "SequenceComplete"},
		{tpm2.TPMCCIncrementalSelfTest, "IncrementalSelfTest"},
		{tpm2.TPMCCSelfTest, "SelfTest"},
		{tpm2.TPMCCStartup, "Startup"},
		{tpm2.TPMCCShutdown, "Shutdown"},
		{tpm2.TPMCCStirRandom, "StirRandom"},
	}
}

// useNames are the commands that use keys and policies: the codes from there.
func useNames() []commandName {
	return []commandName{
		{tpm2.TPMCCActivateCredential, "ActivateCredential"},
		{tpm2.TPMCCCertify, "Certify"},
		{tpm2.TPMCCPolicyNV, "PolicyNV"},
		{tpm2.TPMCCCertifyCreation, "CertifyCreation"},
		{tpm2.TPMCCNVRead, "NV_Read"},
		{tpm2.TPMCCNVReadLock, "NV_ReadLock"},
		{tpm2.TPMCCPolicySecret, "PolicySecret"},
		{tpm2.TPMCCCreate, "Create"},
		{tpm2.TPMCCECDHZGen, "ECDH_ZGen"},
		{tpm2.TPMCCImport, "Import"},
		{tpm2.TPMCCLoad, "Load"},
		{tpm2.TPMCCQuote, "Quote"},
		{tpm2.TPMCCSequenceUpdate, "SequenceUpdate"},
		{tpm2.TPMCCSign, "Sign"},
		{tpm2.TPMCCUnseal, "Unseal"},
		{tpm2.TPMCCPolicySigned, "PolicySigned"},
		{tpm2.TPMCCContextLoad, "ContextLoad"},
		{tpm2.TPMCCContextSave, "ContextSave"},
		{tpm2.TPMCCECDHKeyGen, "ECDH_KeyGen"},
		{tpm2.TPMCCFlushContext, "FlushContext"},
		{tpm2.TPMCCLoadExternal, "LoadExternal"},
		{tpm2.TPMCCMakeCredential, "MakeCredential"},
		{tpm2.TPMCCNVReadPublic, "NV_ReadPublic"},
		{tpm2.TPMCCPolicyAuthorize, "PolicyAuthorize"},
		{tpm2.TPMCCPolicyAuthValue, "PolicyAuthValue"},
		{tpm2.TPMCCPolicyCommandCode, "PolicyCommandCode"},
		{tpm2.TPMCCPolicyOR, "PolicyOR"},
		{tpm2.TPMCCReadPublic, "ReadPublic"},
		{tpm2.TPMCCStartAuthSession, "StartAuthSession"},
		{tpm2.TPMCCVerifySignature, "VerifySignature"},
		{tpm2.TPMCCGetCapability, "GetCapability"},
		{tpm2.TPMCCGetRandom, "GetRandom"},
		{tpm2.TPMCCGetTestResult, "GetTestResult"},
		{tpm2.TPMCCHash, "Hash"},
		{tpm2.TPMCCPCRRead, "PCR_Read"},
		{tpm2.TPMCCPolicyPCR, "PolicyPCR"},
		{tpm2.TPMCCPolicyRestart, "PolicyRestart"},
		{tpm2.TPMCCReadClock, "ReadClock"},
		{tpm2.TPMCCPCRExtend, "PCR_Extend"},
		{tpm2.TPMCCNVCertify, "NV_Certify"},
		{tpm2.TPMCCEventSequenceComplete, "EventSequenceComplete"},
		{tpm2.TPMCCHashSequenceStart, "HashSequenceStart"},
		{tpm2.TPMCCPolicyGetDigest, "PolicyGetDigest"},
		{tpm2.TPMCCTestParms, "TestParms"},
		{tpm2.TPMCCPolicyPassword, "PolicyPassword"},
		{tpm2.TPMCCCreateLoaded, "CreateLoaded"},
	}
}
