// SPDX-License-Identifier: GPL-2.0
/* tk(cbc(aes)) and tk(ecb(aes)), through AF_ALG. */
#include <errno.h>
#include <linux/if_alg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include "selftest.h"

/* A cipher instance with that key, or -1 with errno. */
static int cipher(const char *name, const uint8_t *key, uint32_t len)
{
	struct sockaddr_alg alg = {.salg_family = AF_ALG, .salg_type = "skcipher"};
	int sock = socket(AF_ALG, SOCK_SEQPACKET, 0), fd, err;

	strncpy((char *)alg.salg_name, name, sizeof(alg.salg_name) - 1);
	if (sock < 0)
		return -1;
	if (bind(sock, (struct sockaddr *)&alg, sizeof(alg)) ||
	    setsockopt(sock, SOL_ALG, ALG_SET_KEY, key, len)) {
		err = errno;
		close(sock);
		errno = err;
		return -1;
	}
	fd = accept(sock, NULL, 0);
	err = errno;
	close(sock);
	errno = err;
	return fd;
}

/* Run len bytes through; an IV of NULL is none. Returns the errno. */
static int crypt_bytes(int fd, int operation, const uint8_t *iv, const uint8_t *in,
		       uint8_t *out, size_t len)
{
	union {
		char bytes[CMSG_SPACE(4) + CMSG_SPACE(4 + 16)];
		struct cmsghdr align;
	} control = {0};
	struct iovec iov = {.iov_base = (void *)in, .iov_len = len};
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control,
		.msg_controllen = CMSG_SPACE(4) + (iv ? CMSG_SPACE(4 + 16) : 0),
	};
	struct cmsghdr *header = CMSG_FIRSTHDR(&msg);
	uint32_t ivlen = 16;

	header->cmsg_level = SOL_ALG;
	header->cmsg_type = ALG_SET_OP;
	header->cmsg_len = CMSG_LEN(4);
	memcpy(CMSG_DATA(header), &operation, 4);
	if (iv) {
		header = CMSG_NXTHDR(&msg, header);
		header->cmsg_level = SOL_ALG;
		header->cmsg_type = ALG_SET_IV;
		header->cmsg_len = CMSG_LEN(4 + 16);
		memcpy(CMSG_DATA(header), &ivlen, 4);
		memcpy(CMSG_DATA(header) + 4, iv, 16);
	}
	if (sendmsg(fd, &msg, 0) < 0)
		return errno;
	return read(fd, out, len) == (ssize_t)len ? 0 : errno;
}

