// SPDX-License-Identifier: GPL-2.0
/*
 * The silicon in software: fused master key, security state, the keys of this power
 * cycle, and the four operations on red keys: wrap, unwrap, seal, open.
 *
 * Loading the module is a power-on reset: a new JDKEK is drawn, the OTPMK is
 * what the parameter says.
 */
#include <crypto/sha2.h>
#include <linux/module.h>
#include <linux/platform_device.h>
#include <linux/random.h>
#include <linux/spinlock.h>
#include <linux/syscore_ops.h>
#include "simcaam.h"

#define MASTER_LEN	32
#define KEY_MODIFIER	"CAAM_KEY_TYPE_V1"	/* the driver's, fixed; 16 bytes */

/* What an open chip uses instead of its OTPMK: the same on every open chip. */
static const u8 test_master[MASTER_LEN] = {
	0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07,
	0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f,
	0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17,
	0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f,
};

static struct {
	spinlock_t lock;	/* taken in any context, interrupts off */
	u8 otpmk[MASTER_LEN];
	bool closed;
	struct crypto_aes_ctx jdkek;
	struct crypto_aes_ctx tdkek;
} chip = {
	.lock = __SPIN_LOCK_UNLOCKED(chip.lock),
	.otpmk = {
		0x69, 0x6d, 0x78, 0x63, 0x72, 0x79, 0x70, 0x74,
		0x2d, 0x73, 0x69, 0x6d, 0x75, 0x6c, 0x61, 0x74,
		0x65, 0x64, 0x2d, 0x6f, 0x74, 0x70, 0x6d, 0x6b,
		0x2d, 0x64, 0x65, 0x66, 0x61, 0x75, 0x6c, 0x74,
	},
	.closed = true,
};

static void random_aes_key(struct crypto_aes_ctx *key)
{
	u8 raw[AES_KEYSIZE_256];

	get_random_bytes(raw, sizeof(raw));
	WARN_ON(aes_expandkey(key, raw, sizeof(raw)));
	memzero_explicit(raw, sizeof(raw));
}

/* A power-on reset: every black key made before becomes useless. */
static void chip_power_on(void)
{
	struct crypto_aes_ctx jdkek, tdkek;
	unsigned long flags;

	random_aes_key(&jdkek);
	random_aes_key(&tdkek);
	spin_lock_irqsave(&chip.lock, flags);
	chip.jdkek = jdkek;
	chip.tdkek = tdkek;
	spin_unlock_irqrestore(&chip.lock, flags);
	memzero_explicit(&jdkek, sizeof(jdkek));
	memzero_explicit(&tdkek, sizeof(tdkek));
}

static const struct crypto_aes_ctx *wrapping_key(u32 type)
{
	return type & TAG_TDKEK ? &chip.tdkek : &chip.jdkek;
}

/*
 * Object layout of a CCM black key here: ciphertext, nonce, MAC. The order inside
 * the hardware's is not documented, and nothing may depend on it.
 */
static int chip_wrap(u32 type, const u8 *red, size_t red_len, u8 *black)
{
	u8 padded[round_up(RED_MAX, AES_BLOCK_SIZE)] = {};
	u8 iv[CCM_IV_LEN] = {};
	size_t len = round_up(red_len, type & TAG_CCM ? 8 : AES_BLOCK_SIZE), i;
	const struct crypto_aes_ctx *key = wrapping_key(type);
	unsigned long flags;

	if (red_len < RED_MIN || red_len > RED_MAX)
		return -EINVAL;
	memcpy(padded, red, red_len);
	get_random_bytes(iv, CCM_NONCE_LEN);

	spin_lock_irqsave(&chip.lock, flags);
	if (type & TAG_CCM) {
		ccm_seal(key, iv, black, padded, len,
			 black + len + CCM_NONCE_LEN, CCM_MAC_LEN);
		memcpy(black + len, iv, CCM_NONCE_LEN);
	} else {
		for (i = 0; i < len; i += AES_BLOCK_SIZE)
			aes_encrypt(key, black + i, padded + i);
	}
	spin_unlock_irqrestore(&chip.lock, flags);
	memzero_explicit(padded, sizeof(padded));
	return 0;
}

/*
 * -EBADMSG if a CCM key is from another power cycle. An ECB key has no check: one from
 * another power cycle yields a different red key, and success.
 */
