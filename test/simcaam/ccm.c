// SPDX-License-Identifier: GPL-2.0
/*
 * AES-CCM (NIST SP 800-38C) with a 7-byte nonce, an 8-byte length field and no
 * associated data, on the kernel's AES library: usable in any context, and with
 * the 6-byte MAC of black keys.
 */
#include <crypto/algapi.h>
#include <linux/string.h>
#include "simcaam.h"

#define LENGTH_BYTES	8	/* q = 15 - CCM_IV_LEN */

static void ccm_block(u8 block[AES_BLOCK_SIZE], u8 flags,
		      const u8 iv[CCM_IV_LEN], u64 value)
{
	__be64 be = cpu_to_be64(value);

	block[0] = flags;
	memcpy(block + 1, iv, CCM_IV_LEN);
	memcpy(block + 1 + CCM_IV_LEN, &be, LENGTH_BYTES);
}

static void ccm_ctr(const struct crypto_aes_ctx *key, const u8 iv[CCM_IV_LEN],
		    u64 counter, u8 *out, const u8 *in, size_t len)
{
	u8 stream[AES_BLOCK_SIZE];

	while (len) {
		size_t n = min_t(size_t, len, AES_BLOCK_SIZE);

		ccm_block(stream, LENGTH_BYTES - 1, iv, counter++);
		aes_encrypt(key, stream, stream);
		crypto_xor_cpy(out, in, stream, n);
		out += n;
		in += n;
		len -= n;
	}
	memzero_explicit(stream, sizeof(stream));
}

static void ccm_mac(const struct crypto_aes_ctx *key, const u8 iv[CCM_IV_LEN],
		    const u8 *in, size_t len, u8 *mac, size_t mac_len)
{
	u8 state[AES_BLOCK_SIZE];

	ccm_block(state, (mac_len - 2) / 2 << 3 | (LENGTH_BYTES - 1), iv, len);
	aes_encrypt(key, state, state);
	while (len) {
		size_t n = min_t(size_t, len, AES_BLOCK_SIZE);

		crypto_xor(state, in, n);
		aes_encrypt(key, state, state);
		in += n;
		len -= n;
	}
	ccm_ctr(key, iv, 0, mac, state, mac_len);
	memzero_explicit(state, sizeof(state));
}

void ccm_seal(const struct crypto_aes_ctx *key, const u8 iv[CCM_IV_LEN],
	      u8 *out, const u8 *in, size_t len, u8 *mac, size_t mac_len)
{
	ccm_mac(key, iv, in, len, mac, mac_len);
	ccm_ctr(key, iv, 1, out, in, len);
}

int ccm_open(const struct crypto_aes_ctx *key, const u8 iv[CCM_IV_LEN],
	     u8 *out, const u8 *in, size_t len, const u8 *mac, size_t mac_len)
{
	u8 want[AES_BLOCK_SIZE];

	ccm_ctr(key, iv, 1, out, in, len);
	ccm_mac(key, iv, out, len, want, mac_len);
	if (!crypto_memneq(want, mac, mac_len))
		return 0;
	memzero_explicit(out, len);
	return -EBADMSG;
}