/* NIST SP 800-38A, F.1.1 and F.2.1: AES-128 in ECB and CBC. */
static const uint8_t nist_key[16] = {
	0x2b, 0x7e, 0x15, 0x16, 0x28, 0xae, 0xd2, 0xa6,
	0xab, 0xf7, 0x15, 0x88, 0x09, 0xcf, 0x4f, 0x3c,
};
static const uint8_t nist_plain[32] = {
	0x6b, 0xc1, 0xbe, 0xe2, 0x2e, 0x40, 0x9f, 0x96,
	0xe9, 0x3d, 0x7e, 0x11, 0x73, 0x93, 0x17, 0x2a,
	0xae, 0x2d, 0x8a, 0x57, 0x1e, 0x03, 0xac, 0x9c,
	0x9e, 0xb7, 0x6f, 0xac, 0x45, 0xaf, 0x8e, 0x51,
};
static const uint8_t nist_cbc[32] = {
	0x76, 0x49, 0xab, 0xac, 0x81, 0x19, 0xb2, 0x46,
	0xce, 0xe9, 0x8e, 0x9b, 0x12, 0xe9, 0x19, 0x7d,
	0x50, 0x86, 0xcb, 0x9b, 0x50, 0x72, 0x19, 0xee,
	0x95, 0xdb, 0x11, 0x3a, 0x91, 0x76, 0x78, 0xb2,
};
static const uint8_t nist_ecb[32] = {
	0x3a, 0xd7, 0x7b, 0xb4, 0x0d, 0x7a, 0x36, 0x60,
	0xa8, 0x9e, 0xca, 0xf3, 0x24, 0x66, 0xef, 0x97,
	0xf5, 0xd3, 0xd5, 0x85, 0x03, 0xb9, 0x69, 0x9d,
	0xe7, 0x85, 0x89, 0x5a, 0x96, 0xfd, 0xba, 0xaf,
};
static const uint8_t nist_iv[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

static int set_key(const uint8_t *key, uint32_t len)
{
	int fd = cipher("tk(cbc(aes))", key, len), err = errno;

	if (fd < 0)
		return err;
	close(fd);
	return 0;
}

static void test_setkey(void)
{
	static const int sizes[] = {16, 24, 32};
	struct key key;
	uint8_t black[128];

	for (int i = 0; i < 3; i++) {
		create_sized(&key, "ccm", sizes[i]);
		ok(!set_key(key.black, key.black_len), "setkey takes a ccm key of %d", sizes[i]);
		create_sized(&key, "ecb", sizes[i]);
		ok(!set_key(key.black, key.black_len), "setkey takes an ecb key of %d", sizes[i]);
	}
	is_errno(set_key(key.blob, 96), EINVAL, "setkey of a blob");
	memset(black, 0xa5, sizeof(black));
	is_errno(set_key(black, key.black_len), EINVAL, "setkey of noise");
	memcpy(black, key.black, sizeof(black));
	put_word(black, 2, 0);
	is_errno(set_key(black, key.black_len), EINVAL, "setkey of a key that is not black");
	put_word(black, 2, 3);
	is_errno(set_key(black, key.black_len), EINVAL, "setkey of what is not a key");
	memcpy(black, key.black, sizeof(black));
	put_word(black, 4, 1024);
	is_errno(set_key(black, key.black_len), EINVAL,
		 "setkey of a tag that claims 1024 bytes (the BSP's kernel overwrites its memory here)");
	create_sized(&key, "ccm", 20);
	is_errno(set_key(key.black, key.black_len), EINVAL, "setkey of a key of 20");
	create_sized(&key, "ccm", 64);
	is_errno(set_key(key.black, key.black_len), EINVAL, "setkey of a key of 64");
}

/* The result of one request under a key that setkey must accept. */
static int use(const uint8_t *black, uint32_t len, uint8_t out[32], const char *what)
{
	int fd = cipher("tk(cbc(aes))", black, len), err;

	ok(fd >= 0, "setkey takes %s", what);
	err = crypt_bytes(fd, ALG_OP_ENCRYPT, nist_iv, nist_plain, out, 32);
	close(fd);
	return err;
}

/* setkey does not check whether a key fits its tag: either a request fails, or nothing
 * does. */
static void test_misfits(void)
{
	struct key ecb, ccm;
	uint8_t whole[32], out[32], black[128];

	create_sized(&ecb, "ecb", 32);
	create_sized(&ccm, "ccm", 32);

	is_errno(use(ecb.black, 52, whole, "an ecb key"), 0, "... and works");
	is_errno(use(ecb.black, 53, out, "an ecb key with a byte too many"), 0, "... and works");
	ok(!memcmp(out, whole, 32), "... as without it");
	is_errno(use(ecb.black, 36, out, "36 bytes of an ecb key of 52"), 0, "... and works");
	ok(memcmp(out, whole, 32), "... as another key");
	is_errno(use(ccm.black, 63, out, "63 bytes of a ccm key of 64"), EBADMSG, "... and fails requests");
	is_errno(use(ccm.black, 65, out, "a ccm key with a byte too many"), 0, "... and works");

	memcpy(black, ccm.black, sizeof(black));
	put_word(black, 2, 1);
	is_errno(use(black, 64, out, "a ccm key tagged ecb"), EINVAL, "... and fails requests");
	put_word(black, 2, 9 | 4);
	is_errno(use(black, 64, out, "a key tagged TDKEK"), EINVAL, "... and fails requests");
	put_word(black, 2, 9);
	put_word(black, 3, 16);
	is_errno(use(black, 64, out, "a ccm key of 32 tagged as one of 16"), EBADMSG, "... and fails requests");
}

/* A key from another power cycle. */
static void test_stale(const struct key *key, const char *wrap)
{
	struct key again;
	uint8_t back[32] = {0};
	int fd, ccm = !strcmp(wrap, "ccm");
	long failed;

	if (!has("jdkek_reset")) {
		printf("# the JDKEK is a CAAM's: stale %s keys not tested\n", wrap);
		return;
	}
	set("jdkek_reset", "1");
	failed = counter("failed");
	fd = cipher("tk(cbc(aes))", key->black, key->black_len);
	ok(fd >= 0, "a stale %s key is accepted by setkey", wrap);
	is_errno(crypt_bytes(fd, ALG_OP_DECRYPT, nist_iv, nist_cbc, back, 32), ccm ? EBADMSG : 0,
		 ccm ? "a request with a stale ccm key" : "a request with a stale ecb key");
	ok(memcmp(back, nist_plain, 32), "... and does not decrypt");
	ok(counter("failed") == failed + ccm, "... and is counted as %s", ccm ? "failed" : "done");
	close(fd);
	is_errno(import(key->blob, key->blob_len, &again), 0, "the blob opens after a power cycle");
	fd = cipher("tk(cbc(aes))", again.black, again.black_len);
	crypt_bytes(fd, ALG_OP_DECRYPT, nist_iv, nist_cbc, back, 32);
	ok(!memcmp(back, nist_plain, 32), "... to the same red key");
	close(fd);
}

static void test_cipher(const char *wrap)
{
	struct key key, again;
	uint8_t out[32], back[32];
	long jobs = counter("jobs");
	int fd;

	create(&key, wrap, "-t", nist_key, sizeof(nist_key));
	fd = cipher("tk(cbc(aes))", key.black, key.black_len);
	is_errno(crypt_bytes(fd, ALG_OP_ENCRYPT, nist_iv, nist_plain, out, 32), 0, "tk(cbc(aes)) encrypts");
	ok(!memcmp(out, nist_cbc, 32), "... as AES-CBC does under the red key (%s)", wrap);
	is_errno(crypt_bytes(fd, ALG_OP_DECRYPT, nist_iv, out, back, 32), 0, "tk(cbc(aes)) decrypts");
	ok(!memcmp(back, nist_plain, 32), "... back to the plain text");
	ok(counter("jobs") == jobs + 2, "... each a job");
	close(fd);

	import(key.blob, key.blob_len, &again);
	fd = cipher("tk(cbc(aes))", again.black, again.black_len);
	crypt_bytes(fd, ALG_OP_DECRYPT, nist_iv, nist_cbc, back, 32);
	ok(!memcmp(back, nist_plain, 32), "the imported key is the same red key (%s)", wrap);
	close(fd);

	fd = cipher("tk(ecb(aes))", again.black, again.black_len);
	crypt_bytes(fd, ALG_OP_ENCRYPT, NULL, nist_plain, out, 32);
	ok(!memcmp(out, nist_ecb, 32), "tk(ecb(aes)) encrypts as AES-ECB does (%s)", wrap);
	crypt_bytes(fd, ALG_OP_DECRYPT, NULL, out, back, 32);
	ok(!memcmp(back, nist_plain, 32), "... and decrypts");
	close(fd);

	test_stale(&key, wrap);

	set("wrong_imports", "1");
	is_errno(import(key.blob, key.blob_len, &again), 0, "wrong_imports=1: IMPORT");
	fd = cipher("tk(cbc(aes))", again.black, again.black_len);
	is_errno(crypt_bytes(fd, ALG_OP_DECRYPT, nist_iv, nist_cbc, back, 32), 0,
		 "... and the key works");
	ok(memcmp(back, nist_plain, 32), "... but is another");
	close(fd);
}

static long microseconds(const struct timespec *from)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (now.tv_sec - from->tv_sec) * 1000000 + (now.tv_nsec - from->tv_nsec) / 1000;
}

