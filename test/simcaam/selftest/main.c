// SPDX-License-Identifier: GPL-2.0
/*
 * What the simulated CAAM promises, checked from user space, and a small client.
 *
 *   selftest                             all checks; TAP
 *   selftest create ecb|ccm SIZE KEY BLOB
 *   selftest import BLOB KEY             KEY and BLOB are files, KEY a black key
 *
 * Exit status: 0 done or all passed, 1 failed, 2 usage; of create and import, the
 * errno of the ioctl. Needs root and imxcrypt_simcaam; the checks need af_alg and
 * algif_skcipher too. They change the module's parameters and put them back, but
 * draw a new JDKEK: black keys made before are dead after them.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "selftest.h"

static int save(const char *path, const uint8_t *data, size_t len)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	if (fd < 0 || write(fd, data, len) != (ssize_t)len || close(fd)) {
		perror(path);
		return 1;
	}
	return 0;
}

static int do_create(const char *wrap, const char *size, const char *key_path,
		     const char *blob_path)
{
	struct key key;
	int err = create(&key, wrap, "-s", size, strlen(size) + 1);

	if (err) {
		fprintf(stderr, "create: %s: %s", strerror(err),
			key.blob[0] ? (char *)key.blob : "\n");
		return err;
	}
	return save(key_path, key.black, key.black_len) ||
	       save(blob_path, key.blob, key.blob_len);
}

static int do_import(const char *blob_path, const char *key_path)
{
	struct key key;
	uint8_t blob[145];
	int fd = open(blob_path, O_RDONLY), err;
	ssize_t len = fd < 0 ? -1 : read(fd, blob, sizeof(blob));

	if (len < 0) {
		perror(blob_path);
		return 1;
	}
	err = import(blob, len, &key);
	if (err) {
		fprintf(stderr, "import: %s: %s", strerror(err),
			key.black[0] ? (char *)key.black : "\n");
		return err;
	}
	return save(key_path, key.black, key.black_len);
}

int main(int argc, char **argv)
{
	int checks = argc == 1, creates = argc == 6 && !strcmp(argv[1], "create"),
	    imports = argc == 4 && !strcmp(argv[1], "import");

	if (!checks && !creates && !imports) {
		fprintf(stderr, "usage: selftest [create ecb|ccm SIZE KEY BLOB | import BLOB KEY]\n");
		return 2;
	}
	device = open(DEVICE, O_RDWR | O_CLOEXEC);
	if (device < 0) {
		printf("Bail out! " DEVICE ": %s\n", strerror(errno));
		return 1;
	}
	if (creates)
		return do_create(argv[2], argv[3], argv[4], argv[5]);
	if (imports)
		return do_import(argv[2], argv[3]);

	setvbuf(stdout, NULL, _IOLBF, 0);
	selftest_abi();
	selftest_chip();
	selftest_cipher();
	printf("1..%d\n", tests);
	return failures != 0;
}
