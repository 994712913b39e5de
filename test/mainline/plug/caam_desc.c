/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * An interpreter of CAAM's job descriptors, as far as the drivers of Linux and NXP write them.
 * What is not modelled is refused with the status of an invalid command, and traced.
 */
#include <stdlib.h>
#include <string.h>

#include "caam_crypto.h"

/* Commands, the top five bits of their word. */
enum {
    CMD_KEY = 0x00,
    CMD_SEQ_KEY = 0x01,
    CMD_LOAD = 0x02,
    CMD_SEQ_LOAD = 0x03,
    CMD_SEQ_FIFO_LOAD = 0x05,
    CMD_STORE = 0x0a,
    CMD_SEQ_STORE = 0x0b,
    CMD_FIFO_STORE = 0x0c,
    CMD_SEQ_FIFO_STORE = 0x0d,
    CMD_MOVE = 0x0f,
    CMD_OPERATION = 0x10,
    CMD_JUMP = 0x14,
    CMD_MATH = 0x15,
    CMD_HEADER = 0x16,
    CMD_SHARED_HEADER = 0x17,
    CMD_SEQ_IN_PTR = 0x1e,
    CMD_SEQ_OUT_PTR = 0x1f,
};

/* Errors of the DECO. */
enum {
    ERR_COMMAND = 0x04,
    ERR_KEY = 0x06,
    ERR_LOAD = 0x07,
    ERR_STORE = 0x08,
    ERR_OPERATION = 0x09,
    ERR_FIFO_LOAD = 0x0a,
    ERR_FIFO_STORE = 0x0b,
    ERR_MOVE = 0x0c,
    ERR_MATH = 0x0e,
    ERR_SEQUENCE = 0x10,
    ERR_ENDLESS = 0x11,
    ERR_SHARED_HEADER = 0x12,
    ERR_HEADER_LENGTH = 0x13,
    ERR_DMA = 0x16,
    ERR_PROTOCOL = 0x81,
};

/* Registers as LOAD and STORE name them, and what FIFO STORE writes. */
enum {
    REG_KEY_SIZE = 0x01,
    REG_CONTROL = 0x06,
    REG_CLEAR = 0x08,
    REG_CONTEXT = 0x20,
    REG_KEY = 0x40,
    REG_OUT_FIFO = 0x7e
};
enum {
    OUT_KEY_CCM = 0x14,
    OUT_KEY_ECB = 0x24,
    OUT_MESSAGE = 0x30,
    OUT_RANDOM = 0x34,
    OUT_RANDOM_FIFO = 0x35
};

enum { IMMEDIATE = 1 << 23, EXTENDED = 1 << 22, SCATTERED = 1 << 24, VARIABLE = 1 << 24 };
enum { WORDS = 64, DATA_MAX = 1 << 20, STEPS_MAX = 1000, DEPTH_MAX = 8 };

/* A sequence: bytes in the guest's memory, in one piece or by a table. */
struct sequence {
    uint32_t left;
    bool scattered;
    uint64_t next;  /* of the piece */
    uint64_t table; /* next entry */
    uint32_t piece; /* bytes left of the piece */
};

/* The DECO while it runs a job. */
struct deco {
    struct caam_chip *chip;
    uint8_t key1[KEY1_MAX], key2[KEY2_MAX], context1[CONTEXT_LEN], context2[CONTEXT_LEN];
    uint32_t key1_len, key2_len;
    uint32_t operation; /* of class 1; 0: none */
    struct sequence in, out;
    uint32_t variable_in, variable_out;
    uint64_t math[4];
    uint32_t override;
    uint8_t *fifo; /* output of ciphers that was not taken yet */
    size_t fifo_end, fifo_start;
    int depth;
    bool halted;
};

/* A command being run: its word, its class, and the words after it. */
struct command {
    uint32_t word, class;
    const uint32_t *more;
    int at, next; /* in the descriptor */
};

static uint32_t deco_error(int error)
{
    return CAAM_STATUS_DECO(error);
}

static int guest_read(struct deco *d, uint64_t address, void *to, size_t n)
{
    return d->chip->ops->read(d->chip->owner, address, to, n);
}

