# SPDX-License-Identifier: Apache-2.0
#
# Encrypted volumes for a product, in its local.conf or distribution:
#
#   INHERIT += "imxcrypt"
#   IMXCRYPT_DEVICE = "PARTLABEL=data"
#   IMXCRYPT_MOUNT = "/data"
#
# or, for several,
#
#   IMXCRYPT_VOLUMES = "data logs"
#   IMXCRYPT_DEVICE[data] = "PARTLABEL=data"
#   IMXCRYPT_DEVICE[logs] = "PARTLABEL=logs"
#
# (lib/imxcrypt_configuration.py has all variables). The class puts the program and the
# configuration into the images, and the options that they need into the kernel.
# Mistakes end parsing. For an imxcrypt.yaml written by hand, set IMXCRYPT_CONFIGURATION
# to its path instead.
IMXCRYPT_VOLUMES ??= "data"
IMXCRYPT_DEVICE ??= ""
IMXCRYPT_MOUNT ??= ""
IMXCRYPT_CONFIGURATION ??= ""
# 1: a unit makes volumes at the first boot, on empty devices; 0: they are made in a
# factory.
IMXCRYPT_PROVISION ??= "0"
# 1: the kernel gets the options.
IMXCRYPT_KERNEL ??= "1"

IMAGE_INSTALL:append = " packagegroup-imxcrypt"

def imxcrypt_module(d):
    import importlib.util
    import os
    path = os.path.join(d.getVar('IMXCRYPT_LAYERDIR'), 'lib', 'imxcrypt_configuration.py')
    spec = importlib.util.spec_from_file_location('imxcrypt_configuration', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

def imxcrypt_volumes(d):
    m = imxcrypt_module(d)
    try:
        if m.own_file(d.getVar('IMXCRYPT_CONFIGURATION')):
            return []
        return m.volumes(d.getVar, lambda name: d.getVarFlags(name) or {})
    except m.Invalid as e:
        bb.fatal('imxcrypt: ' + str(e).replace('\n', '\nimxcrypt: '))

python imxcrypt_check() {
    imxcrypt_volumes(d)
    if 'systemd' not in (d.getVar('DISTRO_FEATURES') or '').split():
        bb.warn('imxcrypt: without systemd nothing opens the volumes at boot: an init script must run `imxcrypt boot` before they are used')
}
addhandler imxcrypt_check
imxcrypt_check[eventmask] = "bb.event.ConfigParsed"

# The kernel options, as fragments for kernel-yocto. NXP's kernels have the CAAM's black
# keys, mainline kernels its trusted keys.
IMXCRYPT_KERNEL_FRAGMENTS ??= "imxcrypt.cfg imxcrypt-mainline.cfg"
IMXCRYPT_KERNEL_FRAGMENTS:pn-linux-imx ??= "imxcrypt.cfg imxcrypt-caam.cfg"
IMXCRYPT_KERNEL_FRAGMENTS:pn-linux-fslc-imx ??= "imxcrypt.cfg imxcrypt-caam.cfg"
IMXCRYPT_KERNEL_FRAGMENTS:pn-linux-toradex ??= "imxcrypt.cfg imxcrypt-caam.cfg"

python () {
    if not bb.data.inherits_class('kernel', d) or d.getVar('IMXCRYPT_KERNEL') != '1':
        return
    if d.getVar('PN') != (d.getVar('PREFERRED_PROVIDER_virtual/kernel') or d.getVar('PN')):
        return
    names = (d.getVar('IMXCRYPT_KERNEL_FRAGMENTS') or '').split()
    if not bb.data.inherits_class('kernel-yocto', d):
        bb.warn('imxcrypt: %s takes no fragments: give it the options of %s' % (d.getVar('PN'), ' '.join(names)))
        return
    d.prependVar('FILESEXTRAPATHS', d.getVar('IMXCRYPT_LAYERDIR') + '/files/kernel:')
    d.appendVar('SRC_URI', ''.join(' file://' + name for name in names))
    # Toradex's recipes merge the fragments named here. NXP's fail if it is set.
    if d.getVar('PN') == 'linux-toradex':
        d.appendVar('DELTA_KERNEL_DEFCONFIG', ''.join(' ' + name for name in names))
}
