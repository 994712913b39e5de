/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QEMU device "fsl-caam": the registers of NXP's CAAM (controller, three job rings, DECO 0).
 *
 * otpmk is what is fused into the chip, any text: another one is another chip. state is trusted,
 * secure or nonsecure; in a nonsecure (open) chip blobs are sealed with a test key that all chips
 * share. The key of black keys (JDKEK) is drawn at reset; writing true to the property power-loss
 * draws it again, as a suspend to RAM does on most i.MX:
 *
 *   qom-set path=/machine/fsl-caam property=power-loss value=true
 */
#include "qemu/osdep.h"
#include "crypto/aes.h"
#include "exec/address-spaces.h"
#include "hw/irq.h"
#include "hw/qdev-properties.h"
#include "hw/sysbus.h"
#include "qapi/error.h"
#include "qemu/guest-random.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "sysemu/dma.h"
#include "caam_desc.h"

#define TYPE_FSL_CAAM "fsl-caam"
OBJECT_DECLARE_SIMPLE_TYPE(FslCaam, FSL_CAAM)

/* Pages of 4 KiB: the controller, the job rings, and DECO 0. */
enum { PAGE_CTRL = 0, RINGS = 3, PAGE_DECO = 8 };

/* Registers of the controller that are not plain memory. */
enum {
    CTRL_DECO_REQUEST = 0x9c,
    CTRL_JR_START = 0x94,
    CTRL_RDSTA = 0x6c0,
    CTRL_WRITABLE_END = 0xe80
};

/* Performance monitor, the same in the page of the controller and of each ring. */
enum {
    PERF = 0xf00,
    PERF_CTPR_LOW = 0xfac,
    PERF_STATUS = 0xfd4,
    PERF_CCBVID = 0xfe4,
    PERF_CHAVID_LOW = 0xfec,
    PERF_CHANUM_HIGH = 0xff0,
    PERF_CHANUM_LOW = 0xff4,
    PERF_CAAMVID_HIGH = 0xff8,
};

/* Registers of a job ring. */
enum {
    JR_IN_BASE_LOW = 0x00,
    JR_IN_BASE_HIGH = 0x04,
    JR_IN_SIZE = 0x0c,
    JR_IN_ROOM = 0x14,
    JR_IN_ADDED = 0x1c,
    JR_OUT_BASE_LOW = 0x20,
    JR_OUT_BASE_HIGH = 0x24,
    JR_OUT_SIZE = 0x2c,
    JR_OUT_REMOVED = 0x34,
    JR_OUT_USED = 0x3c,
    JR_INTERRUPT = 0x4c,
    JR_CONFIG_HIGH = 0x50,
    JR_CONFIG_LOW = 0x54,
    JR_IN_INDEX = 0x5c,
    JR_OUT_INDEX = 0x64,
    JR_COMMAND = 0x6c,
};
enum {
    INT_PENDING = 1,
    INT_ERROR = 2,
    INT_HALT = 0xc,
    INT_HALTED = 8,
    CONFIG_MASKED = 1,
    COMMAND_RESET = 1
};

enum { DECO_JOB_QUEUE = 0x800, DECO_STATUS = 0x810, DECO_BUFFER = 0xa00, DECO_BUFFER_END = 0xb00 };
enum { DECO_RUN = 0x20000000 };

typedef struct Ring {
    uint64_t in, out;           /* addresses in the guest */
    uint32_t in_size, out_size; /* in jobs */
    uint32_t in_next, out_next;
    uint32_t pending, used;
    uint32_t interrupt, config_high, config_low;
    qemu_irq irq;
} Ring;

/* A key's schedule: the same key is used for block after block. */
typedef struct Schedule {
    uint8_t key[32];
    int len;
    AES_KEY aes;
} Schedule;

struct FslCaam {
    SysBusDevice parent_obj;
    MemoryRegion registers;
    QEMUBH *work;
    char *otpmk, *state;
    uint32_t mode; /* operating mode: 2 trusted, 1 secure, 0 nonsecure */
    uint32_t ctrl[0x1000 / 4];
    Ring rings[RINGS];
    uint32_t deco_buffer[64], deco_status;
    Schedule encryption, decryption;
    struct caam_chip chip;
};

static int chip_read(void *owner, uint64_t address, void *to, size_t n)
{
    return dma_memory_read(&address_space_memory, address, to, n, MEMTXATTRS_UNSPECIFIED);
}

static int chip_write(void *owner, uint64_t address, const void *from, size_t n)
{
    return dma_memory_write(&address_space_memory, address, from, n, MEMTXATTRS_UNSPECIFIED);
}

