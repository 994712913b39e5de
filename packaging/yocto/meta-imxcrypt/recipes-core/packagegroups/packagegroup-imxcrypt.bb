# SPDX-License-Identifier: Apache-2.0
SUMMARY = "The program imxcrypt with what it needs, and a product's configuration"
inherit packagegroup
# IMXCRYPT_PACKAGE depends on the machine's architecture.
PACKAGE_ARCH = "${MACHINE_ARCH}"
RDEPENDS:${PN} = "${IMXCRYPT_PACKAGE} ${@'imxcrypt-configuration' if bb.data.inherits_class('imxcrypt', d) else ''}"
# `imxcrypt encrypt` shrinks an ext4 filesystem with these; e2image is in the package
# e2fsprogs. They are not in the recipe, because an initramfs installs that, too.
RRECOMMENDS:${PN} = "kernel-module-dm-crypt e2fsprogs e2fsprogs-e2fsck e2fsprogs-dumpe2fs e2fsprogs-resize2fs"