static int guest_write(struct deco *d, uint64_t address, const void *from, size_t n)
{
    return d->chip->ops->write(d->chip->owner, address, from, n);
}

/* The next word of the command itself. Descriptors are in buffers with room for the
 * largest. */
static uint32_t take_word(struct command *c)
{
    c->next++;
    return *c->more++;
}

static const void *take_bytes(struct command *c, uint32_t n)
{
    const void *bytes = c->more;

    c->more += (n + 3) / 4;
    c->next += (n + 3) / 4;
    return bytes;
}

/* Moves to the next piece of a table. An entry is address, length with flags, offset. */
static int next_piece(struct deco *d, struct sequence *s)
{
    uint32_t entry[4];

    for (int links = 0; links < STEPS_MAX; links++) {
        if (guest_read(d, s->table, entry, sizeof entry)) {
            return -1;
        }
        /* i.MX puts the high word of the address first, others the low one; here it is
         * 0. */
        uint64_t address = (uint64_t)entry[0] | entry[1];

        s->table += sizeof entry;
        if (entry[2] & 0x80000000u) { /* a link to another table */
            s->table = address;
            continue;
        }
        s->next = address + (entry[3] & 0x1fff);
        s->piece = entry[2] & 0x3fffffff;
        if (s->piece) {
            return 0;
        }
    }
    return -1;
}

static uint32_t sequence_move(struct deco *d, struct sequence *s, bool write, uint8_t *data,
                              uint32_t n)
{
    if (n > s->left) {
        return deco_error(ERR_SEQUENCE);
    }
    s->left -= n;
    while (n) {
        uint32_t part = n;

        if (s->scattered) {
            if (!s->piece && next_piece(d, s)) {
                return deco_error(ERR_DMA);
            }
            part = n < s->piece ? n : s->piece;
            s->piece -= part;
        }
        if (write ? guest_write(d, s->next, data, part) : guest_read(d, s->next, data, part)) {
            return deco_error(ERR_DMA);
        }
        s->next += part;
        data += part;
        n -= part;
    }
    return 0;
}

static uint32_t sequence_read(struct deco *d, uint8_t *data, uint32_t n)
{
    return sequence_move(d, &d->in, false, data, n);
}

static uint32_t sequence_write(struct deco *d, uint8_t *data, uint32_t n)
{
    return sequence_move(d, &d->out, true, data, n);
}

static void fifo_push(struct deco *d, const uint8_t *data, size_t n)
{
    uint8_t *longer = realloc(d->fifo, d->fifo_end + n + 1);

    if (!longer) {
        abort();
    }
    d->fifo = longer;
    memcpy(d->fifo + d->fifo_end, data, n);
    d->fifo_end += n;
}

static size_t fifo_left(const struct deco *d)
{
    return d->fifo_end - d->fifo_start;
}

static uint8_t *fifo_take(struct deco *d, size_t n)
{
    uint8_t *data = d->fifo + d->fifo_start;

    d->fifo_start += n;
    return data;
}

static void set_key(struct deco *d, uint32_t class, const uint8_t *key, uint32_t len)
{
    if (class == 2) {
        memset(d->key2, 0, sizeof d->key2);
        memcpy(d->key2, key, len);
        d->key2_len = len;
    } else {
        memset(d->key1, 0, sizeof d->key1);
        memcpy(d->key1, key, len);
        d->key1_len = len;
    }
}

static uint32_t key_room(uint32_t class)
{
    return class == 2 ? KEY2_MAX : KEY1_MAX;
}

