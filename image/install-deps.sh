#!/bin/sh
# Installs the Debian packages that building and testing need, or says which
# are missing. Synopsis: install-deps.sh
# Installs as root on Debian; elsewhere it only checks, and fails if something
# is missing. Running it again does nothing.
set -eu

# One per line: a file that the package brings, and the package.
wanted() {
	cat <<-EOF
	/usr/bin/qemu-system-x86_64 qemu-system-x86
	/usr/share/qemu/qboot.rom qemu-system-data
	/usr/bin/qemu-img qemu-utils
	/usr/share/OVMF/OVMF_CODE_4M.fd ovmf
	/usr/bin/swtpm swtpm
	/usr/bin/swtpm_setup swtpm-tools
	/usr/bin/certtool gnutls-bin
	/usr/bin/tpm2 tpm2-tools
	/usr/sbin/cryptsetup cryptsetup-bin
	/usr/bin/mmdebstrap mmdebstrap
	/usr/sbin/dnsmasq dnsmasq-base
	/usr/sbin/lldpd lldpd
	/usr/bin/busybox busybox
	/usr/sbin/dhclient isc-dhcp-client
	/usr/sbin/dhcpd isc-dhcp-server
	/usr/sbin/kea-dhcp4 kea-dhcp4-server
	/usr/sbin/kea-dhcp6 kea-dhcp6-server
	/usr/sbin/perfdhcp kea-admin
	/usr/libexec/tangd tang
	/usr/bin/jose jose
	/usr/sbin/depmod kmod
	/usr/bin/zstd zstd
	/usr/bin/strace strace
	/usr/bin/git git
	/usr/bin/cpio cpio
	/usr/sbin/ip iproute2
	/usr/sbin/sfdisk fdisk
	/usr/sbin/mke2fs e2fsprogs
	/usr/sbin/mkfs.vfat dosfstools
	/usr/bin/mcopy mtools
	/usr/lib/systemd/boot/efi/linuxx64.efi.stub systemd-boot-efi
	/usr/bin/sbsign sbsigntool
	/usr/bin/openssl openssl
	/usr/lib/ipxe/qemu/efi-virtio.rom ipxe-qemu
	/usr/bin/gcc gcc
	/usr/include/stdlib.h libc6-dev
	EOF
}

missing=$(wanted | while read -r file package; do
	[ -e "$file" ] || [ -e "${file#/usr}" ] || echo "$package"
done)

if [ -n "$missing" ]; then
	# shellcheck disable=SC2086 # one word per package
	set -- $missing
	if [ "$(id -u)" = 0 ] && [ -e /etc/debian_version ]; then
		echo "installing: $*"
		apt-get update -q || echo "apt-get update failed; trying with the package lists at hand" >&2
		DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"
	else
		echo "missing packages (Debian's names): $*" >&2
		echo "repair: as root on Debian 12, run: apt-get install --no-install-recommends $*" >&2
		exit 1
	fi
fi

if ! command -v go >/dev/null; then
	echo "missing: Go 1.26.8 or newer (https://go.dev/dl/); Debian 12's own is too old" >&2
	exit 1
fi
want=1.26.8
have=$(go env GOVERSION | sed 's/^go//; s/[^0-9.].*//')
if [ "$(printf '%s\n%s\n' "$want" "$have" | sort -V | head -n 1)" != "$want" ]; then
	echo "Go $have is too old: Go $want or newer is needed (https://go.dev/dl/)" >&2
	exit 1
fi
