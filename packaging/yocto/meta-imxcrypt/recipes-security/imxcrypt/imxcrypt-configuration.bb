# SPDX-License-Identifier: Apache-2.0
#
# The configuration that the class imxcrypt makes from a product's variables, and the
# mount points, which a read-only root must have.
SUMMARY = "The configuration of imxcrypt for this product"
LICENSE = "Apache-2.0"
LIC_FILES_CHKSUM = "file://${COMMON_LICENSE_DIR}/Apache-2.0;md5=89aea4e17d99a7cacdbeed46a0096b10"
PV = "1.0"
PACKAGE_ARCH = "${MACHINE_ARCH}"

python () {
    if not bb.data.inherits_class('imxcrypt', d):
        raise bb.parse.SkipRecipe('INHERIT += "imxcrypt" makes the configuration')
    made = imxcrypt_volumes(d)
    d.setVar('IMXCRYPT_TEXT', imxcrypt_module(d).text(made))
    d.setVar('IMXCRYPT_MOUNT_POINTS', ' '.join(v['mount']['path'] for v in made if 'mount' in v))
    d.setVar('IMXCRYPT_NAMES', ' '.join(v['name'] for v in made))
}

python do_compile() {
    import os
    path = d.getVar('IMXCRYPT_CONFIGURATION')
    if path:
        with open(path) as f:
            text = f.read()
    else:
        text = d.getVar('IMXCRYPT_TEXT')
    with open(os.path.join(d.getVar('B'), 'imxcrypt.yaml'), 'w') as f:
        f.write(text)
}
do_compile[vardeps] += "IMXCRYPT_TEXT"
do_compile[file-checksums] += "${@d.getVar('IMXCRYPT_CONFIGURATION') + ':True' if d.getVar('IMXCRYPT_CONFIGURATION') else ''}"

# Unit names are escaped as by systemd-escape. This is not a shell function: bitbake
# does not see that a function called in quotes is needed.
do_install() {
	install -D -m 0644 ${B}/imxcrypt.yaml ${D}${sysconfdir}/imxcrypt/imxcrypt.yaml
	install -d -m 0700 ${D}${localstatedir}/lib/imxcrypt
	for path in ${IMXCRYPT_MOUNT_POINTS}; do
		install -d ${D}$path
	done
	if [ "${IMXCRYPT_PROVISION}" = 1 ] && ${@bb.utils.contains('DISTRO_FEATURES', 'systemd', 'true', 'false', d)}; then
		install -d ${D}${sysconfdir}/systemd/system/local-fs.target.wants
		for name in ${IMXCRYPT_NAMES}; do
			escaped=$(echo "$name" | sed -e 's/-/\\x2d/g')
			ln -s ${nonarch_libdir}/systemd/system/imxcrypt-provision@.service \
				"${D}${sysconfdir}/systemd/system/local-fs.target.wants/imxcrypt-provision@$escaped.service"
		done
	fi
}

FILES:${PN} = "${sysconfdir} ${localstatedir}/lib/imxcrypt ${IMXCRYPT_MOUNT_POINTS}"
CONFFILES:${PN} = "${sysconfdir}/imxcrypt/imxcrypt.yaml"
RDEPENDS:${PN} = "${IMXCRYPT_PACKAGE}"
