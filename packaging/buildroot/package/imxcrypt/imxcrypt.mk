################################################################################
#
# imxcrypt
#
################################################################################

IMXCRYPT_VERSION = 0.1.0
IMXCRYPT_SITE = $(call qstrip,$(BR2_PACKAGE_IMXCRYPT_RELEASES))/v$(IMXCRYPT_VERSION)
IMXCRYPT_LICENSE = Apache-2.0
IMXCRYPT_LICENSE_FILES = LICENSE NOTICE THIRD_PARTY_LICENSES
IMXCRYPT_DEPENDENCIES = host-go

# Static, without cgo: it runs in an initramfs without a C library. Its own
# script builds what the releases are; the modules are in the tarball.
define IMXCRYPT_BUILD_CMDS
	cd $(@D) && $(HOST_GO_TARGET_ENV) GO=$(HOST_DIR)/bin/go \
		packaging/build $(GO_GOARCH) imxcrypt ./cmd/imxcrypt $(IMXCRYPT_VERSION)
endef

IMXCRYPT_INSTALL_PARTS = cd $(@D) && DESTDIR=$(TARGET_DIR) PREFIX=/usr SYSTEMDDIR= UDEVDIR= \
	packaging/install imxcrypt $(1)

# Its own script installs it. Of the parts, those that a board has a use for.
define IMXCRYPT_INSTALL_TARGET_CMDS
	$(call IMXCRYPT_INSTALL_PARTS,program udev)
	$(INSTALL) -d -m 0700 $(TARGET_DIR)/var/lib/imxcrypt
	$(IMXCRYPT_INSTALL_CONFIGURATION)
endef

IMXCRYPT_CONFIGURATION = $(call qstrip,$(BR2_PACKAGE_IMXCRYPT_CONFIGURATION))
ifneq ($(IMXCRYPT_CONFIGURATION),)
define IMXCRYPT_INSTALL_CONFIGURATION
	$(INSTALL) -D -m 0644 $(IMXCRYPT_CONFIGURATION) \
		$(TARGET_DIR)/etc/imxcrypt/imxcrypt.yaml
endef
endif

# Buildroot enables what no preset disables (systemctl preset-all).
define IMXCRYPT_INSTALL_INIT_SYSTEMD
	$(call IMXCRYPT_INSTALL_PARTS,systemd)
	$(INSTALL) -D -m 0644 $(IMXCRYPT_PKGDIR)/50-imxcrypt.preset \
		$(TARGET_DIR)/usr/lib/systemd/system-preset/50-imxcrypt.preset
endef

define IMXCRYPT_INSTALL_INIT_SYSV
	$(INSTALL) -D -m 0755 $(IMXCRYPT_PKGDIR)/S12imxcrypt \
		$(TARGET_DIR)/etc/init.d/S12imxcrypt
endef

define IMXCRYPT_LINUX_CONFIG_FIXUPS
	$(call KCONFIG_ENABLE_OPT,CONFIG_KEYS)
	$(call KCONFIG_ENABLE_OPT,CONFIG_MD)
	$(call KCONFIG_ENABLE_OPT,CONFIG_BLK_DEV_DM)
	$(call KCONFIG_ENABLE_OPT,CONFIG_DM_CRYPT)
	$(call KCONFIG_ENABLE_OPT,CONFIG_BLK_DEV)
	$(call KCONFIG_ENABLE_OPT,CONFIG_BLK_DEV_LOOP)
	$(call KCONFIG_ENABLE_OPT,CONFIG_SWAP)
	$(call KCONFIG_ENABLE_OPT,CONFIG_CRYPTO_AES)
	$(call KCONFIG_ENABLE_OPT,CONFIG_CRYPTO_CBC)
	$(call KCONFIG_ENABLE_OPT,CONFIG_CRYPTO_XTS)
	$(call KCONFIG_ENABLE_OPT,CONFIG_CRYPTO_ADIANTUM)
	$(call KCONFIG_ENABLE_OPT,CONFIG_CRYPTO_DEV_FSL_CAAM)
	$(call KCONFIG_ENABLE_OPT,CONFIG_CRYPTO_DEV_FSL_CAAM_JR)
	$(call KCONFIG_ENABLE_OPT,CONFIG_CRYPTO_DEV_FSL_CAAM_CRYPTO_API)
	$(IMXCRYPT_LINUX_CONFIG_FIXUPS_SOURCE)
endef

ifeq ($(BR2_PACKAGE_IMXCRYPT_NXP_KERNEL),y)
define IMXCRYPT_LINUX_CONFIG_FIXUPS_SOURCE
	$(call KCONFIG_ENABLE_OPT,CONFIG_CRYPTO_DEV_FSL_CAAM_TK_API)
endef
else
define IMXCRYPT_LINUX_CONFIG_FIXUPS_SOURCE
	$(call KCONFIG_ENABLE_OPT,CONFIG_ENCRYPTED_KEYS)
	$(call KCONFIG_ENABLE_OPT,CONFIG_TRUSTED_KEYS)
	$(call KCONFIG_ENABLE_OPT,CONFIG_TRUSTED_KEYS_CAAM)
endef
endif

$(eval $(generic-package))
