// SPDX-License-Identifier: GPL-2.0
/*
 * /dev/caam-keygen: CREATE and IMPORT with the layout, the order of checks, the
 * errors and the texts of NXP's driver (BSP 5.4.47 to 6.18).
 *
 * One thing differs: that driver also copies up to 160 bytes of blob over what
 * follows its buffer of 144; this one only returns EINVAL.
 */
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include "simcaam.h"

struct keygen_cmd {
	__u8 key_enc_len;
	__u8 key_mode_len;
	__u16 key_value_len;
	__u32 black_key_len;
	__u64 key_enc;
	__u64 key_mode;
	__u64 key_value;
	__u64 black_key;
	__u32 blob_len;
	__u64 blob __aligned(8);
};
static_assert(sizeof(struct keygen_cmd) == 56);

#define KEYGEN_CREATE	_IOWR('K', 0, struct keygen_cmd)
#define KEYGEN_IMPORT	_IOWR('K', 1, struct keygen_cmd)
static_assert(KEYGEN_CREATE == 0xC0384B00);
static_assert(KEYGEN_IMPORT == 0xC0384B01);

#define IMPORT_STRUCT	160

static bool cstring_keys;
module_param(cstring_keys, bool, 0644);
MODULE_PARM_DESC(cstring_keys, "1: cut a -t key at its first zero byte, as kernels up to 5.10 do (default 0)");

/* What passes between the checks, the hardware and the answer. */
struct keygen_job {
	u32 type;
	size_t red_len;
	bool random;
	u8 red[RED_MAX];
	size_t black_len;	/* in: the user's room; out: with tag */
	u8 black[BLACK_MAX];
	size_t blob_len;
	u8 blob[BLOB_MAX];
};

void tag_write(struct tag *tag, u32 type, size_t red_len, size_t obj_len)
{
	tag->magic = cpu_to_le32(TAG_MAGIC);
	tag->version = 0;
	tag->type = cpu_to_le32(type);
	tag->red_len = cpu_to_le32(red_len);
	tag->obj_len = cpu_to_le32(obj_len);
}

/* Write a text to a user buffer, truncated to the room there is. */
static void say(u64 buffer, size_t room, const char *text)
{
	void __user *out = u64_to_user_ptr(buffer);
	size_t len;

	if (room <= 1)
		return;
	len = min(room - 1, strlen(text));
	/* The driver does not care whether the text arrives. */
	if (copy_to_user(out, text, len) || put_user(0, (char __user *)out + len))
		return;
}

/* Fetch a user's word into text, which has room for len and a NUL. */
static int fetch(char *text, u64 from, size_t len)
{
	if (copy_from_user(text, u64_to_user_ptr(from), len))
		return -EFAULT;
	text[len] = 0;
	return 0;
}

static int refuse(const struct keygen_cmd *cmd, int err, const char *text)
{
	say(cmd->blob, cmd->blob_len, text);
	return err;
}

static int check_red_len(const struct keygen_cmd *cmd, size_t len)
{
	if (len >= RED_MIN && len <= RED_MAX)
		return 0;
	return refuse(cmd, -EINVAL,
		      "Invalid key size, expected values are between 16 and 64 bytes.\n");
}

/* The key's size or its bytes, depending on the mode. */
static int create_value(const struct keygen_cmd *cmd, struct keygen_job *job, char *text)
{
	size_t len = cmd->key_value_len;
	u32 size;
	int err;

	if (job->random) {
		err = kstrtou32(text, 10, &size);
		if (err)
			return refuse(cmd, err, "Invalid key size.\n");
		len = size;
	} else if (READ_ONCE(cstring_keys)) {
		len = strlen(text);
	}
	err = check_red_len(cmd, len);
	if (err)
		return err;
	job->red_len = len;
	if (!job->random)
		memcpy(job->red, text, len);
	return 0;
}