/* KEY: loads a key into its register, either red, or black and unwrapped on the way. */
static uint32_t do_key(struct deco *d, struct command *c, bool sequence)
{
    uint32_t len = c->word & 0x3ff, black = c->word & 1 << 22, ccm = c->word & 1 << 20;
    uint32_t stored = black ? black_len(len, ccm) : len, status;
    uint8_t key[BLACK_MAX], red[KEY2_MAX];

    if (len > key_room(c->class) || stored > sizeof key || c->word & 1 << 15) { /* TDKEK */
        return deco_error(ERR_KEY);
    }
    if (sequence) {
        status = sequence_read(d, key, stored);
        if (status) {
            return status;
        }
    } else if (c->word & IMMEDIATE) {
        memcpy(key, take_bytes(c, stored), stored);
    } else if (guest_read(d, take_word(c), key, stored)) {
        return deco_error(ERR_DMA);
    }
    if (!black) {
        set_key(d, c->class, key, len);
        return 0;
    }
    status = black_unwrap(d->chip, key, len, ccm, red);
    if (!status) {
        set_key(d, c->class, red, len);
    }
    return status;
}

/* LOAD: loads bytes into a register. */
static uint32_t do_load(struct deco *d, struct command *c, bool sequence)
{
    uint32_t len = c->word & 0xff, offset = c->word >> 8 & 0xff, reg = c->word >> 16 & 0x7f, size;
    uint8_t data[256];

    if (sequence) {
        uint32_t status = sequence_read(d, data, len);

        if (status) {
            return status;
        }
    } else if (c->word & IMMEDIATE) {
        if (c->class == 3 && reg == REG_CONTROL) {
            len = 0; /* it is a flag here */
        }
        memcpy(data, take_bytes(c, len), len);
    } else if (guest_read(d, take_word(c), data, len)) {
        return deco_error(ERR_DMA);
    }
    switch (reg) {
    case REG_CONTROL:
    case REG_CLEAR:
        return 0;
    case REG_OUT_FIFO:
        if (c->class == 0) {
            fifo_push(d, data, len);
            return 0;
        }
        break;
    case REG_CONTEXT:
        if ((c->class == 1 || c->class == 2) && offset + len <= CONTEXT_LEN) {
            memcpy((c->class == 2 ? d->context2 : d->context1) + offset, data, len);
            return 0;
        }
        break;
    case REG_KEY:
        if ((c->class == 1 || c->class == 2) && len <= key_room(c->class)) {
            set_key(d, c->class, data, len);
            return 0;
        }
        break;
    case REG_KEY_SIZE: /* NXP's key generation */
        if ((c->class == 1 || c->class == 2) && len == sizeof size) {
            memcpy(&size, data, sizeof size);
            if (size <= key_room(c->class)) {
                *(c->class == 2 ? &d->key2_len : &d->key1_len) = size;
                return 0;
            }
        }
        break;
    }
    return deco_error(ERR_LOAD);
}

/* STORE: stores a context. */
static uint32_t do_store(struct deco *d, struct command *c, bool sequence)
{
    uint32_t len = c->word & 0xff, offset = c->word >> 8 & 0xff;
    uint8_t *from = (c->class == 2 ? d->context2 : d->context1) + offset;

    if ((c->word >> 16 & 0x7f) != REG_CONTEXT || (c->class != 1 && c->class != 2) ||
        offset + len > CONTEXT_LEN) {
        return deco_error(ERR_STORE);
    }
    if (sequence) {
        return sequence_write(d, from, len);
    }
    return guest_write(d, take_word(c), from, len) ? deco_error(ERR_DMA) : 0;
}

/* SEQ FIFO LOAD: passes a message through the cipher of class 1, or skips it. */
static uint32_t do_fifo_load(struct deco *d, struct command *c)
{
    uint32_t len = c->word & VARIABLE ? d->variable_in : c->word & 0xffff, status;
    bool message = (c->word >> 16 & 0x38) == 0x10;
    uint8_t *data;

    if (c->word & EXTENDED) {
        len = take_word(c);
    }
    if (len > DATA_MAX || (c->class && (c->class != 1 || !message))) {
        return deco_error(ERR_FIFO_LOAD);
    }
    data = malloc(len + 1);
    if (!data) {
        abort();
    }
    status = sequence_read(d, data, len);
    if (!status && c->class) {
        status = aes_message(d->chip, d->operation, d->key1, d->key1_len, d->context1, data, len);
        if (!status) {
            fifo_push(d, data, len);
        }
    }
    free(data);
    return status;
}