static void chip_random(void *owner, void *to, size_t n)
{
    qemu_guest_getrandom_nofail(to, n);
}

static void chip_aes(void *owner, const uint8_t *key, int len, bool encrypt, const uint8_t *in,
                     uint8_t *out)
{
    FslCaam *s = owner;
    Schedule *schedule = encrypt ? &s->encryption : &s->decryption;

    if (schedule->len != len || memcmp(schedule->key, key, len)) {
        (encrypt ? AES_set_encrypt_key : AES_set_decrypt_key)(key, len * 8, &schedule->aes);
        memcpy(schedule->key, key, len);
        schedule->len = len;
    }
    (encrypt ? AES_encrypt : AES_decrypt)(in, out, &schedule->aes);
}

static void chip_sha256(void *owner, const void *data, size_t n, uint8_t out[32])
{
    GChecksum *sum = g_checksum_new(G_CHECKSUM_SHA256);
    gsize len = 32;

    g_checksum_update(sum, data, n);
    g_checksum_get_digest(sum, out, &len);
    g_checksum_free(sum);
}

static void G_GNUC_PRINTF(2, 3) chip_trace(void *owner, const char *format, ...)
{
    va_list args;

    if (!getenv("CAAM_TRACE")) {
        return;
    }
    fprintf(stderr, "caam: ");
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "\n");
}

static const struct caam_ops chip_ops = {
    .read = chip_read,
    .write = chip_write,
    .random = chip_random,
    .aes = chip_aes,
    .sha256 = chip_sha256,
    .trace = chip_trace,
};

static void ring_irq(Ring *r)
{
    qemu_set_irq(r->irq, (r->interrupt & INT_PENDING) && !(r->config_low & CONFIG_MASKED));
}

static bool ring_ready(const Ring *r)
{
    return r->pending && r->in_size && r->used < r->out_size && !(r->interrupt & INT_HALT);
}

/* Takes a job from the input ring and puts it, with its status, into the output ring. */
static bool ring_step(FslCaam *s, Ring *r)
{
    uint32_t descriptor, result[2];

    if (chip_read(s, r->in + 4ull * r->in_next, &descriptor, sizeof descriptor)) {
        return false;
    }
    r->in_next = (r->in_next + 1) % r->in_size;
    r->pending--;
    result[0] = descriptor;
    result[1] = cpu_to_le32(caam_run_job(&s->chip, le32_to_cpu(descriptor)));
    chip_write(s, r->out + 8ull * r->out_next, result, sizeof result);
    r->out_next = (r->out_next + 1) % r->out_size;
    r->used++;
    return true;
}

/* Runs outside the guest's write, so that its processor continues; at most JOBS jobs at
 * a time. */
static void work(void *opaque)
{
    enum { JOBS = 64 };
    FslCaam *s = opaque;
    bool again = false;
    int jobs = 0;

    for (Ring *r = s->rings; r < s->rings + RINGS; r++) {
        bool done = false;

        while (jobs < JOBS && ring_ready(r) && ring_step(s, r)) {
            done = true;
            jobs++;
        }
        if (done) {
            r->interrupt |= INT_PENDING;
            ring_irq(r);
        }
        again |= jobs == JOBS && ring_ready(r);
    }
    if (again) {
        qemu_bh_schedule(s->work);
    }
}

static uint32_t read_perf(FslCaam *s, uint32_t offset)
{
    switch (offset) {
    case PERF_CTPR_LOW:
        return 2; /* blobs; otherwise: 32-bit pointers, no queue interface, no virtualization */
    case PERF_STATUS:
        return s->mode << 8; /* little endian */
    case PERF_CCBVID:
        return 9u << 24; /* era 9 */
    case PERF_CHAVID_LOW:
        return 4u << 16 | 3; /* RNG4, AES LP */
    case PERF_CHANUM_HIGH:
        return (uint32_t)RINGS << 28 | 1u << 24; /* and one DECO */
    case PERF_CHANUM_LOW:
        return 1u << 16 | 1; /* one RNG, one AES; no hashes, DES, public keys */
    case PERF_CAAMVID_HIGH:
        return 0x0a160401; /* the value of an i.MX8M */
    }
    return 0;
}

static uint32_t read_ctrl(FslCaam *s, uint32_t offset)
{
    uint32_t value = s->ctrl[offset / 4];

    switch (offset) {
    case CTRL_JR_START:
        return value & 1 ? value | 0x80000000u : value;
    case CTRL_DECO_REQUEST:
        return value & 1 ? value | 0x00010000u : 0; /* granted */
    case CTRL_RDSTA:
        return s->chip.rdsta;
    }
    return value;
}

