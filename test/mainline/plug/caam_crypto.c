/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Black keys, blobs and AES of the CAAM model. Sizes are NXP's; the layout inside a black key and a
 * blob is the model's own, since NXP documents neither.
 */
#include <string.h>

#include "caam_crypto.h"

enum { BLOCK = 16, CCM_NONCE = 6, CCM_MAC = 6, BLOB_NONCE = 13 };

static void aes(struct caam_chip *chip, const uint8_t *key, int key_len, bool encrypt,
                const uint8_t *in, uint8_t *out)
{
    chip->ops->aes(chip->owner, key, key_len, encrypt, in, out);
}

static void xor_into(uint8_t *to, const uint8_t *from, uint32_t n)
{
    while (n--) {
        *to++ ^= *from++;
    }
}

static uint32_t round_to(uint32_t n, uint32_t unit)
{
    return (n + unit - 1) / unit * unit;
}

static uint32_t block_at(uint32_t i, uint32_t n)
{
    return n - i < BLOCK ? n - i : BLOCK;
}

/* AES-CCM (RFC 3610) without associated data, with a key of 32 bytes. */
struct ccm {
    const uint8_t *key, *nonce;
    int nonce_len, mac_len;
};

static void ccm_mac(struct caam_chip *chip, const struct ccm *c, const uint8_t *plain, uint32_t n,
                    uint8_t mac[BLOCK])
{
    int length_len = 15 - c->nonce_len;
    uint8_t first[BLOCK] = {0};

    first[0] = 8 * ((c->mac_len - 2) / 2) + length_len - 1;
    memcpy(first + 1, c->nonce, c->nonce_len);
    first[15] = n;
    first[14] = n >> 8; /* no message here is longer */
    aes(chip, c->key, 32, true, first, mac);
    for (uint32_t i = 0; i < n; i += BLOCK) {
        xor_into(mac, plain + i, block_at(i, n));
        aes(chip, c->key, 32, true, mac, mac);
    }
}

static void ccm_stream(struct caam_chip *chip, const struct ccm *c, uint32_t number,
                       uint8_t stream[BLOCK])
{
    uint8_t counter[BLOCK] = {0};

    counter[0] = 14 - c->nonce_len;
    memcpy(counter + 1, c->nonce, c->nonce_len);
    counter[15] = number;
    counter[14] = number >> 8;
    aes(chip, c->key, 32, true, counter, stream);
}

static void ccm_crypt(struct caam_chip *chip, const struct ccm *c, const uint8_t *in, uint32_t n,
                      uint8_t *out)
{
    uint8_t stream[BLOCK];

    for (uint32_t i = 0; i < n; i += BLOCK) {
        ccm_stream(chip, c, i / BLOCK + 1, stream);
        for (uint32_t j = 0; j < block_at(i, n); j++) {
            out[i + j] = in[i + j] ^ stream[j];
        }
    }
}

static void ccm_seal(struct caam_chip *chip, const struct ccm *c, const uint8_t *plain, uint32_t n,
                     uint8_t *out, uint8_t *mac)
{
    uint8_t full[BLOCK], stream[BLOCK];

    ccm_mac(chip, c, plain, n, full);
    ccm_stream(chip, c, 0, stream);
    xor_into(full, stream, BLOCK);
    memcpy(mac, full, c->mac_len);
    ccm_crypt(chip, c, plain, n, out);
}

static uint32_t ccm_open(struct caam_chip *chip, const struct ccm *c, const uint8_t *in, uint32_t n,
                         uint8_t *plain, const uint8_t *mac)
{
    uint8_t full[BLOCK], stream[BLOCK];

    ccm_crypt(chip, c, in, n, plain);
    ccm_mac(chip, c, plain, n, full);
    ccm_stream(chip, c, 0, stream);
    xor_into(full, stream, BLOCK);
    if (memcmp(mac, full, c->mac_len)) {
        chip->checks_failed++;
        return CAAM_STATUS_CCB(CAAM_CHA_AES, CAAM_ERR_ICV);
    }
    return 0;
}

uint32_t black_len(uint32_t len, bool ccm)
{
    return ccm ? round_to(len, 8) + CCM_NONCE + CCM_MAC : round_to(len, BLOCK);
}