/* Random numbers for the output FIFO, a sequence, or (if neither) an address. */
static uint32_t store_random(struct deco *d, struct command *c, uint32_t len, bool sequence)
{
    uint64_t address = sequence ? 0 : take_word(c);
    uint32_t status;
    uint8_t *data;

    if (c->word & EXTENDED) {
        len = take_word(c);
    }
    if (len > DATA_MAX) {
        return deco_error(ERR_FIFO_STORE);
    }
    data = malloc(len + 1);
    if (!data) {
        abort();
    }
    d->chip->ops->random(d->chip->owner, data, len);
    if (sequence) {
        status = sequence_write(d, data, len);
    } else {
        status = guest_write(d, address, data, len) ? deco_error(ERR_DMA) : 0;
    }
    free(data);
    return status;
}

/* FIFO STORE: stores a key register as a black key, or random numbers. */
static uint32_t do_fifo_store(struct deco *d, struct command *c)
{
    uint32_t len = c->word & 0xffff, type = c->word >> 16 & 0x3f;
    uint8_t black[BLACK_MAX], random[256];
    bool ccm = type == OUT_KEY_CCM;

    switch (type) {
    case OUT_RANDOM:
        return store_random(d, c, len, false);
    case OUT_RANDOM_FIFO:
        if (len > sizeof random || c->word & EXTENDED) {
            break;
        }
        d->chip->ops->random(d->chip->owner, random, len);
        fifo_push(d, random, len);
        return 0;
    case OUT_KEY_CCM:
    case OUT_KEY_ECB:
        if (len > key_room(c->class)) {
            break;
        }
        black_wrap(d->chip, c->class == 2 ? d->key2 : d->key1, len, ccm, black);
        return guest_write(d, take_word(c), black, black_len(len, ccm)) ? deco_error(ERR_DMA) : 0;
    }
    return deco_error(ERR_FIFO_STORE);
}

/* SEQ FIFO STORE: stores the cipher's output. */
static uint32_t do_sequence_fifo_store(struct deco *d, struct command *c)
{
    uint32_t len = c->word & VARIABLE ? d->variable_out : c->word & 0xffff;
    uint32_t type = c->word >> 16 & 0x3f;

    if (type == OUT_RANDOM) {
        return store_random(d, c, len, true);
    }
    if (c->word & EXTENDED) {
        len = take_word(c);
    }
    if (type != OUT_MESSAGE || fifo_left(d) < len) {
        return deco_error(ERR_FIFO_STORE);
    }
    return sequence_write(d, fifo_take(d, len), len);
}

/* MOVE, from the output FIFO only: into the context or the key of class 1. */
static uint32_t do_move(struct deco *d, struct command *c)
{
    uint32_t len = c->word & 0xff, offset = c->word >> 8 & 0xff;
    uint32_t from = c->word >> 20 & 0xf, to = c->word >> 16 & 0xf;

    if (from != 2 || fifo_left(d) < len) {
        return deco_error(ERR_MOVE);
    }
    if (to == 0 && offset + len <= CONTEXT_LEN) {
        memcpy(d->context1 + offset, fifo_take(d, len), len);
        return 0;
    }
    if (to == 0xd && len <= KEY1_MAX) {
        set_key(d, 1, fifo_take(d, len), len);
        return 0;
    }
    return deco_error(ERR_MOVE);
}

/* The blob protocol, from the input sequence to the output sequence. Black blobs take
 * and give black keys. The modifier is in the key register of class 2. */
