// SPDX-License-Identifier: GPL-2.0
/* What the chip is: its state, its fuses, and the quirks and faults that can be set. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "selftest.h"

static void test_state(void)
{
	static const char other[] =
		"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
	struct key closed, open, out;
	char otpmk[80];
	int err;

	if (!has("otpmk")) {
		printf("# the fuses are a CAAM's: other chips and states not tested\n");
		return;
	}
	get("otpmk", otpmk, sizeof(otpmk));
	set("closed", "1");
	create_sized(&closed, "ccm", 32);
	set("otpmk", other);
	err = import(closed.blob, closed.blob_len, &out);
	is_errno(err, EBADMSG, "a blob of another chip");
	is_text(out.black, "");
	set("otpmk", otpmk);
	is_errno(import(closed.blob, closed.blob_len, &out), 0, "a blob of this chip");

	set("closed", "0");
	is_errno(import(closed.blob, closed.blob_len, &out), EBADMSG,
		 "a closed chip's blob on an open one");
	create_sized(&open, "ccm", 32);
	set("otpmk", other);
	is_errno(import(open.blob, open.blob_len, &out), 0,
		 "an open chip's blob on another open chip");
	set("otpmk", otpmk);
	set("closed", "1");
	is_errno(import(open.blob, open.blob_len, &out), EBADMSG,
		 "an open chip's blob on a closed one");
}

static void test_fuses(void)
{
	static const char nvmem[] = "/sys/bus/nvmem/devices/imx-ocotp0/nvmem";
	char soc[16] = "none";
	uint8_t fuses[0x400];
	int fd;

	if (has("soc"))
		get("soc", soc, sizeof(soc));
	if (strcmp(soc, "i.MX8MP")) {
		printf("# soc is %s: fuses not tested\n", soc);
		return;
	}
	for (int closed = 0; closed < 2; closed++) {
		set("closed", closed ? "1" : "0");
		fd = open(nvmem, O_RDONLY);
		ok(fd >= 0 && read(fd, fuses, sizeof(fuses)) == sizeof(fuses) &&
		   !!(word(fuses + 0x1c, 0) & 0x02000000) == closed,
		   "the fuses of an i.MX8MP say %s", closed ? "closed" : "open");
		close(fd);
	}
}

static void test_text_keys(void)
{
	uint8_t red[32];
	struct key key;

	memset(red, 'k', sizeof(red));
	red[20] = 0;
	is_errno(create(&key, "ccm", "-t", red, sizeof(red)), 0, "a -t key with a zero byte");
	ok(word(key.black, 3) == 32, "... is taken whole");
	set("cstring_keys", "1");
	is_errno(create(&key, "ccm", "-t", red, sizeof(red)), 0, "cstring_keys: the same");
	ok(word(key.black, 3) == 20 && word(key.blob, 3) == 20, "... is cut short, without an error");
	red[10] = 0;
	is_errno(create(&key, "ccm", "-t", red, sizeof(red)), EINVAL, "cstring_keys: cut below 16");
	set("cstring_keys", "0");
}

static void test_faults(void)
{
	struct key key, out;
	long creates = counter("creates"), imports = counter("imports");

	create_sized(&key, "ccm", 16);
	import(key.blob, key.blob_len, &out);
	ok(counter("creates") == creates + 1 && counter("imports") == imports + 1,
	   "the counters count");

	set("fail_creates", "1");
	is_errno(create_sized(&out, "ccm", 16), EIO, "fail_creates=1, the first CREATE");
	is_text(out.blob, "");
	is_errno(create_sized(&out, "ccm", 16), 0, "fail_creates=1, the second");
	set("fail_imports", "2");
	set("fail_errno", "74");
	is_errno(import(key.blob, key.blob_len, &out), EBADMSG, "fail_imports=2 fail_errno=74, the first");
	is_errno(import(key.blob, key.blob_len, &out), EBADMSG, "fail_imports=2 fail_errno=74, the second");
	is_errno(import(key.blob, key.blob_len, &out), 0, "fail_imports=2 fail_errno=74, the third");
	set("fail_errno", "5");
	set("no_job_ring", "1");
	is_errno(create_sized(&out, "ccm", 16), ENODEV, "no_job_ring, CREATE");
	is_errno(import(key.blob, key.blob_len, &out), ENODEV, "no_job_ring, IMPORT");
	set("no_job_ring", "0");
}

void selftest_chip(void)
{
	test_state();
	test_fuses();
	test_text_keys();
	test_faults();
}
