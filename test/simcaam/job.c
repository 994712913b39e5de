// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What the silicon does with keys, done by the silicon: jobs for the kernel's own CAAM
 * driver, whose headers build the descriptors. A job is the one that NXP's driver makes
 * for the same request, except for the location of the data: it passes through memory
 * that belongs to a ring.
 */
#include "compat.h"
#include "desc_constr.h"
#include "error.h"
#include "jr.h"
#include "simcaam.h"

/* What mainline's desc.h lacks: the wrap of a black key that is stored, and the flag
 * for a blob of a black key.
 */
#define FIFOST_TYPE_KEY_CCM	(0x14 << FIFOST_TYPE_SHIFT)
#define OP_PCL_BLOB_BLACK	BIT(2)
#define OP_PCL_BLOB_CCM		BIT(8)

#define BLOB_MODIFIER	"CAAM_KEY_TYPE_V1"	/* the driver's, fixed; 16 bytes */
#define PIECE		4096

/* The memory that a job reads and writes. */
struct window {
	u8 iv[AES_BLOCK_SIZE];
	u8 in[BLOB_OBJ_MAX];
	u8 out[BLOB_OBJ_MAX];
	u8 data[PIECE];
};

struct engine {
	u32 job[MAX_CAAM_DESCSIZE];	/* first, because a descriptor must be aligned */
	struct device *ring;
	struct window *window;
	dma_addr_t address;		/* of the window */
	struct completion done;
	u32 status;
};

#define AT(e, member)	((e)->address + offsetof(struct window, member))

static void job_done(struct device *ring, u32 *job, u32 status, void *arg)
{
	struct engine *e = arg;

	e->status = status;
	complete(&e->done);
}

static int job_run(struct engine *e)
{
	int err;

	reinit_completion(&e->done);
	err = caam_jr_enqueue(e->ring, e->job, job_done, e);
	if (err != -EINPROGRESS)
		return err;
	wait_for_completion(&e->done);
	return e->status ? caam_jr_strstatus(e->ring, e->status) : 0;
}

void *chip_engine(void)
{
	struct engine *e;
	int err;

	e = kzalloc(sizeof(*e), GFP_KERNEL);
	if (!e)
		return ERR_PTR(-ENOMEM);
	init_completion(&e->done);
	e->ring = caam_jr_alloc();
	err = PTR_ERR_OR_ZERO(e->ring);
	if (err)
		goto memory;
	e->window = dma_alloc_coherent(e->ring, sizeof(*e->window), &e->address, GFP_KERNEL);
	if (e->window)
		return e;
	err = -ENOMEM;
	caam_jr_free(e->ring);
memory:
	kfree(e);
	return ERR_PTR(err);
}

void chip_engine_free(void *engine)
{
	struct engine *e = engine;

	memzero_explicit(e->window, sizeof(*e->window));
	dma_free_coherent(e->ring, sizeof(*e->window), e->window, e->address);
	caam_jr_free(e->ring);
	kfree_sensitive(e);
}

int chip_make(u32 type, const u8 *red, size_t red_len, u8 *black)
{
	struct engine *e = chip_engine();
	int err;

	if (IS_ERR(e))
		return PTR_ERR(e);
	init_job_desc(e->job, 0);
	if (red) {
		append_key_as_imm(e->job, red, red_len, red_len, CLASS_1 | KEY_DEST_CLASS_REG);
	} else {
		/* Random bytes go to the key register inside the CAAM. */
		append_operation(e->job, OP_TYPE_CLASS1_ALG | OP_ALG_ALGSEL_RNG);
		append_cmd(e->job, CMD_FIFO_STORE | FIFOST_TYPE_RNGFIFO | red_len);
		append_move(e->job, MOVE_WAITCOMP | MOVE_SRC_OUTFIFO | MOVE_DEST_CLASS1KEY | red_len);
		append_load_imm_u32(e->job, red_len, LDST_CLASS_1_CCB | LDST_SRCDST_WORD_KEYSZ_REG);
	}
	append_fifo_store(e->job, AT(e, out), red_len, FIFOST_CLASS_CLASS1KEY |
			  (type & TAG_CCM ? FIFOST_TYPE_KEY_CCM : FIFOST_TYPE_KEY_KEK));
	err = job_run(e);
	if (!err)
		memcpy(black, e->window->out, black_obj_len(type, red_len));
	chip_engine_free(e);
	return err;
}