static void test_requests(void)
{
	struct key key;
	struct timespec from;
	char latency[16];
	uint8_t out[32];
	long took;
	int fd;

	get("latency_us", latency, sizeof(latency));
	create_sized(&key, "ccm", 32);
	fd = cipher("tk(cbc(aes))", key.black, key.black_len);
	set("fail_requests", "1");
	is_errno(crypt_bytes(fd, ALG_OP_ENCRYPT, nist_iv, nist_plain, out, 32), EIO,
		 "fail_requests=1, the first");
	is_errno(crypt_bytes(fd, ALG_OP_ENCRYPT, nist_iv, nist_plain, out, 32), 0,
		 "fail_requests=1, the second");

	set("latency_us", "20000");
	clock_gettime(CLOCK_MONOTONIC, &from);
	for (int i = 0; i < 5; i++)
		crypt_bytes(fd, ALG_OP_ENCRYPT, nist_iv, nist_plain, out, 32);
	took = microseconds(&from);
	ok(took >= 100000, "five jobs of 20 ms took %ld ms", took / 1000);
	set("latency_us", latency);
	close(fd);

	set("no_job_ring", "1");
	fd = cipher("tk(cbc(aes))", key.black, key.black_len);
	ok(fd < 0, "no_job_ring: no new cipher (%s)", strerror(errno));
	set("no_job_ring", "0");
}

void selftest_cipher(void)
{
	test_setkey();
	test_misfits();
	test_cipher("ccm");
	test_cipher("ecb");
	test_requests();
}