int chip_unwrap(u32 type, const u8 *black, u8 *red, size_t red_len)
{
	u8 padded[round_up(RED_MAX, AES_BLOCK_SIZE)];
	u8 iv[CCM_IV_LEN] = {};
	size_t len = round_up(red_len, type & TAG_CCM ? 8 : AES_BLOCK_SIZE), i;
	const struct crypto_aes_ctx *key = wrapping_key(type);
	unsigned long flags;
	int err = 0;

	if (red_len < RED_MIN || red_len > RED_MAX)
		return -EINVAL;

	spin_lock_irqsave(&chip.lock, flags);
	if (type & TAG_CCM) {
		memcpy(iv, black + len, CCM_NONCE_LEN);
		err = ccm_open(key, iv, padded, black, len,
			       black + len + CCM_NONCE_LEN, CCM_MAC_LEN);
	} else {
		for (i = 0; i < len; i += AES_BLOCK_SIZE)
			aes_decrypt(key, padded + i, black + i);
	}
	spin_unlock_irqrestore(&chip.lock, flags);
	if (!err)
		memcpy(red, padded, red_len);
	memzero_explicit(padded, sizeof(padded));
	return err;
}

/*
 * The key that seals blob keys, derived from the master key of the security state. What
 * is sealed, a red key or a black one and in which wrap, is part of the derivation: a
 * blob whose tag says something else does not open.
 */
static void blob_key_encryption_key(u32 type, struct crypto_aes_ctx *key)
{
	u8 in[MASTER_LEN + sizeof(KEY_MODIFIER)];
	u8 out[SHA256_DIGEST_SIZE];
	unsigned long flags;

	spin_lock_irqsave(&chip.lock, flags);
	memcpy(in, chip.closed ? chip.otpmk : test_master, MASTER_LEN);
	spin_unlock_irqrestore(&chip.lock, flags);
	memcpy(in + MASTER_LEN, KEY_MODIFIER, sizeof(KEY_MODIFIER) - 1);
	in[sizeof(in) - 1] = type & (TAG_BLACK | TAG_CCM);
	sha256(in, sizeof(in), out);
	WARN_ON(aes_expandkey(key, out, sizeof(out)));
	memzero_explicit(in, sizeof(in));
	memzero_explicit(out, sizeof(out));
}

/*
 * A blob: random key sealed by the master key (32), red key encrypted with it,
 * MAC (16). The blob key is used once, so the nonce may be constant.
 */
static const u8 blob_iv[CCM_IV_LEN];

/* What the hardware leaves unwritten in the driver's buffer: whatever the heap held
 * there. */
#define HEAP	0x6b

/* The bytes after the MAC, up to blob_obj_len, are HEAP. */
static void seal_red(u32 type, const u8 *red, size_t red_len, u8 *blob)
{
	u8 *sealed = blob + BLOB_KEY_LEN, *mac = sealed + red_len;
	struct crypto_aes_ctx kek, key;
	u8 raw[BLOB_KEY_LEN];
	size_t i;

	blob_key_encryption_key(type, &kek);
	get_random_bytes(raw, sizeof(raw));
	for (i = 0; i < BLOB_KEY_LEN; i += AES_BLOCK_SIZE)
		aes_encrypt(&kek, blob + i, raw + i);
	WARN_ON(aes_expandkey(&key, raw, sizeof(raw)));
	ccm_seal(&key, blob_iv, sealed, red, red_len, mac, BLOB_MAC_LEN);
	memset(mac + BLOB_MAC_LEN, HEAP, blob + blob_obj_len(red_len) - (mac + BLOB_MAC_LEN));
	memzero_explicit(&kek, sizeof(kek));
	memzero_explicit(&key, sizeof(key));
	memzero_explicit(raw, sizeof(raw));
}

static int open_red(u32 type, const u8 *blob, u8 *red, size_t red_len)
{
	const u8 *sealed = blob + BLOB_KEY_LEN, *mac = sealed + red_len;
	struct crypto_aes_ctx kek, key;
	u8 raw[BLOB_KEY_LEN];
	size_t i;
	int err;

	blob_key_encryption_key(type, &kek);
	for (i = 0; i < BLOB_KEY_LEN; i += AES_BLOCK_SIZE)
		aes_decrypt(&kek, raw + i, blob + i);
	WARN_ON(aes_expandkey(&key, raw, sizeof(raw)));
	err = ccm_open(&key, blob_iv, red, sealed, red_len, mac, BLOB_MAC_LEN);
	memzero_explicit(&kek, sizeof(kek));
	memzero_explicit(&key, sizeof(key));
	memzero_explicit(raw, sizeof(raw));
	return err;
}

int chip_make(u32 type, const u8 *red, size_t red_len, u8 *black)
{
	u8 random[RED_MAX];
	int err;

	if (!red)
		get_random_bytes(random, sizeof(random));
	err = chip_wrap(type, red ?: random, red_len, black);
	memzero_explicit(random, sizeof(random));
	return err;
}

int chip_seal(u32 type, const u8 *black, size_t red_len, u8 *blob)
{
	u8 red[RED_MAX];
	int err;

	err = chip_unwrap(type, black, red, red_len);
	if (!err)
		seal_red(type, red, red_len, blob);
	memzero_explicit(red, sizeof(red));
	return err;
}

