#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# dracut, when udev has settled for the first time: opens the volumes of the
# image's configuration. It waits for late devices by itself. What failed has been
# said, with what to do about it; if it was the root filesystem, dracut waits for
# it in vain and says so.
if [ ! -e /run/imxcrypt-dracut ]; then
	: >/run/imxcrypt-dracut
	modprobe -q dm-crypt
	/usr/bin/imxcrypt boot --no-mount >/dev/kmsg 2>&1 || :
fi