static uint32_t do_blob(struct deco *d, bool seal, uint32_t info)
{
    enum { BLACK = 1 << 2, CCM = 1 << 8 };
    struct blob_kind kind = {.black = info & BLACK, .ccm = info & CCM};
    uint8_t data[BLOB_DATA_MAX], blob[BLOB_DATA_MAX + BLOB_OVERHEAD], black[BLACK_MAX];
    uint32_t len = d->in.left, status;

    if (info & ~(BLACK | CCM)) {
        return deco_error(ERR_PROTOCOL);
    }
    memcpy(kind.modifier, d->key2,
           d->key2_len < sizeof kind.modifier ? d->key2_len : sizeof kind.modifier);
    if (!seal) {
        if (len <= BLOB_OVERHEAD) {
            return deco_error(ERR_SEQUENCE);
        }
        len -= BLOB_OVERHEAD;
    }
    if (!len || len > BLOB_DATA_MAX || (kind.black && len > KEY2_MAX)) {
        return deco_error(ERR_SEQUENCE);
    }
    if (seal) {
        if (kind.black) {
            d->in.left = black_len(len, kind.ccm);
            status = sequence_read(d, black, d->in.left);
            if (!status) {
                status = black_unwrap(d->chip, black, len, kind.ccm, data);
            }
        } else {
            status = sequence_read(d, data, len);
        }
        if (status) {
            return status;
        }
        blob_seal(d->chip, &kind, data, len, blob);
        return sequence_write(d, blob, len + BLOB_OVERHEAD);
    }
    status = sequence_read(d, blob, len + BLOB_OVERHEAD);
    if (!status) {
        status = blob_open(d->chip, &kind, blob, len, data);
    }
    if (status || !kind.black) {
        return status ? status : sequence_write(d, data, len);
    }
    black_wrap(d->chip, data, len, kind.ccm, black);
    d->out.left = black_len(len, kind.ccm);
    return sequence_write(d, black, d->out.left);
}

/* The random number generator only needs its state handles to be created and removed. */
static uint32_t do_rng(struct deco *d, uint32_t word)
{
    enum { SECURE_KEYS = 0x40000000, INSTANTIATE = 1, UNINSTANTIATE = 3 };
    uint32_t mode = word >> 4 & 0x1ff, action = word >> 2 & 3, handle = mode & 3;
    uint32_t *state = &d->chip->rdsta;

    if (mode & 0x100) {
        if (*state & SECURE_KEYS) {
            return CAAM_STATUS_CCB(CAAM_CHA_RNG, CAAM_ERR_RNG);
        }
        *state |= SECURE_KEYS;
    } else if (action == INSTANTIATE) {
        *state |= 1u << handle | (word & 2 ? 0x10u << handle : 0);
    } else if (action == UNINSTANTIATE) {
        *state &= ~(0x11u << handle);
    }
    return 0;
}

static uint32_t do_operation(struct deco *d, uint32_t word)
{
    enum { CLASS1 = 2, UNPROTOCOL = 6, PROTOCOL = 7, RNG = 0x50, BLOB = 0x0d };
    uint32_t type = word >> 24 & 7, algorithm = word >> 16 & 0xff;

    if (type == CLASS1 && algorithm == RNG) {
        return do_rng(d, word);
    }
    if (type == CLASS1) {
        d->operation = word;
        return 0;
    }
    if ((type == UNPROTOCOL || type == PROTOCOL) && algorithm == BLOB) {
        return do_blob(d, type == PROTOCOL, word & 0xffff);
    }
    return deco_error(ERR_OPERATION);
}

static uint32_t run_at(struct deco *d, uint64_t address);

static uint32_t do_jump(struct deco *d, struct command *c)
{
    enum { LOCAL, NONLOCAL, HALT, HALT_STATUS };
    uint32_t type = c->word >> 22 & 3, test = c->word >> 16 & 3, wanted = c->word >> 8 & 0xff;
    /* Calm, no input pending and so on always hold. Shared and self never do. */
    uint32_t holds = c->word & 1 << 24 ? 0x1f : 0;
    bool taken = !wanted || (test & 2 ? wanted & holds : (wanted & holds) == wanted);
    int8_t by = c->word & 0xff;

    if (test & 1) {
        taken = !taken;
    }
    if (type == NONLOCAL) {
        uint64_t address = take_word(c);

        if (!taken) {
            return 0;
        }
        d->halted = true;
        return run_at(d, address);
    }
    if (!taken) {
        return 0;
    }
    if (type == LOCAL) {
        c->next = c->at + (by ? by : 1);
        return 0;
    }
    d->halted = true;
    return by ? CAAM_STATUS_USER | (uint8_t)by : 0;
}

