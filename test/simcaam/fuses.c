// SPDX-License-Identifier: GPL-2.0
/*
 * What Linux shows of an i.MX's fuses: /sys/devices/soc0/soc_id and the nvmem
 * device imx-ocotp0, whose SEC_CONFIG bit follows the parameter "closed".
 */
#include <linux/device.h>
#include <linux/err.h>
#include <linux/module.h>
#include <linux/nvmem-provider.h>
#include "simcaam.h"

#define FUSES_LEN	0x400

static const struct soc {
	const char *id;
	unsigned int offset;	/* of the SEC_CONFIG word */
	u32 mask;		/* set: closed */
} socs[] = {
	{ "i.MX6Q", 0x18, 0x00000002 },
	{ "i.MX6DL", 0x18, 0x00000002 },
	{ "i.MX6UL", 0x18, 0x00000002 },
	{ "i.MX7D", 0x1c, 0x02000000 },
	{ "i.MX8MQ", 0x1c, 0x02000000 },
	{ "i.MX8MM", 0x1c, 0x02000000 },
	{ "i.MX8MN", 0x1c, 0x02000000 },
	{ "i.MX8MP", 0x1c, 0x02000000 },
	{ "i.MX7ULP", 0x3b8, 0x80000000 },
};

static char *soc = "i.MX8MP";
module_param(soc, charp, 0444);
MODULE_PARM_DESC(soc, "the i.MX whose soc_id and fuses to show; none: show neither (default i.MX8MP)");

static const struct soc *shown;
static struct device *soc_device;
static struct nvmem_device *fuses;

/* Other bits of the word are set too, which exposes code that compares whole words. */
static int fuses_read(void *priv, unsigned int offset, void *val, size_t bytes)
{
	__le32 word = cpu_to_le32(0x98002000 & ~shown->mask);
	u8 *out = val;
	size_t i;

	if (chip_closed())
		word |= cpu_to_le32(shown->mask);
	for (i = 0; i < bytes; i++, offset++)
		out[i] = offset - shown->offset < sizeof(word) ?
			 ((u8 *)&word)[offset - shown->offset] : 0;
	return 0;
}

static ssize_t soc_id_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%s\n", shown->id);
}
static DEVICE_ATTR_RO(soc_id);

static int fuses_register(void)
{
	struct nvmem_config config = {
		.name = "imx-ocotp",
		.id = 0,
		.dev = soc_device,
		.owner = THIS_MODULE,
		.read_only = true,
		.root_only = true,
		.word_size = 1,
		.stride = 1,
		.size = FUSES_LEN,
		.reg_read = fuses_read,
	};

	fuses = nvmem_register(&config);
	return PTR_ERR_OR_ZERO(fuses);
}

int fuses_init(void)
{
	size_t i;
	int err;

	if (!strcmp(soc, "none"))
		return 0;
	for (i = 0; i < ARRAY_SIZE(socs); i++)
		if (!strcmp(soc, socs[i].id))
			shown = &socs[i];
	if (!shown) {
		pr_err("unknown soc %s\n", soc);
		return -EINVAL;
	}
	soc_device = root_device_register("soc0");
	if (IS_ERR(soc_device))
		return PTR_ERR(soc_device);
	err = device_create_file(soc_device, &dev_attr_soc_id);
	if (!err)
		err = fuses_register();
	if (err)
		root_device_unregister(soc_device);
	return err;
}

void fuses_exit(void)
{
	if (!shown)
		return;
	nvmem_unregister(fuses);
	root_device_unregister(soc_device);
}
