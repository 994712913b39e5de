// SPDX-License-Identifier: Apache-2.0
/*
 * The chip's key, from which OP-TEE derives all others. A real platform reads it from
 * fuses. Here it follows a mark in the firmware, where test/vm writes a different key
 * for each chip.
 */
#include <kernel/tee_common_otp.h>

/* volatile: otherwise the compiler would read the key now, not when the board starts. */
static const volatile struct {
	char mark[16];
	uint8_t key[HW_UNIQUE_KEY_LENGTH];
} chip = { .mark = "imxcrypt's fuse:" };

TEE_Result tee_otp_get_hw_unique_key(struct tee_hw_unique_key *hwkey)
{
	size_t n = 0;

	/* The linker drops the mark if it is not used. */
	if (chip.mark[0] != 'i')
		return TEE_ERROR_GENERIC;
	for (n = 0; n < sizeof(hwkey->data); n++)
		hwkey->data[n] = chip.key[n];
	return TEE_SUCCESS;
}
