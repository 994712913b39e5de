// SPDX-License-Identifier: GPL-2.0
/* The ABI of /dev/caam-keygen: sizes, tags, errors and their texts. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include "selftest.h"

static void test_device(void)
{
	struct stat st;
	uint8_t buffer[64] = {0};

	ok(!stat(DEVICE, &st) && S_ISCHR(st.st_mode) && (st.st_mode & 07777) == 0600,
	   DEVICE " is a character device of mode 0600");
	is_errno(ioctl(device, 0xC0384B02u, buffer) ? errno : 0, ENOTTY, "an unknown ioctl");
	is_errno(ioctl(device, 0xC0344B00u, buffer) ? errno : 0, ENOTTY,
		 "CREATE with a struct of 52 bytes, as GOARCH=arm packs it");
	is_errno(ioctl(device, CREATE, NULL) ? errno : 0, EFAULT, "CREATE of NULL");
	is_errno(ioctl(device, IMPORT, NULL) ? errno : 0, EFAULT, "IMPORT of NULL");
}

static void test_sizes(void)
{
	static const struct {
		const char *wrap;
		int red;
		uint32_t type, black, blob;
	} rows[] = {
		{"ecb", 16, 1, 36, 96},	 {"ccm", 16, 9, 48, 96},
		{"ecb", 24, 1, 52, 104}, {"ccm", 24, 9, 56, 104},
		{"ecb", 32, 1, 52, 112}, {"ccm", 32, 9, 64, 112},
		{"ecb", 64, 1, 84, 144}, {"ccm", 64, 9, 96, 144},
		{"ecb", 20, 1, 52, 104}, {"ccm", 20, 9, 56, 104},
		{"ecb", 33, 1, 68, 120}, {"ccm", 33, 9, 72, 120},
	};
	struct key key, other;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		int err = create_sized(&key, rows[i].wrap, rows[i].red);

		ok(!err && key.black_len == rows[i].black && key.blob_len == rows[i].blob,
		   "CREATE %s %d gives a key of %u and a blob of %u bytes", rows[i].wrap,
		   rows[i].red, rows[i].black, rows[i].blob);
		ok(word(key.black, 0) == 0x5461674f && word(key.black, 1) == 0 &&
		   word(key.black, 2) == rows[i].type &&
		   word(key.black, 3) == (uint32_t)rows[i].red &&
		   word(key.black, 4) == rows[i].black - 20,
		   "... its key has the tag of a %s key of %d bytes", rows[i].wrap, rows[i].red);
		ok(!memcmp(key.blob, key.black, 16) && word(key.blob, 4) == rows[i].blob - 20,
		   "... its blob has the same tag but for the length");
		ok(key.black[key.black_len] == 0 && key.blob[key.blob_len] == 0,
		   "... and nothing is written past either");
		err = import(key.blob, key.blob_len, &other);
		ok(!err && other.black_len == rows[i].black && !memcmp(other.black, key.black, 20),
		   "... IMPORT gives a key with the same tag");
	}
}

static void test_create_errors(void)
{
	struct key key;
	struct cmd cmd;

	is_errno(create(&key, "ecb", "-s", "16", 0), EFAULT, "CREATE without a value");
	is_text(key.blob, "Invalid arguments.\n");
	cmd = prepare(&key, "ecb", "-s", "16", 3);
	cmd.key_enc_len = 0;
	is_errno(run(CREATE, &cmd), EFAULT, "CREATE without a wrap");
	cmd = prepare(&key, "ecb", "-s", "16", 3);
	cmd.key_mode_len = 0;
	is_errno(run(CREATE, &cmd), EFAULT, "CREATE without a mode");

	cmd = prepare(&key, "ecb", "-s", "16", 3);
	cmd.key_mode_len = 2;
	is_errno(run(CREATE, &cmd), EINVAL, "CREATE with a mode without its NUL");

	cmd = prepare(&key, "ecb", "-s", "16", 3);
	cmd.key_enc = 1;
	is_errno(run(CREATE, &cmd), EFAULT, "CREATE with a bad pointer to the wrap");
	is_text(key.blob, "Unable to copy from user the Encrypted Key Type.\n");
	cmd = prepare(&key, "ecb", "-s", "16", 3);
	cmd.key_mode = 1;
	is_errno(run(CREATE, &cmd), EFAULT, "CREATE with a bad pointer to the mode");
	is_text(key.blob, "Unable to copy from user the Key Mode: random (-s) or plaintext (-t).\n");
	cmd = prepare(&key, "ecb", "-s", "16", 3);
	cmd.key_value = 1;
	is_errno(run(CREATE, &cmd), EFAULT, "CREATE with a bad pointer to the value");
	is_text(key.blob, "Unable to copy from user the Key Value: size or plaintext.\n");
	cmd = prepare(&key, "ecb", "-s", "16", 3);
	cmd.black_key = 1;
	is_errno(run(CREATE, &cmd), EFAULT, "CREATE with a bad pointer to the key");
	cmd = prepare(&key, "ecb", "-s", "16", 3);
	cmd.blob = 1;
	is_errno(run(CREATE, &cmd), EFAULT, "CREATE with a bad pointer to the blob");

	is_errno(create(&key, "cbc", "-s", "16", 3), EINVAL, "CREATE with wrap cbc");
	is_text(key.blob, "Invalid argument for Encrypted Key Type, expected ecb or ccm.\n");
	is_errno(create(&key, "ccm", "-x", "16", 3), EINVAL, "CREATE with mode -x");
	is_text(key.blob, "Invalid argument for Key Mode, expected -s or -t.\n");
	is_errno(create(&key, "ccm", "-s", "many", 5), EINVAL, "CREATE of size \"many\"");
	is_text(key.blob, "Invalid key size.\n");
	is_errno(create(&key, "ccm", "-s", "15", 3), EINVAL, "CREATE of 15 bytes");
	is_text(key.blob, "Invalid key size, expected values are between 16 and 64 bytes.\n");
	is_errno(create(&key, "ccm", "-s", "65", 3), EINVAL, "CREATE of 65 bytes");
	is_errno(create(&key, "ccm", "-s", "99999999999", 12), ERANGE, "CREATE of 99999999999 bytes");
	is_errno(create(&key, "ccm", "-t", "too short", 9), EINVAL, "CREATE from 9 bytes");

	cmd = prepare(&key, "cbc", "-s", "16", 3);
	cmd.blob_len = 8;
	is_errno(run(CREATE, &cmd), EINVAL, "a text for which there are 8 bytes");
	is_text(key.blob, "Invalid");

	cmd = prepare(&key, "ccm", "-s", "32", 3);
	cmd.black_key_len = 43;
	is_errno(run(CREATE, &cmd), EINVAL, "CREATE with room for no black key");
	is_text(key.blob, "");
	cmd = prepare(&key, "ccm", "-s", "32", 3);
	cmd.black_key_len = 63;
	is_errno(run(CREATE, &cmd), EINVAL, "CREATE with room for no tagged black key");
	is_text(key.blob, "Not enough space for black key.\n");
	ok(cmd.black_key_len == 64, "... and reports the length that is needed");
	cmd = prepare(&key, "ccm", "-s", "32", 3);
	cmd.blob_len = 111;
	is_errno(run(CREATE, &cmd), EINVAL, "CREATE with room for no tagged blob");
	is_text(key.blob, "Not enough space for blob key.\n");
	ok(cmd.blob_len == 112, "... and reports the length that is needed");
}

/* A tag is not authenticated, but its contents are used to open the blob. */
static void test_rewritten_tags(const struct key *key)
{
	static const struct {
		int nr;
		uint32_t value;
		int err;
		const char *what;
	} rows[] = {
		{2, 8, EBADMSG, "a red key"},
		{2, 1, EBADMSG, "the other wrap"},
		{2, 9 | 4, EINVAL, "a TDKEK"},
		{2, 9 | 16, EINVAL, "secure memory"},
		{2, 9 | 2, 0, "a blob"},
		{1, 1, 0, "another version"},
	};
	struct key out;
	uint8_t blob[192];
	int err;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		memcpy(blob, key->blob, sizeof(blob));
		put_word(blob, rows[i].nr, rows[i].value);
		err = import(blob, 112, &out);
		ok(err == rows[i].err, "IMPORT with a tag that says %s: errno %d", rows[i].what, rows[i].err);
		if (rows[i].err)
			is_text(out.black, "");
	}
}

