# SPDX-License-Identifier: Apache-2.0
#
# For an encrypted root filesystem. In the image recipe of the initramfs:
#
#   PACKAGE_INSTALL:append = " initramfs-module-imxcrypt"
#
# and root=/dev/mapper/NAME on the kernel command line.
SUMMARY = "Opens encrypted volumes in an initramfs of initramfs-framework"
LICENSE = "Apache-2.0"
LIC_FILES_CHKSUM = "file://${COMMON_LICENSE_DIR}/Apache-2.0;md5=89aea4e17d99a7cacdbeed46a0096b10"
PACKAGE_ARCH = "${MACHINE_ARCH}"

SRC_URI = "file://imxcrypt"
S = "${@d.getVar('UNPACKDIR') or d.getVar('WORKDIR')}"

do_configure[noexec] = "1"
do_compile[noexec] = "1"

# Before 90-rootfs; after 01-udev or 01-mdev.
do_install() {
	install -D -m 0755 ${S}/imxcrypt ${D}/init.d/80-imxcrypt
}

FILES:${PN} = "/init.d/80-imxcrypt"
RDEPENDS:${PN} = "initramfs-framework-base ${IMXCRYPT_PACKAGE} ${@'imxcrypt-configuration' if bb.data.inherits_class('imxcrypt', d) else ''}"