void black_wrap(struct caam_chip *chip, const uint8_t *red, uint32_t len, bool ccm, uint8_t *black)
{
    uint8_t padded[BLACK_MAX] = {0};
    uint32_t n = round_to(len, ccm ? 8 : BLOCK);
    struct ccm c = {chip->jdkek, black + n, CCM_NONCE, CCM_MAC};

    memcpy(padded, red, len);
    if (ccm) {
        chip->ops->random(chip->owner, black + n, CCM_NONCE);
        ccm_seal(chip, &c, padded, n, black, black + n + CCM_NONCE);
        return;
    }
    for (uint32_t i = 0; i < n; i += BLOCK) {
        aes(chip, chip->jdkek, 32, true, padded + i, black + i);
    }
}

/* An ECB key has no check: one of another power cycle gives a different key. */
uint32_t black_unwrap(struct caam_chip *chip, const uint8_t *black, uint32_t len, bool ccm,
                      uint8_t *red)
{
    uint8_t padded[BLACK_MAX];
    uint32_t n = round_to(len, ccm ? 8 : BLOCK), status = 0;
    struct ccm c = {chip->jdkek, black + n, CCM_NONCE, CCM_MAC};

    if (ccm) {
        status = ccm_open(chip, &c, black, n, padded, black + n + CCM_NONCE);
    } else {
        for (uint32_t i = 0; i < n; i += BLOCK) {
            aes(chip, chip->jdkek, 32, false, black + i, padded + i);
        }
    }
    if (!status) {
        memcpy(red, padded, len);
    }
    return status;
}

/* The blob's type is part of the derivation: a black blob does not open as a red one. */
static void blob_sealing_key(struct caam_chip *chip, const struct blob_kind *kind, uint8_t key[32])
{
    uint8_t in[32 + sizeof kind->modifier + 2];

    memcpy(in, chip->master, 32);
    memcpy(in + 32, kind->modifier, sizeof kind->modifier);
    in[sizeof in - 2] = kind->black;
    in[sizeof in - 1] = kind->ccm;
    chip->ops->sha256(chip->owner, in, sizeof in, key);
}

/* A blob's own key is used once, so its nonce may be constant. */
static const uint8_t blob_nonce[BLOB_NONCE];

/* A blob: its key, sealed; the data, encrypted with it; a MAC. */
void blob_seal(struct caam_chip *chip, const struct blob_kind *kind, const uint8_t *data,
               uint32_t len, uint8_t *blob)
{
    uint8_t sealing[32], key[BLOB_KEY_LEN];
    struct ccm c = {key, blob_nonce, BLOB_NONCE, BLOB_MAC_LEN};

    blob_sealing_key(chip, kind, sealing);
    chip->ops->random(chip->owner, key, sizeof key);
    aes(chip, sealing, 32, true, key, blob);
    aes(chip, sealing, 32, true, key + BLOCK, blob + BLOCK);
    ccm_seal(chip, &c, data, len, blob + BLOB_KEY_LEN, blob + BLOB_KEY_LEN + len);
    chip->blobs_sealed++;
}

/* len is the length of the data. */
uint32_t blob_open(struct caam_chip *chip, const struct blob_kind *kind, const uint8_t *blob,
                   uint32_t len, uint8_t *data)
{
    uint8_t sealing[32], key[BLOB_KEY_LEN];
    struct ccm c = {key, blob_nonce, BLOB_NONCE, BLOB_MAC_LEN};
    uint32_t status;

    blob_sealing_key(chip, kind, sealing);
    aes(chip, sealing, 32, false, blob, key);
    aes(chip, sealing, 32, false, blob + BLOCK, key + BLOCK);
    status = ccm_open(chip, &c, blob + BLOB_KEY_LEN, len, data, blob + BLOB_KEY_LEN + len);
    if (!status) {
        chip->blobs_opened++;
    }
    return status;
}

static void cbc(struct caam_chip *chip, const uint8_t *key, int key_len, bool encrypt, uint8_t *iv,
                uint8_t *data, uint32_t n)
{
    uint8_t cipher[BLOCK];

    for (uint32_t i = 0; i < n; i += BLOCK) {
        uint8_t *block = data + i;

        if (encrypt) {
            xor_into(block, iv, BLOCK);
            aes(chip, key, key_len, true, block, block);
            memcpy(iv, block, BLOCK);
        } else {
            memcpy(cipher, block, BLOCK);
            aes(chip, key, key_len, false, block, block);
            xor_into(block, iv, BLOCK);
            memcpy(iv, cipher, BLOCK);
        }
    }
}

