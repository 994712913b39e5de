#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# dracut runs this when udev has settled for the first time. It opens the volumes in the
# image's configuration; the program itself waits for late devices. The program reports
# failures and what to do about them. If the root filesystem is missing, dracut waits
# for it in vain and reports that.
if [ ! -e /run/imxcrypt-dracut ]; then
	: >/run/imxcrypt-dracut
	modprobe -q dm-crypt
	/usr/bin/imxcrypt boot --no-mount >/dev/kmsg 2>&1 || :
fi