/* What the hardware does not write in a blob is what the driver's buffer held. */
static void test_tails(void)
{
	struct key one, other;

	create_sized(&one, "ccm", 32);
	create_sized(&other, "ccm", 32);
	ok(memcmp(one.blob + 20, other.blob + 20, 80) && !memcmp(one.blob + 100, other.blob + 100, 12),
	   "the last 12 bytes of a blob are not random");
}

static void test_import_errors(void)
{
	struct key key, out;
	struct cmd cmd;
	uint8_t blob[192];

	create_sized(&key, "ccm", 32);

	is_errno(import((void *)1, 112, &out), EFAULT, "IMPORT of a bad pointer");
	is_text(out.black, "Unable to copy from user the blob.\n");
	is_errno(import(key.blob, 0, &out), EINVAL, "IMPORT of nothing");
	is_errno(import(key.blob, 20, &out), EINVAL, "IMPORT of a tag alone");
	is_errno(import(key.blob, 111, &out), EINVAL, "IMPORT of a blob cut short");
	is_errno(import(key.blob, 113, &out), EINVAL, "IMPORT of a blob with a byte too many");
	is_errno(import(key.blob, 145, &out), EINVAL,
		 "IMPORT of 145 bytes (the BSP's kernel overruns its buffer here)");
	is_errno(import(key.blob, 160, &out), EINVAL, "IMPORT of 160 bytes (and here)");
	is_errno(import(key.blob, 161, &out), EFAULT, "IMPORT of 161 bytes");
	is_text(out.black, "");
	is_errno(import(key.black, key.black_len, &out), EINVAL, "IMPORT of a black key");
	is_text(out.black, "");

	memcpy(blob, key.blob, sizeof(blob));
	blob[0] ^= 1;
	is_errno(import(blob, 112, &out), EINVAL, "IMPORT with the magic damaged");
	memcpy(blob, key.blob, sizeof(blob));
	put_word(blob, 3, 15);
	is_errno(import(blob, 112, &out), EINVAL, "IMPORT with a red key length of 15");
	put_word(blob, 3, 65);
	is_errno(import(blob, 112, &out), EINVAL, "IMPORT with a red key length of 65");
	put_word(blob, 3, 24);
	is_errno(import(blob, 112, &out), EBADMSG, "IMPORT with a red key length of 24, not 32");
	put_word(blob, 3, 64);
	is_errno(import(blob, 112, &out), EBADMSG, "IMPORT with a red key length of 64, not 32");
	memcpy(blob, key.blob, sizeof(blob));
	put_word(blob, 4, 91);
	is_errno(import(blob, 112, &out), EINVAL, "IMPORT with an object length of 91, not 92");

	test_rewritten_tags(&key);

	for (int i = 20; i < 112; i++) {
		int used = i < 20 + 32 + 48, err;

		if (i % 9 && i != 99 && i != 100)
			continue;
		memcpy(blob, key.blob, sizeof(blob));
		blob[i] ^= 0x80;
		err = import(blob, 112, &out);
		ok(err == (used ? EBADMSG : 0), "IMPORT with byte %d flipped: %s", i,
		   used ? "EBADMSG" : "not noticed, the hardware does not read it");
	}

	memcpy(blob, key.blob, sizeof(blob));
	memset(&out, 0, sizeof(out));
	cmd = (struct cmd){.black_key_len = 43, .black_key = (uintptr_t)out.black,
			   .blob_len = 112, .blob = (uintptr_t)blob};
	is_errno(run(IMPORT, &cmd), EINVAL, "IMPORT with room for less than the blob without its 48 bytes");
	ok(!memcmp(blob, key.blob, 112), "... leaves no text over the blob");
	is_text(out.black, "");

	cmd = (struct cmd){.black_key_len = 63, .black_key = (uintptr_t)out.black,
			   .blob_len = 112, .blob = (uintptr_t)blob};
	memcpy(blob, key.blob, sizeof(blob));
	is_errno(run(IMPORT, &cmd), EINVAL, "IMPORT with room for no tagged key");
	is_text(blob, "Not enough space for black key.\n");
	ok(cmd.black_key_len == 64, "... over the blob, and reports the length that is needed");
}