static uint32_t read_ring(const Ring *r, uint32_t offset)
{
    switch (offset) {
    case JR_IN_BASE_LOW:
        return r->in;
    case JR_IN_BASE_HIGH:
        return r->in >> 32;
    case JR_IN_SIZE:
        return r->in_size;
    case JR_IN_ROOM:
        return r->in_size - r->pending;
    case JR_OUT_BASE_LOW:
        return r->out;
    case JR_OUT_BASE_HIGH:
        return r->out >> 32;
    case JR_OUT_SIZE:
        return r->out_size;
    case JR_OUT_USED:
        return r->used;
    case JR_INTERRUPT:
        return r->interrupt;
    case JR_CONFIG_HIGH:
        return r->config_high;
    case JR_CONFIG_LOW:
        return r->config_low;
    case JR_IN_INDEX:
        return r->in_next;
    case JR_OUT_INDEX:
        return r->out_next;
    }
    return 0;
}

static uint32_t read_word(FslCaam *s, uint32_t address)
{
    uint32_t page = address >> 12, offset = address & 0xffc;

    if (page <= RINGS && offset >= PERF) {
        return read_perf(s, offset);
    }
    if (page == PAGE_CTRL) {
        return read_ctrl(s, offset);
    }
    if (page <= RINGS) {
        return read_ring(&s->rings[page - 1], offset);
    }
    if (page == PAGE_DECO && offset == DECO_STATUS) {
        return s->deco_status;
    }
    if (page == PAGE_DECO && offset >= DECO_BUFFER && offset < DECO_BUFFER_END) {
        return s->deco_buffer[(offset - DECO_BUFFER) / 4];
    }
    return 0;
}

/* The first command of a pair halts the ring and drops its jobs, the second resets it. */
static void ring_command(Ring *r)
{
    if ((r->interrupt & INT_HALT) != INT_HALTED) {
        r->pending = 0;
        r->interrupt = (r->interrupt & ~INT_HALT) | INT_HALTED;
        return;
    }
    *r = (Ring){.irq = r->irq, .config_low = r->config_low};
    ring_irq(r);
}

static void write_ring(FslCaam *s, Ring *r, uint32_t offset, uint32_t value)
{
    switch (offset) {
    case JR_IN_BASE_LOW:
        r->in = deposit64(r->in, 0, 32, value);
        r->in_next = 0;
        break;
    case JR_IN_BASE_HIGH:
        r->in = deposit64(r->in, 32, 32, value);
        break;
    case JR_IN_SIZE:
        r->in_size = value & 0x3ff;
        r->in_next = 0;
        break;
    case JR_IN_ADDED:
        r->pending += value;
        if (r->pending > r->in_size) {
            r->pending = r->in_size;
            r->interrupt |= INT_ERROR;
        }
        qemu_bh_schedule(s->work);
        break;
    case JR_OUT_BASE_LOW:
        r->out = deposit64(r->out, 0, 32, value);
        r->out_next = 0;
        break;
    case JR_OUT_BASE_HIGH:
        r->out = deposit64(r->out, 32, 32, value);
        break;
    case JR_OUT_SIZE:
        r->out_size = value & 0x3ff;
        r->out_next = 0;
        break;
    case JR_OUT_REMOVED:
        r->used -= MIN(value, r->used);
        qemu_bh_schedule(s->work);
        break;
    case JR_INTERRUPT:
        r->interrupt &= ~(value & (INT_PENDING | INT_ERROR));
        if ((value & INT_HALT) == INT_HALTED && (r->interrupt & INT_HALT) == INT_HALTED) {
            r->interrupt &= ~INT_HALT;
            qemu_bh_schedule(s->work);
        }
        ring_irq(r);
        break;
    case JR_CONFIG_HIGH:
        r->config_high = value;
        break;
    case JR_CONFIG_LOW:
        r->config_low = value;
        ring_irq(r);
        break;
    case JR_COMMAND:
        if (value & COMMAND_RESET) {
            ring_command(r);
        }
        break;
    }
}

static void write_word(FslCaam *s, uint32_t address, uint32_t value)
{
    uint32_t page = address >> 12, offset = address & 0xffc;

    if (page == PAGE_CTRL) {
        if (offset < CTRL_WRITABLE_END && offset != CTRL_RDSTA) {
            s->ctrl[offset / 4] = value;
        }
    } else if (page <= RINGS) {
        write_ring(s, &s->rings[page - 1], offset, value);
    } else if (page == PAGE_DECO && offset >= DECO_BUFFER && offset < DECO_BUFFER_END) {
        s->deco_buffer[(offset - DECO_BUFFER) / 4] = value;
    } else if (page == PAGE_DECO && offset == DECO_JOB_QUEUE && value & DECO_RUN) {
        s->deco_status = caam_run_deco(&s->chip, s->deco_buffer, ARRAY_SIZE(s->deco_buffer));
    }
}

