// SPDX-License-Identifier: GPL-2.0
/* AES with black keys, in software: the work of one of chip.c's rings. It allocates
 * nothing. */
#include <crypto/internal/skcipher.h>
#include <linux/err.h>
#include "simcaam.h"

/* A synchronous cbc(aes) that needs no memory for a request. */
void *chip_engine(void)
{
	struct crypto_skcipher *cbc;
	struct skcipher_request *req;

	cbc = crypto_alloc_skcipher("cbc(aes)", 0,
				    CRYPTO_ALG_ASYNC | CRYPTO_ALG_ALLOCATES_MEMORY);
	if (IS_ERR(cbc)) {
		pr_err("no cbc(aes) in this kernel: %ld\n", PTR_ERR(cbc));
		return cbc;
	}
	req = skcipher_request_alloc(cbc, GFP_KERNEL);
	if (req)
		return req;
	crypto_free_skcipher(cbc);
	return ERR_PTR(-ENOMEM);
}

void chip_engine_free(void *engine)
{
	struct crypto_skcipher *cbc = crypto_skcipher_reqtfm(engine);

	skcipher_request_free(engine);
	crypto_free_skcipher(cbc);
}

static int run_cbc(struct skcipher_request *sub, struct skcipher_request *req, bool encrypt,
		   const u8 *red, unsigned int red_len)
{
	int err;

	err = crypto_skcipher_setkey(crypto_skcipher_reqtfm(sub), red, red_len);
	if (err)
		return err;
	skcipher_request_set_callback(sub, 0, NULL, NULL);
	skcipher_request_set_crypt(sub, req->src, req->dst, req->cryptlen, req->iv);
	return encrypt ? crypto_skcipher_encrypt(sub) : crypto_skcipher_decrypt(sub);
}

/* By hand: Debian's ecb(aes) is a module that nothing else here needs. */
static int run_ecb(struct skcipher_request *req, bool encrypt,
		   const u8 *red, unsigned int red_len)
{
	struct crypto_aes_ctx key;
	struct skcipher_walk walk;
	int err;

	err = aes_expandkey(&key, red, red_len);
	if (!err)
		err = skcipher_walk_virt(&walk, req, false);
	while (!err && walk.nbytes) {
		const u8 *src = walk.src.virt.addr;
		u8 *dst = walk.dst.virt.addr;
		unsigned int left = walk.nbytes;

		for (; left >= AES_BLOCK_SIZE; left -= AES_BLOCK_SIZE) {
			if (encrypt)
				aes_encrypt(&key, dst, src);
			else
				aes_decrypt(&key, dst, src);
			src += AES_BLOCK_SIZE;
			dst += AES_BLOCK_SIZE;
		}
		err = skcipher_walk_done(&walk, left);
	}
	memzero_explicit(&key, sizeof(key));
	return err;
}

int chip_crypt(void *engine, const struct tk_key *key, struct skcipher_request *req, bool encrypt)
{
	u8 red[AES_KEYSIZE_256] __aligned(16);
	int err;

	/* A job that the hardware cannot do: TDKEK, or an ECB key of the wrong length. */
	if (key->type & TAG_TDKEK)
		return -EINVAL;
	if (!(key->type & TAG_CCM) && key->obj_len != black_obj_len(key->type, key->red_len))
		return -EINVAL;
	err = chip_unwrap(key->type, key->black, red, key->red_len);
	if (err)
		return err;
	if (crypto_skcipher_ivsize(crypto_skcipher_reqtfm(req)))
		err = run_cbc(engine, req, encrypt, red, key->red_len);
	else
		err = run_ecb(req, encrypt, red, key->red_len);
	memzero_explicit(red, sizeof(red));
	return err;
}
