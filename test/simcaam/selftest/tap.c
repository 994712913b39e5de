// SPDX-License-Identifier: GPL-2.0
/* TAP, and the module's parameters. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "selftest.h"

int tests, failures;

void ok(int passed, const char *format, ...)
{
	va_list args;

	printf("%sok %d - ", passed ? "" : "not ", ++tests);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
	fflush(stdout);
	failures += !passed;
}

/* The errno of a call, 0 for success. */
void is_errno(int got, int want, const char *what)
{
	ok(got == want, "%s: %s", what, want ? strerror(want) : "succeeds");
	if (got != want)
		printf("# got errno %d (%s)\n", got, strerror(got));
}

void is_text(const void *got, const char *want)
{
	int same = !strcmp(got, want);

	ok(same, "... and says \"%.*s\"", (int)strcspn(want, "\n"), want);
	if (!same)
		printf("# got \"%.60s\"\n", (const char *)got);
}

/* The file of a parameter, of whichever module is loaded. */
static const char *path_of(const char *parameter, char path[PATH_MAX])
{
	static const char *const modules[] = {"simcaam", "jobcaam"};

	for (int i = 0; i < 2; i++) {
		snprintf(path, PATH_MAX, "/sys/module/imxcrypt_%s/parameters/%s", modules[i], parameter);
		if (!access(path, F_OK))
			break;
	}
	return path;
}

int has(const char *parameter)
{
	char path[PATH_MAX];

	return !access(path_of(parameter, path), F_OK);
}

void set(const char *parameter, const char *value)
{
	char path[PATH_MAX];
	int fd;

	fd = open(path_of(parameter, path), O_WRONLY);
	if (fd < 0 || write(fd, value, strlen(value)) < 0) {
		printf("Bail out! %s: %s\n", path, strerror(errno));
		exit(1);
	}
	close(fd);
}

void get(const char *parameter, char *value, size_t room)
{
	char path[PATH_MAX];
	ssize_t n = -1;
	int fd;

	fd = open(path_of(parameter, path), O_RDONLY);
	if (fd >= 0)
		n = read(fd, value, room - 1);
	if (n < 0) {
		printf("Bail out! %s: %s\n", path, strerror(errno));
		exit(1);
	}
	value[n] = 0;
	value[strcspn(value, "\n")] = 0;
	close(fd);
}

long counter(const char *parameter)
{
	char value[32];

	get(parameter, value, sizeof(value));
	return atol(value);
}
