/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QEMU device "fsl-dcp": NXP's DCP (i.MX28, 6SL, 6ULL), as far as drivers/crypto/mxs-dcp.c of Linux
 * drives it: AES-128 in ECB and CBC, with a key of the caller's or with one of the chip's own.
 *
 * otpmk is what is fused into the chip, any text. state is trusted or nonsecure; the keys of a
 * nonsecure (open) chip are zeros.
 */
#include "qemu/osdep.h"
#include "crypto/aes.h"
#include "exec/address-spaces.h"
#include "hw/irq.h"
#include "hw/qdev-properties.h"
#include "hw/sysbus.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "sysemu/dma.h"

#define TYPE_FSL_DCP "fsl-dcp"
OBJECT_DECLARE_SIMPLE_TYPE(FslDcp, FSL_DCP)

enum { CHANNELS = 4, BLOCK = 16, DATA_MAX = 65536 };

/* Registers are 16 bytes apart: the value, and ways to set, clear and toggle bits of it. */
enum {
    REG_CTRL = 0x00,
    REG_STAT = 0x10,
    REG_CHANNELCTRL = 0x20,
    REG_CAPABILITY0 = 0x30,
    REG_CAPABILITY1 = 0x40,
    REG_CONTEXT = 0x50,
    REG_CHANNELS = 0x100, /* four, of four registers each */
    REG_CHANNELS_END = 0x200,
    REG_VERSION = 0x430,
};
enum { CH_COMMAND = 0x00, CH_SEMAPHORE = 0x10, CH_STATUS = 0x20 };
enum { CHANNEL_SIZE = 0x40 };

#define CTRL_RESET 0x80000000u
#define CTRL_AFTER_RESET 0xc0000000u
#define CTRL_AT_POWER_ON 0xf0000000u

/* Errors of a channel. */
enum { STAT_SETUP = 0x02, STAT_PACKET = 0x10, STAT_SOURCE = 0x08, STAT_PAYLOAD = 0x20 };

/* A packet of work in the guest's memory, its first word the next packet's address. */
struct packet {
    uint32_t next, control0, control1, source, destination, size, payload, status;
};
enum {
    C0_CIPHER = 0x20,
    C0_HASH = 0x40,
    C0_ENCRYPT = 0x100,
    C0_INIT = 0x200,
    C0_PAYLOAD_KEY = 0x800
};
enum { C1_MODE = 0xf0, C1_CBC = 0x10, KEY_UNIQUE = 0xfe, KEY_OTP = 0xff };

struct FslDcp {
    SysBusDevice parent_obj;
    MemoryRegion registers;
    qemu_irq irq[2];
    QEMUBH *work;
    char *otpmk, *state;
    bool open;
    uint32_t ctrl, stat, channel_ctrl, context;
    uint32_t command[CHANNELS], semaphore[CHANNELS], status[CHANNELS];
    uint8_t iv[CHANNELS][BLOCK];
};

static bool guest_read(uint32_t address, void *to, size_t n)
{
    return dma_memory_read(&address_space_memory, address, to, n, MEMTXATTRS_UNSPECIFIED) ==
           MEMTX_OK;
}

static bool guest_write(uint32_t address, const void *from, size_t n)
{
    return dma_memory_write(&address_space_memory, address, from, n, MEMTXATTRS_UNSPECIFIED) ==
           MEMTX_OK;
}

static void update_irq(FslDcp *s)
{
    qemu_set_irq(s->irq[1], (s->stat & s->ctrl & 0xf) != 0);
}

/* One of the two keys that only the chip knows. */
static void device_key(FslDcp *s, int which, uint8_t key[BLOCK])
{
    g_autofree char *text = g_strdup_printf("dcp:%02x:%s", which, s->otpmk);
    GChecksum *sum = g_checksum_new(G_CHECKSUM_SHA256);
    uint8_t digest[32];
    gsize len = sizeof digest;

    g_checksum_update(sum, (uint8_t *)text, strlen(text));
    g_checksum_get_digest(sum, digest, &len);
    g_checksum_free(sum);
    memcpy(key, digest, BLOCK);
    if (s->open) {
        memset(key, 0, BLOCK);
    }
}

