/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QEMU device "imx-crypto": puts the model of CAAM or DCP onto -M virt of a QEMU that was not built
 * with them.
 *
 *   LD_PRELOAD=imx-crypto.so qemu-system-aarch64 -M virt … \
 *     -device imx-crypto,model=fsl-caam|fsl-dcp[,otpmk=TEXT][,state=trusted|secure|nonsecure]
 *
 * The model is at an address that virt's memory map leaves free. Its interrupts are the
 * first ones of virt's platform bus, which nothing else here uses. Its node is in the root
 * of the device tree.
 */
#include "qemu/osdep.h"
#include "hw/boards.h"
#include "hw/irq.h"
#include "hw/qdev-properties.h"
#include "hw/sysbus.h"
#include "qapi/error.h"
#include "qemu/module.h"
#include "qom/object.h"
#include "sysemu/device_tree.h"

#define TYPE_IMX_CRYPTO "imx-crypto"
OBJECT_DECLARE_SIMPLE_TYPE(ImxCrypto, IMX_CRYPTO)

struct ImxCrypto {
    DeviceState parent_obj;
    char *model, *otpmk, *state;
};

enum { BASE = 0x0b000000, FIRST_SPI = 112, RINGS = 3, DCP_IRQS = 2 };

/* Names shared peripheral interrupts, from FIRST_SPI + first on, level high. */
static void describe_irqs(void *fdt, const char *node, int first, int count)
{
    uint32_t cells[3 * RINGS];

    for (int i = 0; i < count; i++) {
        cells[3 * i] = cpu_to_be32(0);
        cells[3 * i + 1] = cpu_to_be32(FIRST_SPI + first + i);
        cells[3 * i + 2] = cpu_to_be32(4);
    }
    qemu_fdt_setprop(fdt, node, "interrupts", cells, 3 * count * sizeof cells[0]);
}

static void describe_dcp(void *fdt)
{
    const char *node = "/dcp@b000000";

    qemu_fdt_add_subnode(fdt, node);
    qemu_fdt_setprop_string(fdt, node, "compatible", "fsl,imx28-dcp");
    qemu_fdt_setprop_cells(fdt, node, "reg", 0, BASE, 0, 0x4000);
    describe_irqs(fdt, node, 0, DCP_IRQS);
}

static void describe_caam(void *fdt)
{
    const char *node = "/crypto@b000000";

    qemu_fdt_add_subnode(fdt, node);
    qemu_fdt_setprop_string(fdt, node, "compatible", "fsl,sec-v4.0");
    qemu_fdt_setprop_cells(fdt, node, "reg", 0, BASE, 0, 0x10000);
    qemu_fdt_setprop_cell(fdt, node, "#address-cells", 1);
    qemu_fdt_setprop_cell(fdt, node, "#size-cells", 1);
    qemu_fdt_setprop_cells(fdt, node, "ranges", 0, 0, BASE, 0x10000);
    qemu_fdt_setprop(fdt, node, "dma-coherent", "", 0);
    for (int i = 0; i < RINGS; i++) {
        int offset = 0x1000 * (i + 1);
        g_autofree char *ring = g_strdup_printf("%s/jr@%x", node, offset);

        qemu_fdt_add_subnode(fdt, ring);
        qemu_fdt_setprop_string(fdt, ring, "compatible", "fsl,sec-v4.0-job-ring");
        qemu_fdt_setprop_cells(fdt, ring, "reg", offset, 0x1000);
        qemu_fdt_setprop(fdt, ring, "dma-coherent", "", 0);
        describe_irqs(fdt, ring, i, 1);
    }
}

static void imx_crypto_realize(DeviceState *device, Error **errp)
{
    ImxCrypto *s = IMX_CRYPTO(device);
    void *fdt = MACHINE(qdev_get_machine())->fdt;
    Object *gic = object_resolve_path_type("", "arm_gic_common", NULL);
    bool caam = s->model && !strcmp(s->model, "fsl-caam");
    DeviceState *model;

    if (!gic) {
        gic = object_resolve_path_type("", "arm-gicv3-common", NULL);
    }
    if (!gic || !fdt) {
        error_setg(errp, "imx-crypto: needs a machine with a GIC and a device tree");
        return;
    }
    if (!caam && (!s->model || strcmp(s->model, "fsl-dcp"))) {
        error_setg(errp, "imx-crypto: model is fsl-caam or fsl-dcp");
        return;
    }
    model = qdev_new(s->model);
    if (s->otpmk) {
        object_property_set_str(OBJECT(model), "otpmk", s->otpmk, &error_fatal);
    }
    if (s->state) {
        object_property_set_str(OBJECT(model), "state", s->state, &error_fatal);
    }
    /* Not below /machine/peripheral, where virt would look for it on its platform bus. */
    object_property_add_child(qdev_get_machine(), s->model, OBJECT(model));
    if (!sysbus_realize_and_unref(SYS_BUS_DEVICE(model), errp)) {
        return;
    }
    sysbus_mmio_map(SYS_BUS_DEVICE(model), 0, BASE);
    for (int i = 0; i < (caam ? RINGS : DCP_IRQS); i++) {
        sysbus_connect_irq(SYS_BUS_DEVICE(model), i, qdev_get_gpio_in(DEVICE(gic), FIRST_SPI + i));
    }
    (caam ? describe_caam : describe_dcp)(fdt);
}

static Property imx_crypto_properties[] = {
    DEFINE_PROP_STRING("model", ImxCrypto, model),
    DEFINE_PROP_STRING("otpmk", ImxCrypto, otpmk),
    DEFINE_PROP_STRING("state", ImxCrypto, state),
    DEFINE_PROP_END_OF_LIST(),
};

static void imx_crypto_class_init(ObjectClass *class, void *data)
{
    DeviceClass *device = DEVICE_CLASS(class);

    device->realize = imx_crypto_realize;
    device->user_creatable = true;
    device->desc = "NXP CAAM or DCP for -M virt";
    device_class_set_props(device, imx_crypto_properties);
}

static const TypeInfo imx_crypto_info = {
    .name = TYPE_IMX_CRYPTO,
    .parent = TYPE_DEVICE,
    .instance_size = sizeof(ImxCrypto),
    .class_init = imx_crypto_class_init,
};

static void imx_crypto_register(void)
{
    type_register_static(&imx_crypto_info);
}
type_init(imx_crypto_register)
