/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A simulated CAAM for tests: NXP's BSP interface on a kernel without the chip.
 *
 * Sizes are in bytes. "Red" is a plain key, "black" is one wrapped by the chip's
 * per-power-cycle key (JDKEK), "blob" is one sealed by the fused key (OTPMK).
 * Functions returning int return 0 or a negative errno unless they say otherwise.
 */
#ifndef IMXCRYPT_SIMCAAM_H
#define IMXCRYPT_SIMCAAM_H

#include <crypto/aes.h>
#include <crypto/skcipher.h>
#include <linux/crypto.h>
#include <linux/ktime.h>
#include <linux/types.h>

/* The tagged object: the header NXP's driver puts before keys and blobs. */
#define TAG_MAGIC	0x5461674f
#define TAG_BLACK	BIT(0)	/* encrypted */
#define TAG_NOT_KEY	BIT(1)
#define TAG_TDKEK	BIT(2)	/* wrapped by the trusted key, not by the JDKEK */
#define TAG_CCM		BIT(3)	/* clear: ECB */
#define TAG_MEMORY	BIT(4)	/* in the chip's secure memory */

struct tag {
	__le32 magic;
	__le32 version;
	__le32 type;
	__le32 red_len;
	__le32 obj_len;
} __packed;

#define TAG_LEN		sizeof(struct tag)
#define RED_MIN		16
#define RED_MAX		64
#define CCM_NONCE_LEN	6
#define CCM_MAC_LEN	6
#define CCM_OVERHEAD	(CCM_NONCE_LEN + CCM_MAC_LEN)
#define BLOB_KEY_LEN	32
#define BLOB_MAC_LEN	16
#define BLOB_OVERHEAD	(BLOB_KEY_LEN + BLOB_MAC_LEN)
#define BLACK_OBJ_MAX	(RED_MAX + CCM_OVERHEAD)
#define BLOB_OBJ_MAX	(RED_MAX + CCM_OVERHEAD + BLOB_OVERHEAD)
#define BLACK_MAX	(TAG_LEN + BLACK_OBJ_MAX)
#define BLOB_MAX	(TAG_LEN + BLOB_OBJ_MAX)

static inline size_t black_obj_len(u32 type, size_t red_len)
{
	if (type & TAG_CCM)
		return round_up(red_len, 8) + CCM_OVERHEAD;
	return round_up(red_len, AES_BLOCK_SIZE);
}

/* The driver adds the CCM overhead in either wrap; the hardware does not use it. */
static inline size_t blob_obj_len(size_t red_len)
{
	return round_up(red_len, 8) + CCM_OVERHEAD + BLOB_OVERHEAD;
}

void tag_write(struct tag *tag, u32 type, size_t red_len, size_t obj_len);

/* ccm.c: AES-CCM without associated data. The nonce has 7 bytes; in and out may be the
 * same buffer. ccm_open returns -EBADMSG, with out zeroed, if mac is wrong.
 */
#define CCM_IV_LEN	7
void ccm_seal(const struct crypto_aes_ctx *key, const u8 iv[CCM_IV_LEN],
	      u8 *out, const u8 *in, size_t len, u8 *mac, size_t mac_len);
int ccm_open(const struct crypto_aes_ctx *key, const u8 iv[CCM_IV_LEN],
	     u8 *out, const u8 *in, size_t len, const u8 *mac, size_t mac_len);

/*
 * What the silicon does with keys: chip.c in software, job.c on a CAAM. Objects are
 * without their tags; no red key leaves these functions. All but the first two sleep.
 */
int chip_init(void);
void chip_exit(void);
/* Makes a black key of red, or of random bytes if red is NULL. */
int chip_make(u32 type, const u8 *red, size_t red_len, u8 *black);
/* Makes the blob of a black key. The last bytes, up to blob_obj_len, do not matter. */
int chip_seal(u32 type, const u8 *black, size_t red_len, u8 *blob);
/* blob has BLOB_OBJ_MAX readable bytes, and black has room for as many as a key has.
 * Returns -EBADMSG for a blob of another chip, of the other security state, or damaged.
 */
int chip_open(u32 type, const u8 *blob, size_t red_len, u8 *black);

/* A black key as tk's setkey accepted it, without its tag. */
struct tk_key {
	u32 type;
	unsigned int red_len;
	unsigned int obj_len;	/* as the tag says */
	u8 black[BLACK_OBJ_MAX];
};

/* Runs a ring's requests, one at a time. */
void *chip_engine(void);	/* or an ERR_PTR */
void chip_engine_free(void *engine);
int chip_crypt(void *engine, const struct tk_key *key, struct skcipher_request *req, bool encrypt);

/* ring.c: job rings. A ring does one job at a time, each in latency_us. */
struct ring;
typedef int (*ring_job)(void *engine, struct crypto_async_request *req);

struct ring *ring_get(void);	/* the least used one, or ERR_PTR(-ENODEV) */
void ring_put(struct ring *ring);
int ring_enqueue(struct ring *ring, struct crypto_async_request *req);
void ring_wait(struct ring *ring, unsigned int jobs);	/* sleeps */
int rings_start(ring_job job);
void rings_stop(void);

/* Job rings stamp requests: every request context starts with this. */
struct ring_stamp {
	ktime_t queued;
};

/* chip.c and fuses.c: for the chip in software only. */
int chip_unwrap(u32 type, const u8 *black, u8 *red, size_t red_len);
bool chip_closed(void);
int fuses_init(void);
void fuses_exit(void);

/* keygen.c, skcipher.c */
int keygen_init(void);
void keygen_exit(void);
int tk_job(void *engine, struct crypto_async_request *req);
int tk_init(void);
void tk_exit(void);

/* faults.c: injected faults and counters. */
enum counter {
	COUNT_CREATES,
	COUNT_IMPORTS,
	COUNT_JOBS,
	COUNT_FAILED,
	COUNT_BACKLOGGED,
	COUNT_COUNTERS,
};

void count(enum counter counter);
int fault_create(void);		/* returns the errno to fail with, or 0 */
int fault_import(void);
int fault_request(void);
void fault_resume(void);
bool fault_wrong_import(void);	/* whether the import yields another key */
bool fault_no_ring(void);

#endif
