// SPDX-License-Identifier: GPL-2.0
/* NXP's interface to the CAAM's keys, for tests only: see the chip_ functions. */
#include <linux/module.h>
#include "simcaam.h"

static int __init simcaam_init(void)
{
	int err;

	err = chip_init();
	if (err)
		return err;
	err = rings_start(tk_job);
	if (err)
		goto chip;
	err = tk_init();
	if (err)
		goto rings;
	err = keygen_init();
	if (err)
		goto tk;
	return 0;

tk:
	tk_exit();
rings:
	rings_stop();
chip:
	chip_exit();
	return err;
}

static void __exit simcaam_exit(void)
{
	keygen_exit();
	tk_exit();
	rings_stop();
	chip_exit();
}

module_init(simcaam_init);
module_exit(simcaam_exit);
MODULE_DESCRIPTION("i.MX CAAM: /dev/caam-keygen and tk(cbc(aes)), for tests");
MODULE_LICENSE("GPL");