static uint64_t registers_read(void *opaque, hwaddr address, unsigned size)
{
    uint64_t value = read_word(opaque, address);

    return size == 8 ? value | (uint64_t)read_word(opaque, address + 4) << 32 : value;
}

static void registers_write(void *opaque, hwaddr address, uint64_t value, unsigned size)
{
    write_word(opaque, address, value);
    if (size == 8) {
        write_word(opaque, address + 4, value >> 32);
    }
}

static const MemoryRegionOps registers_ops = {
    .read = registers_read,
    .write = registers_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = {.min_access_size = 4, .max_access_size = 8},
    .impl = {.min_access_size = 4, .max_access_size = 8},
};

static void fsl_caam_reset(DeviceState *device)
{
    FslCaam *s = FSL_CAAM(device);

    for (int i = 0; i < RINGS; i++) {
        s->rings[i] = (Ring){.irq = s->rings[i].irq};
    }
    memset(s->ctrl, 0, sizeof s->ctrl);
    caam_chip_reset(&s->chip);
}

static bool get_power_loss(Object *object, Error **errp)
{
    return false;
}

static void set_power_loss(Object *object, bool value, Error **errp)
{
    FslCaam *s = FSL_CAAM(object);

    if (value) {
        chip_random(s, s->chip.jdkek, sizeof s->chip.jdkek);
    }
}

static char *get_stats(Object *object, Error **errp)
{
    struct caam_chip *chip = &FSL_CAAM(object)->chip;

    return g_strdup_printf("jobs %lu, blobs sealed %lu, opened %lu, checks failed %lu", chip->jobs,
                           chip->blobs_sealed, chip->blobs_opened, chip->checks_failed);
}

static void fsl_caam_realize(DeviceState *device, Error **errp)
{
    static const char *const states[] = {"nonsecure", "secure", "trusted"};
    FslCaam *s = FSL_CAAM(device);
    g_autofree char *master = NULL;

    while (s->mode < ARRAY_SIZE(states) && strcmp(s->state, states[s->mode])) {
        s->mode++;
    }
    if (s->mode == ARRAY_SIZE(states)) {
        error_setg(errp, "fsl-caam: state is trusted, secure or nonsecure, not %s", s->state);
        return;
    }
    s->chip.ops = &chip_ops;
    s->chip.owner = s;
    master = g_strdup_printf("master:%s", s->mode ? s->otpmk : "\1test-key");
    chip_sha256(s, master, strlen(master), s->chip.master);
    memory_region_init_io(&s->registers, OBJECT(device), &registers_ops, s, TYPE_FSL_CAAM, 0x10000);
    sysbus_init_mmio(SYS_BUS_DEVICE(device), &s->registers);
    for (int i = 0; i < RINGS; i++) {
        sysbus_init_irq(SYS_BUS_DEVICE(device), &s->rings[i].irq);
    }
    s->work = qemu_bh_new(work, s);
}

static Property fsl_caam_properties[] = {
    DEFINE_PROP_STRING("otpmk", FslCaam, otpmk),
    DEFINE_PROP_STRING("state", FslCaam, state),
    DEFINE_PROP_END_OF_LIST(),
};

static void fsl_caam_init(Object *object)
{
    FSL_CAAM(object)->otpmk = g_strdup("chip-1");
    FSL_CAAM(object)->state = g_strdup("trusted");
}

static void fsl_caam_class_init(ObjectClass *class, void *data)
{
    DeviceClass *device = DEVICE_CLASS(class);

    device->realize = fsl_caam_realize;
    device->reset = fsl_caam_reset;
    device->desc = "NXP CAAM (keys, blobs, AES)";
    device_class_set_props(device, fsl_caam_properties);
    object_class_property_add_bool(class, "power-loss", get_power_loss, set_power_loss);
    object_class_property_add_str(class, "stats", get_stats, NULL);
}

static const TypeInfo fsl_caam_info = {
    .name = TYPE_FSL_CAAM,
    .parent = TYPE_SYS_BUS_DEVICE,
    .instance_size = sizeof(FslCaam),
    .instance_init = fsl_caam_init,
    .class_init = fsl_caam_class_init,
};

static void fsl_caam_register(void)
{
    type_register_static(&fsl_caam_info);
}
type_init(fsl_caam_register)
