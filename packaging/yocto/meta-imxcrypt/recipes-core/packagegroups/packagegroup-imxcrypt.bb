# SPDX-License-Identifier: Apache-2.0
SUMMARY = "The program imxcrypt with what it needs, and a product's configuration"
inherit packagegroup
# IMXCRYPT_PACKAGE depends on the machine's architecture.
PACKAGE_ARCH = "${MACHINE_ARCH}"
RDEPENDS:${PN} = "${IMXCRYPT_PACKAGE} ${@'imxcrypt-configuration' if bb.data.inherits_class('imxcrypt', d) else ''}"
RRECOMMENDS:${PN} = "kernel-module-dm-crypt e2fsprogs-resize2fs"
