#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# dracut module: puts imxcrypt and the configuration of the image,
# /etc/imxcrypt/initramfs.yaml, into the initramfs. Without that file the module
# is left out.

check() {
	require_binaries imxcrypt || return 1
	[[ -e $dracutsysrootdir/etc/imxcrypt/initramfs.yaml ]] || return 255
	return 0
}

depends() {
	echo dm
}

installkernel() {
	# "=drivers/crypto/caam" is the whole folder, where there is one.
	instmods dm-crypt ecb cbc xts
	hostonly='' instmods -s '=drivers/crypto/caam'
}

install() {
	inst_multiple imxcrypt
	inst_simple /etc/imxcrypt/initramfs.yaml /etc/imxcrypt/imxcrypt.yaml
	chmod 0644 "$initdir/etc/imxcrypt/imxcrypt.yaml"
	inst_hook initqueue/settled 50 "$moddir/imxcrypt-boot.sh"
}