static int create_words(const struct keygen_cmd *cmd, struct keygen_job *job, char *text)
{
	if (fetch(text, cmd->key_enc, cmd->key_enc_len))
		return refuse(cmd, -EFAULT,
			      "Unable to copy from user the Encrypted Key Type.\n");
	job->type = TAG_BLACK;
	if (!strcmp(text, "ccm"))
		job->type |= TAG_CCM;
	else if (strcmp(text, "ecb"))
		return refuse(cmd, -EINVAL,
			      "Invalid argument for Encrypted Key Type, expected ecb or ccm.\n");

	if (fetch(text, cmd->key_mode, cmd->key_mode_len))
		return refuse(cmd, -EFAULT,
			      "Unable to copy from user the Key Mode: random (-s) or plaintext (-t).\n");
	job->random = !strcmp(text, "-s");
	/* The NUL must be part of what the user passed. */
	if (strlen(text) == cmd->key_mode_len || (!job->random && strcmp(text, "-t")))
		return refuse(cmd, -EINVAL,
			      "Invalid argument for Key Mode, expected -s or -t.\n");

	if (fetch(text, cmd->key_value, cmd->key_value_len))
		return refuse(cmd, -EFAULT,
			      "Unable to copy from user the Key Value: size or plaintext.\n");
	return create_value(cmd, job, text);
}

static int create_check(const struct keygen_cmd *cmd, struct keygen_job *job)
{
	size_t room = max_t(size_t, cmd->key_value_len,
			    max(cmd->key_enc_len, cmd->key_mode_len)) + 1;
	char *text;
	int err;

	if (!cmd->key_enc_len || !cmd->key_mode_len || !cmd->key_value_len)
		return refuse(cmd, -EFAULT, "Invalid arguments.\n");
	text = kmalloc(room, GFP_KERNEL);
	if (!text)
		return refuse(cmd, -ENOMEM,
			      "Unable to allocate memory for temporary buffer.\n");
	err = create_words(cmd, job, text);
	kfree_sensitive(text);
	return err;
}

/* Tag the key in job->black. */
static void tag_black(struct keygen_job *job)
{
	size_t len = black_obj_len(job->type, job->red_len);

	tag_write((struct tag *)job->black, job->type, job->red_len, len);
	job->black_len = TAG_LEN + len;
}

static int create_run(struct keygen_job *job)
{
	size_t len = blob_obj_len(job->red_len);
	int err;

	err = fault_create();
	if (err)
		return err;
	if (job->black_len < black_obj_len(job->type, job->red_len))
		return -EINVAL;
	err = chip_make(job->type, job->random ? NULL : job->red, job->red_len,
			job->black + TAG_LEN);
	if (err)
		return err;
	tag_black(job);
	if (job->blob_len < len)
		return -EINVAL;
	err = chip_seal(job->type, job->black + TAG_LEN, job->red_len, job->blob + TAG_LEN);
	if (err)
		return err;
	tag_write((struct tag *)job->blob, job->type, job->red_len, len);
	job->blob_len = TAG_LEN + len;
	count(COUNT_CREATES);
	return 0;
}

static int import_check(const struct keygen_cmd *cmd, struct keygen_job *job)
{
	/* The kernel's own check of copies: 160 bytes end with the destination struct. */
	if (cmd->blob_len > IMPORT_STRUCT) {
		pr_warn("Buffer overflow detected (%u < %u)!\n", IMPORT_STRUCT, cmd->blob_len);
		return -EFAULT;
	}
	if (cmd->blob_len > BLOB_MAX)
		return -EINVAL;
	if (!copy_from_user(job->blob, u64_to_user_ptr(cmd->blob), cmd->blob_len))
		return 0;
	say(cmd->black_key, cmd->black_key_len, "Unable to copy from user the blob.\n");
	return -EFAULT;
}