/* The registers of MATH that are not general-purpose. */
static uint32_t *math_register(struct deco *d, uint32_t number)
{
    switch (number) {
    case 7:
        return &d->override;
    case 8:
        return &d->in.left;
    case 9:
        return &d->out.left;
    case 10:
        return &d->variable_in;
    case 11:
        return &d->variable_out;
    }
    return NULL;
}

enum { MATH_IMMEDIATE = 4, MATH_CONSTANT = 12, MATH_NOWHERE = 15 };

/* constant is the value of MATH_CONSTANT: 0 for the first operand, 1 for the other. */
static bool math_operand(struct deco *d, uint32_t number, uint64_t immediate, uint64_t constant,
                         uint64_t *value)
{
    uint32_t *special = math_register(d, number);

    if (number < 4) {
        *value = d->math[number];
    } else if (number == MATH_IMMEDIATE) {
        *value = immediate;
    } else if (number == MATH_CONSTANT) {
        *value = constant;
    } else if (special) {
        *value = *special;
    } else {
        return false;
    }
    return true;
}

static uint32_t do_math(struct deco *d, struct command *c)
{
    enum { ADD, SUBTRACT = 2, OR = 4, AND, XOR };
    uint32_t a = c->word >> 16 & 0xf, b = c->word >> 12 & 0xf, to = c->word >> 8 & 0xf;
    uint32_t len = c->word & 0xf, *special = math_register(d, to);
    uint64_t immediate = 0, x, y;

    if (a == MATH_IMMEDIATE || b == MATH_IMMEDIATE) {
        immediate = take_word(c);
        if (len == 8 && !(c->word & 1 << 26)) {
            take_word(c);
        }
    }
    if (!math_operand(d, a, immediate, 0, &x) || !math_operand(d, b, immediate, 1, &y)) {
        return deco_error(ERR_MATH);
    }
    switch (c->word >> 20 & 0xf) {
    case ADD:
        x += y;
        break;
    case SUBTRACT:
        x -= y;
        break;
    case OR:
        x |= y;
        break;
    case AND:
        x &= y;
        break;
    case XOR:
        x ^= y;
        break;
    default:
        return deco_error(ERR_MATH);
    }
    if (len == 4) {
        x = (uint32_t)x;
    }
    if (to < 4) {
        d->math[to] = x;
    } else if (special) {
        *special = x;
    } else if (to != MATH_NOWHERE) {
        return deco_error(ERR_MATH);
    }
    return 0;
}

/* SEQ IN PTR, SEQ OUT PTR: the address of a sequence. */
static uint32_t do_sequence_pointer(struct command *c, struct sequence *s, uint32_t not_modelled)
{
    if (c->word & not_modelled) {
        return deco_error(ERR_SEQUENCE);
    }
    *s = (struct sequence){.scattered = c->word & SCATTERED};
    s->next = s->table = take_word(c);
    s->left = c->word & EXTENDED ? take_word(c) : c->word & 0xffff;
    return 0;
}

static uint32_t do_command(struct deco *d, struct command *c)
{
    switch (c->word >> 27) {
    case CMD_KEY:
        return do_key(d, c, false);
    case CMD_SEQ_KEY:
        return do_key(d, c, true);
    case CMD_LOAD:
        return do_load(d, c, false);
    case CMD_SEQ_LOAD:
        return do_load(d, c, true);
    case CMD_STORE:
        return do_store(d, c, false);
    case CMD_SEQ_STORE:
        return do_store(d, c, true);
    case CMD_SEQ_FIFO_LOAD:
        return do_fifo_load(d, c);
    case CMD_FIFO_STORE:
        return do_fifo_store(d, c);
    case CMD_SEQ_FIFO_STORE:
        return do_sequence_fifo_store(d, c);
    case CMD_MOVE:
        return do_move(d, c);
    case CMD_OPERATION:
        return do_operation(d, c->word);
    case CMD_JUMP:
        return do_jump(d, c);
    case CMD_MATH:
        return do_math(d, c);
    case CMD_SEQ_IN_PTR: /* release of buffers, immediate data, rewinding */
        return do_sequence_pointer(c, &d->in, 0x06a00000);
    case CMD_SEQ_OUT_PTR:
        return do_sequence_pointer(c, &d->out, 0x00a00000);
    }
    return deco_error(ERR_COMMAND);
}

