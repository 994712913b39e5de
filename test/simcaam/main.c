// SPDX-License-Identifier: GPL-2.0
/* imxcrypt_simcaam: NXP's CAAM key interface in software, for tests only. */
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
	err = fuses_init();
	if (err)
		goto rings;
	err = tk_init();
	if (err)
		goto fuses;
	err = keygen_init();
	if (err)
		goto tk;
	pr_info("simulated CAAM, no protection: %s state\n",
		chip_closed() ? "closed" : "open");
	return 0;

tk:
	tk_exit();
fuses:
	fuses_exit();
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
	fuses_exit();
	rings_stop();
	chip_exit();
}

module_init(simcaam_init);
module_exit(simcaam_exit);
MODULE_DESCRIPTION("simulated i.MX CAAM: /dev/caam-keygen and tk(cbc(aes)), for tests");
MODULE_LICENSE("GPL");