/* The blob protocol, from `from` to `to`. Its lengths are those of the red key. */
static int blob_job(u32 protocol, u32 type, const u8 *from, size_t from_room, size_t from_len,
		    u8 *to, size_t to_room, size_t to_len)
{
	struct engine *e = chip_engine();
	int err;

	if (IS_ERR(e))
		return PTR_ERR(e);
	memcpy(e->window->in, from, from_room);
	init_job_desc(e->job, 0);
	append_key_as_imm(e->job, BLOB_MODIFIER, strlen(BLOB_MODIFIER), strlen(BLOB_MODIFIER),
			  CLASS_2 | KEY_DEST_CLASS_REG);
	append_seq_in_ptr_intlen(e->job, AT(e, in), from_len, 0);
	append_seq_out_ptr_intlen(e->job, AT(e, out), to_len, 0);
	append_operation(e->job, protocol | OP_PCLID_BLOB |
			 (type & TAG_BLACK ? OP_PCL_BLOB_BLACK : 0) |
			 (type & TAG_CCM ? OP_PCL_BLOB_CCM : 0));
	err = job_run(e);
	if (!err)
		memcpy(to, e->window->out, to_room);
	chip_engine_free(e);
	return err;
}

int chip_seal(u32 type, const u8 *black, size_t red_len, u8 *blob)
{
	return blob_job(OP_TYPE_ENCAP_PROTOCOL, type, black, black_obj_len(type, red_len), red_len,
			blob, blob_obj_len(red_len), red_len + BLOB_OVERHEAD);
}

int chip_open(u32 type, const u8 *blob, size_t red_len, u8 *black)
{
	return blob_job(OP_TYPE_DECAP_PROTOCOL, type, blob, BLOB_OBJ_MAX, red_len + BLOB_OVERHEAD,
			black, black_obj_len(type, red_len), red_len);
}

/* A piece of a request, in place. The key is unwrapped on the way each time. */
static void crypt_job(struct engine *e, const struct tk_key *key, bool cbc, bool encrypt,
		      unsigned int len)
{
	const u32 context = LDST_CLASS_1_CCB | LDST_SRCDST_BYTE_CONTEXT;

	init_job_desc(e->job, 0);
	append_key_as_imm(e->job, key->black, key->obj_len, key->red_len,
			  CLASS_1 | KEY_DEST_CLASS_REG | KEY_ENC |
			  (key->type & TAG_CCM ? KEY_EKT : 0) |
			  (key->type & TAG_TDKEK ? KEY_TK : 0));
	if (cbc)
		append_load(e->job, AT(e, iv), AES_BLOCK_SIZE, context);
	append_operation(e->job, OP_TYPE_CLASS1_ALG | OP_ALG_ALGSEL_AES | OP_ALG_AS_INITFINAL |
			 (cbc ? OP_ALG_AAI_CBC : OP_ALG_AAI_ECB) |
			 (encrypt ? OP_ALG_ENCRYPT : OP_ALG_DECRYPT));
	append_seq_in_ptr(e->job, AT(e, data), len, 0);
	append_seq_out_ptr(e->job, AT(e, data), len, 0);
	append_seq_fifo_load(e->job, len, FIFOLD_CLASS_CLASS1 | FIFOLD_TYPE_MSG | FIFOLD_TYPE_LAST1);
	append_seq_fifo_store(e->job, len, FIFOST_TYPE_MESSAGE_DATA);
	if (cbc)
		append_store(e->job, AT(e, iv), AES_BLOCK_SIZE, context);
}

int chip_crypt(void *engine, const struct tk_key *key, struct skcipher_request *req, bool encrypt)
{
	bool cbc = crypto_skcipher_ivsize(crypto_skcipher_reqtfm(req));
	struct engine *e = engine;
	struct window *w = e->window;
	unsigned int at, len;
	int err;

	if (cbc)
		memcpy(w->iv, req->iv, sizeof(w->iv));
	for (at = 0; at < req->cryptlen; at += len) {
		len = min_t(unsigned int, req->cryptlen - at, PIECE);
		scatterwalk_map_and_copy(w->data, req->src, at, len, 0);
		crypt_job(e, key, cbc, encrypt, len);
		err = job_run(e);
		if (err)
			return err;
		scatterwalk_map_and_copy(w->data, req->dst, at, len, 1);
	}
	if (cbc)
		memcpy(req->iv, w->iv, sizeof(w->iv));
	return 0;
}

int chip_init(void)
{
	struct engine *e = chip_engine();

	if (IS_ERR(e)) {
		pr_err("no job ring of a CAAM: %ld\n", PTR_ERR(e));
		return PTR_ERR(e);
	}
	chip_engine_free(e);
	return 0;
}

void chip_exit(void)
{
}
