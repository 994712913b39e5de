# SPDX-License-Identifier: Apache-2.0
#
# Built from the release's source tarball, which includes the modules, so Go fetches
# nothing. The tarball's own script builds it: the class's defaults (cgo, PIE) would
# make a program with an interpreter, which an initramfs without a C library cannot
# start.
require imxcrypt.inc

SRC_URI = "${IMXCRYPT_RELEASES}/imxcrypt-${PV}.tar.gz"
SRC_URI[sha256sum] = "${IMXCRYPT_SHA256_SOURCE}"
S = "${@d.getVar('UNPACKDIR') or d.getVar('WORKDIR')}/imxcrypt-${PV}"

GO_IMPORT = "imxcrypt"
inherit go

python () {
    old = set((d.getVar('LAYERSERIES_CORENAMES') or '').split()) & set('kirkstone langdale mickledore nanbield scarthgap styhead walnascar whinlatter'.split())
    if old:
        raise bb.parse.SkipRecipe("%s's Go is older than 1.26: imxcrypt-bin" % ' '.join(old))
}

do_configure[noexec] = "1"

do_compile() {
	export TMPDIR="${GOTMPDIR}"
	cd ${S}
	GO=${GO} packaging/build ${TARGET_GOARCH} ${B}/imxcrypt ./cmd/imxcrypt ${PV}
}
do_compile[dirs] =+ "${GOTMPDIR} ${B}"

do_install() {
	cd ${S}
	DESTDIR=${D} PREFIX=${prefix} SYSTEMDDIR=${nonarch_libdir}/systemd UDEVDIR=${nonarch_libdir}/udev \
		DOCDIR=${docdir}/imxcrypt INITRAMFSTOOLSDIR=${datadir}/initramfs-tools DRACUTDIR=${nonarch_libdir}/dracut \
		packaging/install ${B}/imxcrypt
}

RCONFLICTS:${PN} = "imxcrypt-bin"