static void crypt_blocks(const uint8_t key[BLOCK], uint8_t iv[BLOCK], bool encrypt, bool cbc,
                         uint8_t *data, uint32_t n)
{
    AES_KEY encryption, decryption;
    uint8_t cipher[BLOCK];

    AES_set_encrypt_key(key, 128, &encryption);
    AES_set_decrypt_key(key, 128, &decryption);
    for (uint8_t *block = data; block < data + n; block += BLOCK) {
        memcpy(cipher, block, BLOCK);
        for (int i = 0; cbc && encrypt && i < BLOCK; i++) {
            block[i] ^= iv[i];
        }
        if (encrypt) {
            AES_encrypt(block, block, &encryption);
        } else {
            AES_decrypt(block, block, &decryption);
        }
        for (int i = 0; cbc && !encrypt && i < BLOCK; i++) {
            block[i] ^= iv[i];
        }
        if (cbc) {
            memcpy(iv, encrypt ? block : cipher, BLOCK);
        }
    }
}

/* Runs a channel's packet and returns the channel's status, 0 for success. */
static uint32_t do_packet(FslDcp *s, int channel)
{
    enum { DONE = 1 };
    struct packet p;
    uint8_t payload[2 * BLOCK] = {0}; /* a key and an IV, or one of them */
    uint8_t key[BLOCK], *iv = s->iv[channel];
    const uint8_t *new_iv = payload;
    bool cbc, written;

    if (!guest_read(s->command[channel], &p, sizeof p)) {
        return STAT_PACKET;
    }
    cbc = (p.control1 & C1_MODE) == C1_CBC;
    if (p.control0 & C0_HASH || !(p.control0 & C0_CIPHER) || p.size > DATA_MAX || p.size % BLOCK) {
        return STAT_SETUP;
    }
    if (p.control0 & C0_PAYLOAD_KEY) {
        if (!guest_read(p.payload, payload, sizeof payload)) {
            return STAT_PAYLOAD;
        }
        memcpy(key, payload, BLOCK);
        new_iv = payload + BLOCK;
    } else {
        int which = p.control1 >> 8 & 0xff;

        if (which != KEY_UNIQUE && which != KEY_OTP) {
            return STAT_SETUP;
        }
        if (cbc && !guest_read(p.payload, payload, BLOCK)) {
            return STAT_PAYLOAD;
        }
        device_key(s, which, key);
    }
    if (p.control0 & C0_INIT) {
        memcpy(iv, new_iv, BLOCK);
    }

    g_autofree uint8_t *data = g_malloc(p.size + 1);

    if (!guest_read(p.source, data, p.size)) {
        return STAT_SOURCE;
    }
    crypt_blocks(key, iv, p.control0 & C0_ENCRYPT, cbc, data, p.size);
    written = guest_write(p.destination, data, p.size);
    p.status = DONE;
    guest_write(s->command[channel] + offsetof(struct packet, status), &p.status, sizeof p.status);
    return written ? 0 : STAT_PACKET;
}

static void work(void *opaque)
{
    FslDcp *s = opaque;

    for (int i = 0; i < CHANNELS; i++) {
        for (; s->semaphore[i]; s->semaphore[i]--) {
            s->status[i] = do_packet(s, i);
            s->stat |= 1u << i;
        }
    }
    update_irq(s);
}

static uint64_t registers_read(void *opaque, hwaddr address, unsigned size)
{
    FslDcp *s = opaque;

    if (address >= REG_CHANNELS && address < REG_CHANNELS_END) {
        int channel = (address - REG_CHANNELS) / CHANNEL_SIZE;

        switch (address % CHANNEL_SIZE & ~0xf) {
        case CH_COMMAND:
            return s->command[channel];
        case CH_SEMAPHORE:
            return s->semaphore[channel] << 16;
        case CH_STATUS:
            return s->status[channel];
        }
        return 0;
    }
    switch (address & ~0xfull) {
    case REG_CTRL:
        return s->ctrl;
    case REG_STAT:
        return s->stat;
    case REG_CHANNELCTRL:
        return s->channel_ctrl;
    case REG_CAPABILITY0:
        return 0x404;
    case REG_CAPABILITY1:
        return 1;
    case REG_CONTEXT:
        return s->context;
    case REG_VERSION:
        return 0x02010000;
    }
    return 0;
}

/* The register that an address writes to; NULL if there is none, or if it needs special
 * handling. */
