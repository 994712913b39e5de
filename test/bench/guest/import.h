/* SPDX-License-Identifier: GPL-2.0 */
/* Import a blob through the interface of NXP's BSP (caam_keygen.h there). */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

struct cmd {
	uint8_t key_enc_len, key_mode_len;
	uint16_t key_value_len;
	uint32_t black_key_len;
	uint64_t key_enc, key_mode, key_value, black_key;
	uint32_t blob_len, pad;
	uint64_t blob;
};

static void die(const char *what)
{
	perror(what);
	exit(1);
}

/* Writes the black key to key, which has room for 96 bytes; returns its length. */
static size_t import(const char *file, uint8_t *key)
{
	uint8_t blob[144];
	int fd = open(file, O_RDONLY | O_CLOEXEC);
	ssize_t n = read(fd, blob, sizeof(blob));
	if (fd < 0 || n <= 0)
		die(file);
	close(fd);
	struct cmd cmd = {
		.black_key_len = 96, .black_key = (uintptr_t)key,
		.blob_len = n, .blob = (uintptr_t)blob,
	};
	fd = open("/dev/caam-keygen", O_RDWR | O_CLOEXEC);
	if (fd < 0 || ioctl(fd, 0xC0384B01u, &cmd))
		die("/dev/caam-keygen");
	close(fd);
	return cmd.black_key_len;
}
