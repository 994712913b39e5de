// SPDX-License-Identifier: GPL-2.0
/*
 * What the simulated CAAM promises, checked from user space: the ABI of
 * /dev/caam-keygen and the behaviour of tk(cbc(aes)), through AF_ALG.
 *
 * Prints TAP; exits 0 if all passed. Needs root and the modules imxcrypt_simcaam,
 * af_alg and algif_skcipher. Changes the module's parameters and puts them back,
 * but draws a new JDKEK: black keys made before are dead after it.
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/if_alg.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define DEVICE "/dev/caam-keygen"
#define PARAMETERS "/sys/module/imxcrypt_simcaam/parameters/"

/* The struct of the BSP's header, written down independently of the module's. */
struct cmd {
	uint8_t key_enc_len;
	uint8_t key_mode_len;
	uint16_t key_value_len;
	uint32_t black_key_len;
	uint64_t key_enc;
	uint64_t key_mode;
	uint64_t key_value;
	uint64_t black_key;
	uint32_t blob_len;
	uint32_t pad;
	uint64_t blob;
};
_Static_assert(sizeof(struct cmd) == 56, "struct caam_keygen_cmd");

#define CREATE 0xC0384B00u
#define IMPORT 0xC0384B01u

static int device, tests, failures;

static void ok(int passed, const char *format, ...)
{
	va_list args;

	printf("%sok %d - ", passed ? "" : "not ", ++tests);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
	fflush(stdout);
	failures += !passed;
}

/* The errno of a call, 0 for success. */
static void is_errno(int got, int want, const char *what)
{
	ok(got == want, "%s: %s", what, want ? strerror(want) : "succeeds");
	if (got != want)
		printf("# got errno %d (%s)\n", got, strerror(got));
}

static void is_text(const void *got, const char *want)
{
	int same = !strcmp(got, want);

	ok(same, "... and says \"%.*s\"", (int)strcspn(want, "\n"), want);
	if (!same)
		printf("# got \"%.60s\"\n", (const char *)got);
}

static void set(const char *parameter, const char *value)
{
	char path[PATH_MAX];
	int fd;

	snprintf(path, sizeof(path), PARAMETERS "%s", parameter);
	fd = open(path, O_WRONLY);
	if (fd < 0 || write(fd, value, strlen(value)) < 0) {
		printf("Bail out! %s: %s\n", path, strerror(errno));
		exit(1);
	}
	close(fd);
}

static void get(const char *parameter, char *value, size_t room)
{
	char path[PATH_MAX];
	ssize_t n = -1;
	int fd;

	snprintf(path, sizeof(path), PARAMETERS "%s", parameter);
	fd = open(path, O_RDONLY);
	if (fd >= 0)
		n = read(fd, value, room - 1);
	if (n < 0) {
		printf("Bail out! %s: %s\n", path, strerror(errno));
		exit(1);
	}
	value[n] = 0;
	value[strcspn(value, "\n")] = 0;
	close(fd);
}

static long counter(const char *parameter)
{
	char value[32];

	get(parameter, value, sizeof(value));
	return atol(value);
}

/* A key and its blob, with room past what the driver may write. */
struct key {
	uint32_t black_len;
	uint32_t blob_len;
	uint8_t black[128];
	uint8_t blob[192];
};

