#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# dracut, when udev has settled: opens the volumes of the image's configuration,
# once. A volume that is open already is left as it is, so that a second run
# after a late device does no harm. Nothing is mounted here.

if [ ! -e /run/imxcrypt-boot-done ]; then
	modprobe -q dm-crypt
	if imxcrypt boot --no-mount; then
		: >/run/imxcrypt-boot-done
	fi
fi
