#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# dracut module: puts imxcrypt, its configuration and what it needs of the kernel
# into the image. The configuration of the image is /etc/imxcrypt/initramfs.yaml:
# the volumes to open before the root filesystem is mounted. Without that file
# nothing is put in.

check() {
	[[ -e /etc/imxcrypt/initramfs.yaml ]] || return 1
	require_binaries imxcrypt || return 1
	return 0
}

# The rules of udev for what device-mapper makes.
depends() {
	echo dm
}

installkernel() {
	# Those a kernel has built in, or does not know, are passed over. Not only
	# what this host has loaded now.
	hostonly='' instmods dm-mod dm-crypt ecb cbc xts caam caam_jr caamalg_desc tag_key
}

install() {
	inst_binary imxcrypt /usr/bin/imxcrypt
	inst_simple /etc/imxcrypt/initramfs.yaml /etc/imxcrypt/imxcrypt.yaml
	inst_hook initqueue/settled 20 "$moddir/imxcrypt.sh"
}
