package bootvolume

import "strings"

// IPXE returns the script with which iPXE, in the card's ROM, starts the UKI at
// uri: http://…, tftp://…, or a path relative to the script's own place, by the
// protocol that the script came by. The script is neither signed nor measured:
// whoever changes it starts something else, and that is measured.
//
// It goes on by itself when a server is not there yet.
func IPXE(uri string) []byte {
	return []byte(strings.ReplaceAll(`#!ipxe
# Starts a Landfall image; tries again until its server answers.

# With a name, iPXE would hand it to the image as EFI load options, and
# systemd-stub would take it for the command line: the image would run without
# its own, PCR 12 would differ, and no key would be released. Hence --name=
# with nothing behind it.
isset ${ip} || dhcp || goto again
:start
chain --name= URI || goto again
:again
echo Landfall: the image did not start, next try in 5 s
sleep 5
dhcp || goto again
goto start
`, "URI", uri))
}