int chip_open(u32 type, const u8 *blob, size_t red_len, u8 *black)
{
	u8 red[RED_MAX];
	int err;

	err = open_red(type, blob, red, red_len);
	if (!err)
		err = chip_wrap(type, red, red_len, black);
	memzero_explicit(red, sizeof(red));
	return err;
}

bool chip_closed(void)
{
	return READ_ONCE(chip.closed);
}

static int otpmk_set(const char *val, const struct kernel_param *kp)
{
	u8 otpmk[MASTER_LEN];
	unsigned long flags;
	size_t len = strcspn(val, "\n");

	if (len != 2 * MASTER_LEN || hex2bin(otpmk, val, MASTER_LEN))
		return -EINVAL;
	spin_lock_irqsave(&chip.lock, flags);
	memcpy(chip.otpmk, otpmk, MASTER_LEN);
	spin_unlock_irqrestore(&chip.lock, flags);
	return 0;
}

static int otpmk_get(char *buffer, const struct kernel_param *kp)
{
	return sprintf(buffer, "%*phN\n", MASTER_LEN, chip.otpmk);
}

static const struct kernel_param_ops otpmk_ops = { .set = otpmk_set, .get = otpmk_get };
module_param_cb(otpmk, &otpmk_ops, NULL, 0600);
MODULE_PARM_DESC(otpmk, "the chip's fused master key, 64 hex digits; another one is another chip");

module_param_named(closed, chip.closed, bool, 0644);
MODULE_PARM_DESC(closed, "security state: 1 seals under the OTPMK, 0 under the test key common to all open chips (default 1)");

static int jdkek_reset_set(const char *val, const struct kernel_param *kp)
{
	bool reset;
	int err = kstrtobool(val, &reset);

	if (!err && reset)
		chip_power_on();
	return err;
}

static const struct kernel_param_ops jdkek_reset_ops = { .set = jdkek_reset_set };
module_param_cb(jdkek_reset, &jdkek_reset_ops, NULL, 0200);
MODULE_PARM_DESC(jdkek_reset, "write 1: draw a new JDKEK, as a suspend to RAM does");

static bool keep_jdkek;
module_param(keep_jdkek, bool, 0644);
MODULE_PARM_DESC(keep_jdkek, "1: a real suspend keeps the JDKEK, as on i.MX6Q and DL (default 0)");

static void resume(void)
{
	if (!READ_ONCE(keep_jdkek))
		chip_power_on();
	fault_resume();
}

#ifdef SYSCORE_HAS_DATA	/* see Kbuild */
static void chip_resume(void *unused)
{
	resume();
}

static const struct syscore_ops chip_syscore_ops = { .resume = chip_resume };
static struct syscore chip_syscore = { .ops = &chip_syscore_ops };
#else
static struct syscore_ops chip_syscore = { .resume = resume };
#define register_syscore	register_syscore_ops
#define unregister_syscore	unregister_syscore_ops
#endif

/*
 * With only s2idle or pm_test the core does not go down. A device stands in for it:
 * devices are suspended when all processes are frozen.
 */
static bool shallow_resets;
module_param(shallow_resets, bool, 0644);
MODULE_PARM_DESC(shallow_resets, "1: the JDKEK is lost in a suspend of any depth, when devices are suspended (default 0)");

static int __maybe_unused chip_suspend(struct device *dev)
{
	if (READ_ONCE(shallow_resets))
		resume();
	return 0;
}

static SIMPLE_DEV_PM_OPS(chip_pm, chip_suspend, NULL);

static struct platform_driver chip_driver = {
	.driver = { .name = "imxcrypt-simcaam", .pm = &chip_pm },
};
static struct platform_device *chip_device;

int chip_init(void)
{
	int err;

	chip_power_on();
	err = platform_driver_register(&chip_driver);
	if (err)
		return err;
	chip_device = platform_device_register_simple("imxcrypt-simcaam", -1, NULL, 0);
	if (IS_ERR(chip_device)) {
		platform_driver_unregister(&chip_driver);
		return PTR_ERR(chip_device);
	}
	err = fuses_init();
	if (err) {
		platform_device_unregister(chip_device);
		platform_driver_unregister(&chip_driver);
		return err;
	}
	register_syscore(&chip_syscore);
	pr_info("simulated CAAM, no protection: %s state\n",
		chip_closed() ? "closed" : "open");
	return 0;
}

void chip_exit(void)
{
	unregister_syscore(&chip_syscore);
	fuses_exit();
	platform_device_unregister(chip_device);
	platform_driver_unregister(&chip_driver);
	memzero_explicit(&chip.jdkek, sizeof(chip.jdkek));
	memzero_explicit(&chip.tdkek, sizeof(chip.tdkek));
}
