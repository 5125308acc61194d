package keyblob

import (
	"crypto/aes"
	"crypto/cipher"
	"fmt"
	"reflect"
	"runtime"
	"unsafe"

	"github.com/landfall-project/landfall/pkg/secret"
)

// sealer is AES-256-GCM with a nonce that it draws itself (NIST SP 800-38D,
// 8.2.2), as GOFIPS140 wants it. Its first round keys are the KEK itself, in
// the Go heap, where they would outlive a kexec: wipe them after use.
type sealer struct {
	cipher.AEAD
	block cipher.Block
}

func newSealer(kek *secret.Bytes) (*sealer, error) {
	if kek.Len() != KeySize {
		return nil, fmt.Errorf("%w: KEK of %d bytes, expected %d", ErrArgument, kek.Len(), KeySize)
	}
	block, err := aes.NewCipher(kek.Expose())
	if err != nil {
		return nil, fmt.Errorf("KEK as AES-256 key: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("AES-256-GCM: %w", err)
	}
	return &sealer{aead, block}, nil
}

// wipe clears the key schedules. What the standard library keeps where is not
// its promise, so a test searches the process's memory for the key.
func (s *sealer) wipe() {
	clearPointees(reflect.ValueOf(s.block))
	clearPointees(reflect.ValueOf(s.AEAD))
	runtime.KeepAlive(s)
}

// clearPointees overwrites what v, a pointer or a struct of pointers, points
// to. Only memory without pointers is touched: the garbage collector must not
// lose one.
func clearPointees(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			clearPointees(v.Field(i))
		}
	case reflect.Pointer:
		if !v.IsNil() && pointerFree(v.Type().Elem()) {
			clear(unsafe.Slice((*byte)(v.UnsafePointer()), v.Type().Elem().Size()))
		}
	}
}

func pointerFree(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Array:
		return pointerFree(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			if !pointerFree(t.Field(i).Type) {
				return false
			}
		}
		return true
	}
	return t.Kind() >= reflect.Bool && t.Kind() <= reflect.Complex128
}
