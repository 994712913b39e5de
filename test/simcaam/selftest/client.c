// SPDX-License-Identifier: GPL-2.0
/* The calls themselves, and the words of a tagged object. */
#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include "selftest.h"

int device = -1;

struct cmd prepare(struct key *key, const char *wrap, const char *mode,
			  const void *value, size_t len)
{
	memset(key, 0, sizeof(*key));
	return (struct cmd){
		.key_enc_len = strlen(wrap) + 1,
		.key_mode_len = strlen(mode) + 1,
		.key_value_len = len,
		.black_key_len = 96,
		.key_enc = (uintptr_t)wrap,
		.key_mode = (uintptr_t)mode,
		.key_value = (uintptr_t)value,
		.black_key = (uintptr_t)key->black,
		.blob_len = 144,
		.blob = (uintptr_t)key->blob,
	};
}

int run(unsigned long request, struct cmd *cmd)
{
	return ioctl(device, request, cmd) ? errno : 0;
}

int create(struct key *key, const char *wrap, const char *mode,
		  const void *value, size_t len)
{
	struct cmd cmd = prepare(key, wrap, mode, value, len);
	int err = run(CREATE, &cmd);

	key->black_len = cmd.black_key_len;
	key->blob_len = cmd.blob_len;
	return err;
}

int create_sized(struct key *key, const char *wrap, int size)
{
	char text[12];

	snprintf(text, sizeof(text), "%d", size);
	return create(key, wrap, "-s", text, strlen(text) + 1);
}

/* Import a blob of that length; the resulting key, or the text, goes to out. */
int import(const uint8_t *blob, uint32_t len, struct key *out)
{
	struct cmd cmd = {
		.black_key_len = 96,
		.black_key = (uintptr_t)out->black,
		.blob_len = len,
		.blob = (uintptr_t)blob,
	};
	int err;

	memset(out, 0, sizeof(*out));
	err = run(IMPORT, &cmd);
	out->black_len = cmd.black_key_len;
	return err;
}

uint32_t word(const uint8_t *object, int nr)
{
	uint32_t le;

	memcpy(&le, object + 4 * nr, 4);
	return le32toh(le);
}

void put_word(uint8_t *object, int nr, uint32_t value)
{
	uint32_t le = htole32(value);

	memcpy(object + 4 * nr, &le, 4);
}
