/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The part of NXP's CAAM that keys go through: what its job descriptors do.
 *
 * Written from the public driver's view (desc.h, desc_constr.h of Linux). It knows nothing of QEMU:
 * the owner gives memory, random numbers, AES and SHA-256.
 */
#ifndef CAAM_DESC_H
#define CAAM_DESC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct caam_ops {
    /* The guest's memory; not 0 if there is none at the address. */
    int (*read)(void *owner, uint64_t address, void *to, size_t n);
    int (*write)(void *owner, uint64_t address, const void *from, size_t n);
    void (*random)(void *owner, void *to, size_t n);
    /* One block. key_len is 16, 24 or 32; in and out may be the same. */
    void (*aes)(void *owner, const uint8_t *key, int key_len, bool encrypt, const uint8_t *in,
                uint8_t *out);
    void (*sha256)(void *owner, const void *data, size_t n, uint8_t out[32]);
    void (*trace)(void *owner, const char *format, ...) __attribute__((format(printf, 2, 3)));
};

struct caam_chip {
    const struct caam_ops *ops;
    void *owner;
    uint8_t master[32]; /* seals blob keys: the OTPMK's, or the test key of an open chip */
    uint8_t jdkek[32];  /* wraps black keys: this power cycle's */
    uint32_t rdsta;     /* state handles of the random number generator */
    unsigned long jobs, blobs_sealed, blobs_opened, checks_failed;
};

/* A status word of the hardware: 0, or the source of an error and its number. */
#define CAAM_STATUS_CCB(cha, error) (0x20000000u | (cha) << 4 | (error))
#define CAAM_STATUS_DECO(error) (0x40000000u | (error))
#define CAAM_STATUS_USER 0x30000000u /* a descriptor halted with its own number */

enum { CAAM_CHA_AES = 1, CAAM_CHA_RNG = 5, CAAM_CHA_UNKNOWN = 0xf };
enum { CAAM_ERR_MODE = 1, CAAM_ERR_DATA_SIZE, CAAM_ERR_KEY_SIZE, CAAM_ERR_RNG = 9, CAAM_ERR_ICV };

void caam_chip_reset(struct caam_chip *chip);
/* Both return the status of the job: the descriptor at an address, or in DECO 0's
 * buffer. */
uint32_t caam_run_job(struct caam_chip *chip, uint64_t address);
uint32_t caam_run_deco(struct caam_chip *chip, const uint32_t *words, int room);

#endif