static struct cmd prepare(struct key *key, const char *wrap, const char *mode,
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

static int run(unsigned long request, struct cmd *cmd)
{
	return ioctl(device, request, cmd) ? errno : 0;
}

static int create(struct key *key, const char *wrap, const char *mode,
		  const void *value, size_t len)
{
	struct cmd cmd = prepare(key, wrap, mode, value, len);
	int err = run(CREATE, &cmd);

	key->black_len = cmd.black_key_len;
	key->blob_len = cmd.blob_len;
	return err;
}

static int create_sized(struct key *key, const char *wrap, int size)
{
	char text[12];

	snprintf(text, sizeof(text), "%d", size);
	return create(key, wrap, "-s", text, strlen(text) + 1);
}

/* Import a blob of that length; what comes out, or the text, goes to out. */
static int import(const uint8_t *blob, uint32_t len, struct key *out)
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

static uint32_t word(const uint8_t *object, int nr)
{
	uint32_t le;

	memcpy(&le, object + 4 * nr, 4);
	return le32toh(le);
}

static void put_word(uint8_t *object, int nr, uint32_t value)
{
	uint32_t le = htole32(value);

	memcpy(object + 4 * nr, &le, 4);
}

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
	ok(cmd.black_key_len == 64, "... and tells the length that is needed");
	cmd = prepare(&key, "ccm", "-s", "32", 3);
	cmd.blob_len = 111;
	is_errno(run(CREATE, &cmd), EINVAL, "CREATE with room for no tagged blob");
	is_text(key.blob, "Not enough space for blob key.\n");
	ok(cmd.blob_len == 112, "... and tells the length that is needed");
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
		 "IMPORT of 145 bytes (the BSP's kernel overflows its stack here)");
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

	cmd = (struct cmd){.black_key_len = 63, .black_key = (uintptr_t)out.black,
			   .blob_len = 112, .blob = (uintptr_t)blob};
	memcpy(blob, key.blob, sizeof(blob));
	is_errno(run(IMPORT, &cmd), EINVAL, "IMPORT with room for no tagged key");
	is_text(blob, "Not enough space for black key.\n");
	ok(cmd.black_key_len == 64, "... over the blob, and tells the length that is needed");
}

static void test_state(void)
{
	static const char other[] =
		"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
	struct key closed, open, out;
	char otpmk[80];
	int err;

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
	char soc[16];
	uint8_t fuses[0x400];
	int fd;

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
	is_errno(set_key(key.black, key.black_len - 1), EINVAL, "setkey of a key cut short");
	is_errno(set_key(key.black, key.black_len + 1), EINVAL, "setkey with a byte too many");
	is_errno(set_key(key.black, 36), EINVAL, "setkey of 36 bytes of a longer key");
	is_errno(set_key(key.blob, 96), EINVAL, "setkey of a blob");
	memset(black, 0xa5, sizeof(black));
	is_errno(set_key(black, key.black_len), EINVAL, "setkey of noise");
	memcpy(black, key.black, sizeof(black));
	put_word(black, 2, 0);
	is_errno(set_key(black, key.black_len), EINVAL, "setkey of a key that is not black");
	put_word(black, 2, 3);
	is_errno(set_key(black, key.black_len), EINVAL, "setkey of what is not a key");
	create_sized(&key, "ccm", 20);
	is_errno(set_key(key.black, key.black_len), EINVAL, "setkey of a key of 20");
	create_sized(&key, "ccm", 64);
	is_errno(set_key(key.black, key.black_len), EINVAL, "setkey of a key of 64");
}

static void test_cipher(const char *wrap)
{
	struct key key, again;
	uint8_t out[32], back[32];
	long jobs = counter("jobs"), failed;
	int fd, ccm = !strcmp(wrap, "ccm");

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

	set("jdkek_reset", "1");
	failed = counter("failed");
	fd = cipher("tk(cbc(aes))", key.black, key.black_len);
	ok(fd >= 0, "a stale %s key is accepted by setkey", wrap);
	memset(back, 0, sizeof(back));
	is_errno(crypt_bytes(fd, ALG_OP_DECRYPT, nist_iv, nist_cbc, back, 32), ccm ? EBADMSG : 0,
		 ccm ? "a request with a stale ccm key" : "a request with a stale ecb key");
	ok(memcmp(back, nist_plain, 32), "... and does not decrypt");
	ok(counter("failed") == failed + ccm, "... and is counted as %s", ccm ? "failed" : "done");
	close(fd);
	is_errno(import(key.blob, key.blob_len, &again), 0, "the blob opens after a power cycle");
	fd = cipher("tk(cbc(aes))", again.black, again.black_len);
	crypt_bytes(fd, ALG_OP_DECRYPT, nist_iv, nist_cbc, back, 32);
	ok(!memcmp(back, nist_plain, 32), "... to the same red key");
	close(fd);

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

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	device = open(DEVICE, O_RDWR | O_CLOEXEC);
	if (device < 0) {
		printf("Bail out! " DEVICE ": %s\n", strerror(errno));
		return 1;
	}
	test_device();
	test_sizes();
	test_create_errors();
	test_import_errors();
	test_state();
	test_fuses();
	test_text_keys();
	test_faults();
	test_setkey();
	test_cipher("ccm");
	test_cipher("ecb");
	test_requests();
	printf("1..%d\n", tests);
	return failures != 0;
}