static uint32_t *writable(FslDcp *s, hwaddr address)
{
    if (address >= REG_CHANNELS && address < REG_CHANNELS_END) {
        int channel = (address - REG_CHANNELS) / CHANNEL_SIZE;

        return (address % CHANNEL_SIZE & ~0xf) == CH_STATUS ? &s->status[channel] : NULL;
    }
    switch (address & ~0xfull) {
    case REG_CTRL:
        return &s->ctrl;
    case REG_STAT:
        return &s->stat;
    case REG_CHANNELCTRL:
        return &s->channel_ctrl;
    case REG_CONTEXT:
        return &s->context;
    }
    return NULL;
}

static void registers_write(void *opaque, hwaddr address, uint64_t value, unsigned size)
{
    enum { VALUE, SET, CLEAR, TOGGLE };
    FslDcp *s = opaque;
    int how = address >> 2 & 3;
    uint32_t *reg = writable(s, address), ctrl = s->ctrl;

    if (reg) {
        *reg = how == VALUE   ? value
               : how == SET   ? *reg | value
               : how == CLEAR ? *reg & ~value
                              : *reg ^ value;
        if (s->ctrl & ~ctrl & CTRL_RESET) {
            s->ctrl = CTRL_AFTER_RESET;
            s->stat = 0;
        }
        update_irq(s);
    } else if (address >= REG_CHANNELS && address < REG_CHANNELS_END) {
        int channel = (address - REG_CHANNELS) / CHANNEL_SIZE;

        if ((address % CHANNEL_SIZE & ~0xf) == CH_COMMAND) {
            s->command[channel] = value;
        } else if ((address % CHANNEL_SIZE & ~0xf) == CH_SEMAPHORE && how == VALUE) {
            s->semaphore[channel] += value & 0xff;
            qemu_bh_schedule(s->work);
        }
    }
}

static const MemoryRegionOps registers_ops = {
    .read = registers_read,
    .write = registers_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = {.min_access_size = 4, .max_access_size = 4},
};

static void fsl_dcp_reset(DeviceState *device)
{
    FslDcp *s = FSL_DCP(device);

    s->ctrl = CTRL_AT_POWER_ON;
    s->stat = s->channel_ctrl = 0;
    memset(s->semaphore, 0, sizeof s->semaphore);
    memset(s->status, 0, sizeof s->status);
}

static void fsl_dcp_realize(DeviceState *device, Error **errp)
{
    FslDcp *s = FSL_DCP(device);

    s->open = !strcmp(s->state, "nonsecure");
    if (!s->open && strcmp(s->state, "trusted")) {
        error_setg(errp, "fsl-dcp: state is trusted or nonsecure, not %s", s->state);
        return;
    }
    memory_region_init_io(&s->registers, OBJECT(device), &registers_ops, s, TYPE_FSL_DCP, 0x4000);
    sysbus_init_mmio(SYS_BUS_DEVICE(device), &s->registers);
    for (size_t i = 0; i < ARRAY_SIZE(s->irq); i++) {
        sysbus_init_irq(SYS_BUS_DEVICE(device), &s->irq[i]);
    }
    s->work = qemu_bh_new(work, s);
}

static Property fsl_dcp_properties[] = {
    DEFINE_PROP_STRING("otpmk", FslDcp, otpmk),
    DEFINE_PROP_STRING("state", FslDcp, state),
    DEFINE_PROP_END_OF_LIST(),
};

static void fsl_dcp_init(Object *object)
{
    FSL_DCP(object)->otpmk = g_strdup("chip-1");
    FSL_DCP(object)->state = g_strdup("trusted");
}

static void fsl_dcp_class_init(ObjectClass *class, void *data)
{
    DeviceClass *device = DEVICE_CLASS(class);

    device->realize = fsl_dcp_realize;
    device->reset = fsl_dcp_reset;
    device->desc = "NXP DCP (AES with device keys)";
    device_class_set_props(device, fsl_dcp_properties);
}

static const TypeInfo fsl_dcp_info = {
    .name = TYPE_FSL_DCP,
    .parent = TYPE_SYS_BUS_DEVICE,
    .instance_size = sizeof(FslDcp),
    .instance_init = fsl_dcp_init,
    .class_init = fsl_dcp_class_init,
};

static void fsl_dcp_register(void)
{
    type_register_static(&fsl_dcp_info);
}
type_init(fsl_dcp_register)
