/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the CAAM does with keys and data in its registers. Functions that can fail
 * return a status of the hardware, 0 for success. */
#ifndef CAAM_CRYPTO_H
#define CAAM_CRYPTO_H

#include "caam_desc.h"

enum { KEY1_MAX = 64, KEY2_MAX = 128, CONTEXT_LEN = 64 };
enum { BLACK_MAX = KEY2_MAX + 12 + 16, BLOB_KEY_LEN = 32, BLOB_MAC_LEN = 16 };
enum { BLOB_OVERHEAD = BLOB_KEY_LEN + BLOB_MAC_LEN, BLOB_DATA_MAX = 4000 };

/* A black key: ECB, or CCM (EKT) followed by nonce and MAC. len is the red key's
 * length. */
uint32_t black_len(uint32_t len, bool ccm);
void black_wrap(struct caam_chip *chip, const uint8_t *red, uint32_t len, bool ccm, uint8_t *black);
uint32_t black_unwrap(struct caam_chip *chip, const uint8_t *black, uint32_t len, bool ccm,
                      uint8_t *red);

/* What a blob is sealed for; part of the derivation of the sealing key. */
struct blob_kind {
    uint8_t modifier[16];
    bool black, ccm;
};
void blob_seal(struct caam_chip *chip, const struct blob_kind *kind, const uint8_t *data,
               uint32_t len, uint8_t *blob);
uint32_t blob_open(struct caam_chip *chip, const struct blob_kind *kind, const uint8_t *blob,
                   uint32_t len, uint8_t *data);

/* A whole message, in place. operation is that command's word; the context holds the IV. */
uint32_t aes_message(struct caam_chip *chip, uint32_t operation, const uint8_t *key,
                     uint32_t key_len, uint8_t *context, uint8_t *data, uint32_t len);

#endif
