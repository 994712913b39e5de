// SPDX-License-Identifier: GPL-2.0
/*
 * tk(cbc(aes)) and tk(ecb(aes)): ciphers whose key is a tagged black key.
 *
 * setkey looks at the tag only, and not even at whether the key is as long as the
 * tag says. The key is unwrapped for each request with the JDKEK of that moment,
 * as the hardware does: one of another power cycle is accepted, and then fails
 * every request (CCM) or is silently another key (ECB).
 *
 * CRYPTO_ALG_ALLOCATES_MEMORY must stay clear: dm-crypt refuses such ciphers. So
 * a request allocates nothing.
 */
#include <crypto/algapi.h>
#include <crypto/internal/skcipher.h>
#include <linux/module.h>
#include "simcaam.h"

struct tk_ctx {
	struct ring *ring;
	struct tk_key key;
};

struct tk_request {
	struct ring_stamp stamp;	/* must be first */
	bool encrypt;
};

static int tk_setkey(struct crypto_skcipher *tfm, const u8 *key, unsigned int len)
{
	struct tk_ctx *ctx = crypto_skcipher_ctx(tfm);
	struct tag tag;
	u32 type, red_len, obj_len;

	if (len < TAG_LEN) {
		pr_err("unable to get tag object header configuration\n");
		return -EINVAL;
	}
	memcpy(&tag, key, TAG_LEN);
	if (le32_to_cpu(tag.magic) != TAG_MAGIC) {
		pr_err("unable to get tag object header configuration\n");
		return -EINVAL;
	}
	type = le32_to_cpu(tag.type);
	if ((type & (TAG_BLACK | TAG_NOT_KEY)) != TAG_BLACK) {
		pr_err("tagged key provided is not a black key\n");
		return -EINVAL;
	}
	red_len = le32_to_cpu(tag.red_len);
	obj_len = le32_to_cpu(tag.obj_len);
	if (red_len != AES_KEYSIZE_128 && red_len != AES_KEYSIZE_192 &&
	    red_len != AES_KEYSIZE_256)
		return -EINVAL;
	/* The driver copies that much, over whatever follows its buffer. */
	if (obj_len > BLACK_OBJ_MAX)
		return -EINVAL;
	ctx->key.type = type;
	ctx->key.red_len = red_len;
	ctx->key.obj_len = obj_len;
	/* The driver reads past the end of a key that is too short; here there are zeros. */
	memset(ctx->key.black, 0, sizeof(ctx->key.black));
	memcpy(ctx->key.black, key + TAG_LEN, min(obj_len, len - (unsigned int)TAG_LEN));
	return 0;
}

/* One job, on the ring's thread. */
int tk_job(void *engine, struct crypto_async_request *base)
{
	struct skcipher_request *req = skcipher_request_cast(base);
	struct tk_ctx *ctx = crypto_skcipher_ctx(crypto_skcipher_reqtfm(req));
	struct tk_request *rctx = skcipher_request_ctx(req);
	int err;

	err = fault_request();
	if (err)
		return err;
	return chip_crypt(engine, &ctx->key, req, rctx->encrypt);
}

static int tk_crypt(struct skcipher_request *req, bool encrypt)
{
	struct tk_ctx *ctx = crypto_skcipher_ctx(crypto_skcipher_reqtfm(req));
	struct tk_request *rctx = skcipher_request_ctx(req);

	if (!req->cryptlen)
		return 0;
	if (req->cryptlen % AES_BLOCK_SIZE)
		return -EINVAL;
	rctx->encrypt = encrypt;
	return ring_enqueue(ctx->ring, &req->base);
}

static int tk_encrypt(struct skcipher_request *req)
{
	return tk_crypt(req, true);
}

static int tk_decrypt(struct skcipher_request *req)
{
	return tk_crypt(req, false);
}

static int tk_tfm_init(struct crypto_skcipher *tfm)
{
	struct tk_ctx *ctx = crypto_skcipher_ctx(tfm);

	ctx->ring = ring_get();
	if (IS_ERR(ctx->ring)) {
		pr_err("Job Ring Device allocation for transform failed\n");
		return PTR_ERR(ctx->ring);
	}
	crypto_skcipher_set_reqsize(tfm, sizeof(struct tk_request));
	return 0;
}

static void tk_tfm_exit(struct crypto_skcipher *tfm)
{
	struct tk_ctx *ctx = crypto_skcipher_ctx(tfm);

	ring_put(ctx->ring);
	memzero_explicit(&ctx->key, sizeof(ctx->key));
}

#define TK_ALG(mode, iv_bytes) {					\
	.base.cra_name = "tk(" mode "(aes))",				\
	.base.cra_driver_name = "tk-" mode "-aes-caam",			\
	.base.cra_priority = 3000,					\
	.base.cra_flags = CRYPTO_ALG_ASYNC | CRYPTO_ALG_KERN_DRIVER_ONLY,	\
	.base.cra_blocksize = AES_BLOCK_SIZE,				\
	.base.cra_ctxsize = sizeof(struct tk_ctx),			\
	.base.cra_module = THIS_MODULE,					\
	.init = tk_tfm_init,						\
	.exit = tk_tfm_exit,						\
	.setkey = tk_setkey,						\
	.encrypt = tk_encrypt,						\
	.decrypt = tk_decrypt,						\
	.min_keysize = TAG_LEN + RED_MIN,				\
	.max_keysize = BLACK_MAX,					\
	.ivsize = iv_bytes,						\
}

static struct skcipher_alg tk_algs[] = {
	TK_ALG("cbc", AES_BLOCK_SIZE),
	TK_ALG("ecb", 0),
};

static bool tk = true;
module_param(tk, bool, 0444);
MODULE_PARM_DESC(tk, "0: no tk ciphers, as a kernel without their driver");

int tk_init(void)
{
	if (!tk)
		return 0;
	return crypto_register_skciphers(tk_algs, ARRAY_SIZE(tk_algs));
}

void tk_exit(void)
{
	if (!tk)
		return;
	crypto_unregister_skciphers(tk_algs, ARRAY_SIZE(tk_algs));
}

MODULE_ALIAS_CRYPTO("tk(cbc(aes))");
MODULE_ALIAS_CRYPTO("tk(ecb(aes))");