static long free_kilobytes(void)
{
	char line[128];
	long kilobytes = -1;
	FILE *file = fopen("/proc/meminfo", "r");

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "MemFree: %ld", &kilobytes) == 1)
			break;
	if (file)
		fclose(file);
	return kilobytes;
}

/* Each round allocates at least 512 bytes in the kernel on each of these paths. */
static void test_leaks(void)
{
	const int rounds = has("otpmk") ? 10000 : 2000; /* jobs take their time */
	struct key key, out;
	struct cmd cmd;
	long before, lost;

	create_sized(&key, "ccm", 32);
	before = free_kilobytes();
	for (int i = 0; i < rounds; i++) {
		create(&out, "cbc", "-s", "16", 500);
		create_sized(&out, "ecb", 32);
		cmd = prepare(&out, "ccm", "-s", "32", 3);
		cmd.blob = 1;
		run(CREATE, &cmd);
		import((void *)1, 112, &out);
		import(key.blob, key.blob_len, &out);
	}
	lost = before - free_kilobytes();
	ok(lost < 4096, "%d rounds of calls, good and bad, leak nothing", rounds);
	printf("# %ld KiB less free\n", lost);
}

void selftest_abi(void)
{
	test_device();
	test_sizes();
	test_create_errors();
	test_import_errors();
	test_tails();
	test_leaks();
}