static int import_run(struct keygen_job *job)
{
	const struct tag *tag = (struct tag *)job->blob;
	size_t obj_len;
	int err;

	if (job->blob_len <= TAG_LEN || le32_to_cpu(tag->magic) != TAG_MAGIC)
		return -EINVAL;
	job->red_len = le32_to_cpu(tag->red_len);
	if (job->red_len < RED_MIN || job->red_len > RED_MAX)
		return -EINVAL;
	obj_len = job->blob_len - TAG_LEN;
	if (obj_len != le32_to_cpu(tag->obj_len) || obj_len <= BLOB_OVERHEAD)
		return -EINVAL;
	job->type = le32_to_cpu(tag->type);
	if (job->type & (TAG_TDKEK | TAG_MEMORY))
		return -EINVAL;
	/* The driver wants room for a CCM key whatever the wrap. */
	if (job->black_len < obj_len - BLOB_OVERHEAD ||
	    job->black_len < black_obj_len(job->type, job->red_len))
		return -EINVAL;
	err = fault_import();
	if (err)
		return err;
	err = chip_open(job->type, job->blob + TAG_LEN, job->red_len, job->black + TAG_LEN);
	if (!err && fault_wrong_import())
		err = chip_make(job->type, NULL, job->red_len, job->black + TAG_LEN);
	if (err)
		return err;
	tag_black(job);
	count(COUNT_IMPORTS);
	return 0;
}

/* Return what was made, and the lengths, even if the room was too small. */
static int answer(struct keygen_cmd *cmd, const struct keygen_job *job, bool create)
{
	size_t black_room = cmd->black_key_len, blob_room = cmd->blob_len;

	cmd->black_key_len = job->black_len;
	if (black_room < job->black_len)
		/* On IMPORT, too, the text goes over the blob. */
		return refuse(cmd, -EINVAL, "Not enough space for black key.\n");
	if (copy_to_user(u64_to_user_ptr(cmd->black_key), job->black, job->black_len))
		return -EFAULT;
	if (!create)
		return 0;

	if (blob_room < job->blob_len) {
		refuse(cmd, -EINVAL, "Not enough space for blob key.\n");
		cmd->blob_len = job->blob_len;
		return -EINVAL;
	}
	cmd->blob_len = job->blob_len;
	if (copy_to_user(u64_to_user_ptr(cmd->blob), job->blob, job->blob_len))
		return -EFAULT;
	return 0;
}

/* jobs: how many jobs the hardware does for this. */
static int on_hardware(struct keygen_job *job, int (*run)(struct keygen_job *job),
		       unsigned int jobs)
{
	struct ring *ring = ring_get();
	int err;

	if (IS_ERR(ring)) {
		pr_err("Job Ring Device allocation failed\n");
		return PTR_ERR(ring);
	}
	err = run(job);
	ring_wait(ring, jobs);
	ring_put(ring);
	if (err)
		pr_err("%s failed: %d\n",
		       run == create_run ? "Black key generation" : "Blob decapsulation", err);
	return err;
}

static int keygen_do(struct keygen_cmd *cmd, struct keygen_cmd __user *user,
		     struct keygen_job *job, bool create)
{
	int err;

	job->black_len = cmd->black_key_len;
	job->blob_len = cmd->blob_len;
	err = create ? create_check(cmd, job) : import_check(cmd, job);
	if (err)
		return err;
	err = create ? on_hardware(job, create_run, 2) : on_hardware(job, import_run, 1);
	if (err)
		return err;
	err = answer(cmd, job, create);
	if (err != -EFAULT && copy_to_user(user, cmd, sizeof(*cmd)))
		return -EFAULT;
	return err;
}

static long keygen_ioctl(struct file *file, unsigned int nr, unsigned long arg)
{
	struct keygen_cmd __user *user = (void __user *)arg;
	struct keygen_cmd cmd;
	struct keygen_job *job;
	int err;

	if (nr != KEYGEN_CREATE && nr != KEYGEN_IMPORT)
		return -ENOTTY;
	if (copy_from_user(&cmd, user, sizeof(cmd)))
		return -EFAULT;
	job = kzalloc(sizeof(*job), GFP_KERNEL);
	if (!job)
		return -ENOMEM;
	err = keygen_do(&cmd, user, job, nr == KEYGEN_CREATE);
	kfree_sensitive(job);
	return err;
}

static const struct file_operations keygen_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = keygen_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

static struct miscdevice keygen_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "caam-keygen",
	.mode = 0600,
	.fops = &keygen_fops,
};

int keygen_init(void)
{
	return misc_register(&keygen_device);
}

void keygen_exit(void)
{
	misc_deregister(&keygen_device);
}
