#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# dracut module: puts imxcrypt, its configuration and the kernel modules that it needs
# into the image. The image's configuration, which lists the volumes to open before the
# root filesystem is mounted, is /etc/imxcrypt/initramfs.yaml with its drop-ins in
# initramfs.yaml.d, and a vendor's files of the same names below /usr/lib/imxcrypt. If
# there are none, nothing is put into the image.

# The configuration files, one per line.
imxcrypt_files() {
	local dir file
	for dir in /etc/imxcrypt /usr/lib/imxcrypt; do
		for file in "$dir"/initramfs.yaml "$dir"/initramfs.yaml.d/*.yaml; do
			if [[ -e $file || -L $file ]]; then echo "$file"; fi
		done
	done
}

check() {
	[[ -n $(imxcrypt_files) ]] || return 1
	require_binaries imxcrypt || return 1
	return 0
}

# The udev rules for device-mapper's devices.
depends() {
	echo dm
}

installkernel() {
	# Modules that a kernel has built in, or does not have, are skipped. Do not limit
	# the image to modules that this host has loaded now.
	hostonly='' instmods dm-mod dm-crypt ecb cbc xts adiantum nhpoly1305 chacha_generic aes-ce-blk aes-neon-blk aes-arm-ce aes-arm-bs aesni-intel loop caam caam_jr caamalg_desc tag_key
}

install() {
	inst_binary imxcrypt /usr/bin/imxcrypt
	local file copy
	while read -r file; do
		copy=${file/\/initramfs.yaml//imxcrypt.yaml}
		# A link to /dev/null masks the vendor's file of that name; others are followed.
		if [[ $(readlink "$file") == /dev/null ]]; then
			mkdir -p "$initdir${copy%/*}"
			ln -sf /dev/null "$initdir$copy"
		else
			inst_simple "$(readlink -f "$file")" "$copy"
		fi
	done < <(imxcrypt_files)
	dracut_need_initqueue # with systemd in the image it runs on demand only
	inst_hook initqueue/settled 20 "$moddir/imxcrypt.sh"
}
