# SPDX-License-Identifier: Apache-2.0
#
# The released program, for Yocto releases whose Go is too old to build it.
require imxcrypt.inc

COMPATIBLE_HOST = "(aarch64|arm|x86_64).*-linux"
IMXCRYPT_ARCH = "unknown"
IMXCRYPT_ARCH:aarch64 = "arm64"
IMXCRYPT_ARCH:arm = "arm"
IMXCRYPT_ARCH:x86-64 = "amd64"

SRC_URI = "${IMXCRYPT_RELEASES}/imxcrypt-${PV}-linux-${IMXCRYPT_ARCH}.tar.gz"
SRC_URI[sha256sum] = "${@d.getVar('IMXCRYPT_SHA256_' + d.getVar('IMXCRYPT_ARCH').upper())}"
S = "${@d.getVar('UNPACKDIR') or d.getVar('WORKDIR')}/imxcrypt-${PV}-linux-${IMXCRYPT_ARCH}"

do_configure[noexec] = "1"
do_compile[noexec] = "1"

do_install() {
	install -d ${D}
	cp -R --no-dereference --preserve=mode,links,timestamps ${S}/usr ${D}/
	# Without usrmerge (kirkstone) systemd looks for generators and hooks only here.
	if [ "${systemd_unitdir}" != "${nonarch_libdir}/systemd" ]; then
		install -d ${D}${systemd_unitdir}/system-generators
		ln -s ${bindir}/imxcrypt ${D}${systemd_unitdir}/system-generators/imxcrypt-generator
		mv ${D}${nonarch_libdir}/systemd/system-sleep ${D}${systemd_unitdir}/
		rm -r ${D}${nonarch_libdir}/systemd/system-generators
	fi
	if [ "${bindir}" != /usr/bin ]; then bbfatal "the released program is for /usr/bin, and bindir is ${bindir}"; fi
}

FILES:${PN} += "${systemd_unitdir}"
RPROVIDES:${PN} = "imxcrypt"
RCONFLICTS:${PN} = "imxcrypt"
