package snapshot

import (
	"crypto/sha1" // #nosec: UUIDv5 is defined over SHA-1; no security rests on it
	"encoding/hex"
)

// uuidNamespace is Landfall's own UUID namespace (RFC 9562, 6.6), drawn at
// random once: 7b3f5a52-90a4-4f0e-8d5c-64d1f1c3e2a7.
func uuidNamespace() [16]byte {
	return [16]byte{0x7b, 0x3f, 0x5a, 0x52, 0x90, 0xa4, 0x4f, 0x0e, 0x8d, 0x5c, 0x64, 0xd1, 0xf1, 0xc3, 0xe2, 0xa7}
}

// VolumeUUID names a device's LUKS2 volume before it exists: the UUIDv5
// (RFC 9562, 5.5) of "device/volume", lower-case. Neither name can hold a
// slash, so two pairs never make one text. A UUID identifies and proves
// nothing: the volume-key MAC does.
func VolumeUUID(device, volume string) string {
	h := sha1.New()
	ns := uuidNamespace()
	h.Write(ns[:])
	h.Write([]byte(device + "/" + volume))
	u := h.Sum(nil)[:16]
	u[6] = u[6]&0x0f | 0x50
	u[8] = u[8]&0x3f | 0x80
	x := hex.EncodeToString(u)
	return x[:8] + "-" + x[8:12] + "-" + x[12:16] + "-" + x[16:20] + "-" + x[20:]
}
