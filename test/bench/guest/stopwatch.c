// SPDX-License-Identifier: GPL-2.0
/*
 * stopwatch PROGRAM ARGUMENT...: runs a program and writes, as the last line on stderr,
 * the time from its fork to its end (ns) and its peak memory use (KiB). It is small and
 * in C, so that its own cost hides nothing.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(int argc, char **argv)
{
	struct rusage used;
	int status;

	if (argc < 2)
		return 2;
	long long began = now();
	pid_t child = fork();
	if (child == 0) {
		execvp(argv[1], argv + 1);
		_exit(127);
	}
	if (child < 0 || wait4(child, &status, 0, &used) != child)
		return 126;
	long long took = now() - began;
	fprintf(stderr, "stopwatch: %lld ns, %ld KiB\n", took, used.ru_maxrss);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 125;
}