static void ctr(struct caam_chip *chip, const uint8_t *key, int key_len, uint8_t counter[BLOCK],
                uint8_t *data, uint32_t n)
{
    uint8_t stream[BLOCK];

    for (uint32_t i = 0; i < n; i += BLOCK) {
        aes(chip, key, key_len, true, counter, stream);
        xor_into(data + i, stream, block_at(i, n));
        for (int j = BLOCK - 1; j >= 0 && !++counter[j]; j--) {
            /* carry */
        }
    }
}

static void xts_next(uint8_t tweak[BLOCK])
{
    int carry = 0;

    for (int i = 0; i < BLOCK; i++) {
        int next = tweak[i] >> 7;

        tweak[i] = tweak[i] << 1 | carry;
        carry = next;
    }
    if (carry) {
        tweak[0] ^= 0x87;
    }
}

static void xts_block(struct caam_chip *chip, const uint8_t *key, int half, bool encrypt,
                      const uint8_t *tweak, uint8_t *block)
{
    xor_into(block, tweak, BLOCK);
    aes(chip, key, half, encrypt, block, block);
    xor_into(block, tweak, BLOCK);
}

/* The first half of the key is for the data, the second for the tweak. n is at least a
 * block. */
static void xts(struct caam_chip *chip, const uint8_t *key, int half, bool encrypt, uint8_t *tweak,
                uint8_t *data, uint32_t n)
{
    uint32_t tail = n % BLOCK, whole = n / BLOCK - (tail != 0);
    uint8_t next[BLOCK], last[BLOCK];

    aes(chip, key + half, half, true, tweak, tweak);
    for (; whole; whole--, data += BLOCK) {
        xts_block(chip, key, half, encrypt, tweak, data);
        xts_next(tweak);
    }
    if (!tail) {
        return;
    }
    /* The last whole block passes its end to the short one; decryption takes the tweaks
     * in the opposite order. */
    memcpy(next, tweak, BLOCK);
    xts_next(next);
    xts_block(chip, key, half, encrypt, encrypt ? tweak : next, data);
    memcpy(last, data, BLOCK);
    memcpy(last, data + BLOCK, tail);
    memcpy(data + BLOCK, data, tail);
    xts_block(chip, key, half, encrypt, encrypt ? next : tweak, last);
    memcpy(data, last, BLOCK);
}

/* Bits of the OPERATION command. */
enum {
    OP_ENCRYPT = 1,
    OP_ALGORITHM = 0xff << 16,
    OP_AES = 0x10 << 16,
    MODE_CTR = 0x00,
    MODE_CBC = 0x10,
    MODE_ECB = 0x20,
    MODE_XTS = 0x50
};

uint32_t aes_message(struct caam_chip *chip, uint32_t operation, const uint8_t *key,
                     uint32_t key_len, uint8_t *context, uint8_t *data, uint32_t len)
{
    bool encrypt = operation & OP_ENCRYPT;
    uint32_t mode = operation >> 4 & 0xff;
    uint8_t tweak[BLOCK];

    if ((operation & OP_ALGORITHM) != OP_AES) {
        return CAAM_STATUS_CCB(CAAM_CHA_UNKNOWN, 0xf);
    }
    if (mode == MODE_XTS ? key_len != 32 && key_len != 64
                         : key_len != 16 && key_len != 24 && key_len != 32) {
        return CAAM_STATUS_CCB(CAAM_CHA_AES, CAAM_ERR_KEY_SIZE);
    }
    if (mode == MODE_XTS ? len < BLOCK : mode != MODE_CTR && len % BLOCK) {
        return CAAM_STATUS_CCB(CAAM_CHA_AES, CAAM_ERR_DATA_SIZE);
    }
    switch (mode) {
    case MODE_CTR:
        ctr(chip, key, key_len, context + BLOCK, data, len);
        return 0;
    case MODE_CBC:
        cbc(chip, key, key_len, encrypt, context, data, len);
        return 0;
    case MODE_ECB:
        for (uint32_t i = 0; i < len; i += BLOCK) {
            aes(chip, key, key_len, encrypt, data + i, data + i);
        }
        return 0;
    case MODE_XTS:
        memcpy(tweak, context + 0x20, 8);
        memcpy(tweak + 8, context + 0x30, 8);
        xts(chip, key, key_len / 2, encrypt, tweak, data, len);
        return 0;
    }
    return CAAM_STATUS_CCB(CAAM_CHA_AES, CAAM_ERR_MODE);
}
