include $(sort $(wildcard $(BR2_EXTERNAL_IMXCRYPT_PATH)/package/*/*.mk))
