// SPDX-License-Identifier: GPL-2.0
/*
 * import BLOB KEY: writes the black key of a blob to a file, as NXP's `caam-keygen
 * import` does. It is leaner: static, without OpenSSL, and without the shell and the
 * mkdir that NXP's program starts each time for its folder.
 */
#include "import.h"

int main(int argc, char **argv)
{
	uint8_t key[96];
	FILE *f;

	if (argc != 3)
		return 2;
	size_t n = import(argv[1], key);
	f = fopen(argv[2], "wb");
	if (!f || fwrite(key, 1, n, f) != n || fclose(f))
		die(argv[2]);
	return 0;
}
