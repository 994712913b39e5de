// SPDX-License-Identifier: GPL-2.0
/*
 * floor (NAME BLOB SECTORS TABLE MOUNTPOINT)...: the lower bound. It makes only the
 * system calls without which a volume cannot be opened: no configuration, no header, no
 * proof of the key, no node, no waiting. A TABLE with a trusted key takes the blob in
 * the format of keyctl pipe.
 */
#include <linux/dm-ioctl.h>
#include <linux/keyctl.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include "import.h"

static int control;
static union {
	struct dm_ioctl head;
	char room[4096];
} u;

static struct dm_ioctl *dm(unsigned long request, const char *name)
{
	struct dm_ioctl *d = &u.head;

	d->version[0] = 4;
	d->data_size = sizeof(u);
	d->data_start = sizeof(*d);
	strncpy(d->name, name, sizeof(d->name) - 1);
	if (ioctl(control, request, d))
		die("device-mapper");
	return d;
}

/* Writes what add_key needs to open a trusted key, "load HEX", to payload, which has
 * room for a blob of 512 bytes; returns its length. */
static size_t load(const char *file, uint8_t *payload)
{
	int fd = open(file, O_RDONLY | O_CLOEXEC);
	ssize_t n = read(fd, payload + 5, 1024);

	if (fd < 0 || n <= 0)
		die(file);
	close(fd);
	memcpy(payload, "load ", 5);
	return n + 5;
}

static void open_volume(char **a)
{
	uint8_t key[1029];
	int trusted = strstr(a[3], ":trusted:") != NULL;
	size_t n = trusted ? load(a[1], key) : import(a[1], key);
	char description[64], node[32];
	struct dm_target_spec *t = (void *)(u.room + sizeof(struct dm_ioctl));

	snprintf(description, sizeof(description), "bench:%s", a[0]);
	long id = syscall(SYS_add_key, trusted ? "trusted" : "logon", description, key, n, KEY_SPEC_THREAD_KEYRING);
	if (id < 0)
		die("add_key");
	memset(&u, 0, sizeof(u));
	dm(DM_DEV_CREATE, a[0]);
	memset(&u, 0, sizeof(u));
	u.head.target_count = 1;
	t->length = strtoull(a[2], 0, 10);
	strcpy(t->target_type, "crypt");
	strcpy((char *)(t + 1), a[3]);
	dm(DM_TABLE_LOAD, a[0]);
	memset(&u, 0, sizeof(u));
	unsigned minor_nr = minor(dm(DM_DEV_SUSPEND, a[0])->dev);
	syscall(SYS_keyctl, KEYCTL_UNLINK, id, KEY_SPEC_THREAD_KEYRING);
	memset(key, 0, sizeof(key));
	snprintf(node, sizeof(node), "/dev/dm-%u", minor_nr);
	if (mount(node, a[4], "ext4", 0, ""))
		die("mount");
}

int main(int argc, char **argv)
{
	control = open("/dev/mapper/control", O_RDWR | O_CLOEXEC);
	if (control < 0)
		die("/dev/mapper/control");
	for (int i = 1; i + 4 < argc; i += 5)
		open_volume(argv + i);
	return 0;
}