/* Runs the words from `from` to `end`. The buffer has twice WORDS, with zeros after the
 * end: the last command may ask for more words than there are. */
static uint32_t run(struct deco *d, const uint32_t *words, int from, int end)
{
    for (int at = from, steps = 0; at < end && !d->halted; steps++) {
        struct command c = {.word = words[at],
                            .class = words[at] >> 25 & 3,
                            .more = words + at + 1,
                            .at = at,
                            .next = at + 1};
        uint32_t status = steps < STEPS_MAX ? do_command(d, &c) : deco_error(ERR_ENDLESS);

        if (c.next < 0) {
            status = deco_error(ERR_COMMAND);
        }
        if (status) {
            status |= (uint32_t)(at & 0xff) << 8;
            d->chip->ops->trace(d->chip->owner, "word %d = %08x: status %08x", at, words[at],
                                status);
            return status;
        }
        at = c.next;
    }
    return 0;
}

/* The word at which a header starts its descriptor. */
static int start_of(uint32_t header)
{
    return header >> 16 & 0x3f ? header >> 16 & 0x3f : 1;
}

static uint32_t run_at(struct deco *d, uint64_t address)
{
    enum { ONE = 1 << 23, SHARED = 1 << 12, REVERSE = 1 << 11, TRUSTED = 1 << 15 };
    uint32_t words[2 * WORDS] = {0}, shared[2 * WORDS] = {0}, header, status;
    int len;

    d->halted = false;
    if (++d->depth > DEPTH_MAX) {
        return deco_error(ERR_ENDLESS);
    }
    if (guest_read(d, address, &header, sizeof header)) {
        return deco_error(ERR_DMA);
    }
    len = header & 0x7f;
    if (header >> 27 != CMD_HEADER || !(header & ONE) || header & TRUSTED) {
        return deco_error(ERR_COMMAND);
    }
    if (!len || len > WORDS) {
        return deco_error(ERR_HEADER_LENGTH);
    }
    if (guest_read(d, address, words, 4 * len)) {
        return deco_error(ERR_DMA);
    }
    if (!(header & SHARED)) {
        status = run(d, words, start_of(header), len);
    } else {
        if (guest_read(d, words[1], shared, 4 * (header >> 16 & 0x3f))) {
            return deco_error(ERR_DMA);
        }
        if (shared[0] >> 27 != CMD_SHARED_HEADER) {
            return deco_error(ERR_SHARED_HEADER);
        }
        int shared_len = shared[0] & 0x3f;

        if (header & REVERSE) {
            status = run(d, words, 2, len);
            status = status ? status : run(d, shared, start_of(shared[0]), shared_len);
        } else {
            status = run(d, shared, start_of(shared[0]), shared_len);
            status = status ? status : run(d, words, 2, len);
        }
    }
    d->halted = true;
    return status;
}

static void deco_end(struct deco *d)
{
    free(d->fifo);
    memset(d, 0, sizeof *d);
}

uint32_t caam_run_job(struct caam_chip *chip, uint64_t address)
{
    struct deco d = {.chip = chip};
    uint32_t status = run_at(&d, address);

    chip->jobs++;
    deco_end(&d);
    return status;
}

uint32_t caam_run_deco(struct caam_chip *chip, const uint32_t *words, int room)
{
    struct deco d = {.chip = chip};
    uint32_t own[2 * WORDS] = {0}, status;
    int len = words[0] & 0x7f;

    if (len > room || len > WORDS) {
        return deco_error(ERR_HEADER_LENGTH);
    }
    memcpy(own, words, 4 * len);
    status = run(&d, own, 1, len);
    deco_end(&d);
    return status;
}

void caam_chip_reset(struct caam_chip *chip)
{
    chip->ops->random(chip->owner, chip->jdkek, sizeof chip->jdkek);
    chip->rdsta = 0;
}
