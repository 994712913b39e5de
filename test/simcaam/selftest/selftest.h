/* SPDX-License-Identifier: GPL-2.0 */
/* The simulated CAAM as user space sees it. Errnos are positive, 0 is success. */
#ifndef SIMCAAM_SELFTEST_H
#define SIMCAAM_SELFTEST_H

#include <stddef.h>
#include <stdint.h>

#define DEVICE "/dev/caam-keygen"

/* The struct from the BSP's header, written independently of the module's. */
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

/* A key and its blob, with room past what the driver may write. */
struct key {
	uint32_t black_len;
	uint32_t blob_len;
	uint8_t black[128];
	uint8_t blob[192];
};

extern int device;		/* open on DEVICE */
extern int tests, failures;

__attribute__((format(printf, 2, 3)))
void ok(int passed, const char *format, ...);
void is_errno(int got, int want, const char *what);
void is_text(const void *got, const char *want);
int has(const char *parameter);	/* a CAAM has fewer parameters than the simulated one */
void set(const char *parameter, const char *value);
void get(const char *parameter, char *value, size_t room);
long counter(const char *parameter);

struct cmd prepare(struct key *key, const char *wrap, const char *mode, const void *value, size_t len);
int run(unsigned long request, struct cmd *cmd);
int create(struct key *key, const char *wrap, const char *mode, const void *value, size_t len);
int create_sized(struct key *key, const char *wrap, int size);
int import(const uint8_t *blob, uint32_t len, struct key *out);
uint32_t word(const uint8_t *object, int nr);
void put_word(uint8_t *object, int nr, uint32_t value);

void selftest_abi(void);
void selftest_chip(void);
void selftest_cipher(void);

#endif
