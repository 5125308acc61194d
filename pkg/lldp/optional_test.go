package lldp

import "testing"

func TestStationOnly(t *testing.T) {
	for enabled, want := range map[uint16]bool{0: false, CapStation: true, CapStation | 1<<5: true, CapStation | CapBridge: false, CapStation | CapRouter: false, CapBridge: false} {
		if got := (Capabilities{Available: CapStation | CapBridge | CapRouter, Enabled: enabled}).StationOnly(); got != want {
			t.Errorf("enabled %#x: got %t", enabled, got)
		}
	}
}
