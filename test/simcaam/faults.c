// SPDX-License-Identifier: GPL-2.0
/* Injected faults, and counters a test can read: all module parameters. */
#include <linux/atomic.h>
#include <linux/module.h>
#include "simcaam.h"

/* A parameter "the next N fail" that counts down with each failure. */
static int countdown_set(const char *val, const struct kernel_param *kp)
{
	int n, err = kstrtoint(val, 0, &n);

	if (err)
		return err;
	if (n < 0)
		return -EINVAL;
	atomic_set(kp->arg, n);
	return 0;
}

static int countdown_get(char *buffer, const struct kernel_param *kp)
{
	return sprintf(buffer, "%d\n", atomic_read(kp->arg));
}

static const struct kernel_param_ops countdown_ops = {
	.set = countdown_set,
	.get = countdown_get,
};

static atomic_t fail_creates, fail_imports, fail_requests, wrong_imports;
static atomic_t resume_fail_imports;
module_param_cb(resume_fail_imports, &countdown_ops, &resume_fail_imports, 0644);
MODULE_PARM_DESC(resume_fail_imports, "the first N IMPORTs after the next real suspend fail in the hardware");
module_param_cb(fail_creates, &countdown_ops, &fail_creates, 0644);
MODULE_PARM_DESC(fail_creates, "the next N CREATEs fail in the hardware");
module_param_cb(fail_imports, &countdown_ops, &fail_imports, 0644);
MODULE_PARM_DESC(fail_imports, "the next N IMPORTs fail in the hardware");
module_param_cb(fail_requests, &countdown_ops, &fail_requests, 0644);
MODULE_PARM_DESC(fail_requests, "the next N cipher requests fail in the hardware");
module_param_cb(wrong_imports, &countdown_ops, &wrong_imports, 0644);
MODULE_PARM_DESC(wrong_imports, "the next N IMPORTs succeed but yield another key");

static uint fail_errno = EIO;
module_param(fail_errno, uint, 0644);
MODULE_PARM_DESC(fail_errno, "errno of injected faults (default 5, EIO)");

static bool no_job_ring;
module_param(no_job_ring, bool, 0644);
MODULE_PARM_DESC(no_job_ring, "1: no job ring to be had, ENODEV for ioctls and new ciphers");

static int fault(atomic_t *countdown)
{
	if (atomic_dec_if_positive(countdown) < 0)
		return 0;
	return -(int)clamp(READ_ONCE(fail_errno), 1U, (uint)MAX_ERRNO);
}

int fault_create(void)
{
	return fault(&fail_creates);
}

int fault_import(void)
{
	return fault(&fail_imports);
}

int fault_request(void)
{
	return fault(&fail_requests);
}

void fault_resume(void)
{
	int n = atomic_xchg(&resume_fail_imports, 0);

	if (n)
		atomic_set(&fail_imports, n);
}

bool fault_wrong_import(void)
{
	return fault(&wrong_imports) != 0;
}

bool fault_no_ring(void)
{
	return READ_ONCE(no_job_ring);
}

static atomic64_t counters[COUNT_COUNTERS];

void count(enum counter counter)
{
	atomic64_inc(&counters[counter]);
}

static int counter_get(char *buffer, const struct kernel_param *kp)
{
	return sprintf(buffer, "%lld\n", (long long)atomic64_read(kp->arg));
}

static const struct kernel_param_ops counter_ops = { .get = counter_get };
module_param_cb(creates, &counter_ops, &counters[COUNT_CREATES], 0444);
MODULE_PARM_DESC(creates, "counter: CREATEs that succeeded");
module_param_cb(imports, &counter_ops, &counters[COUNT_IMPORTS], 0444);
MODULE_PARM_DESC(imports, "counter: IMPORTs that succeeded");
module_param_cb(jobs, &counter_ops, &counters[COUNT_JOBS], 0444);
MODULE_PARM_DESC(jobs, "counter: cipher requests completed, with or without success");
module_param_cb(failed, &counter_ops, &counters[COUNT_FAILED], 0444);
MODULE_PARM_DESC(failed, "counter: cipher requests that failed");
module_param_cb(backlogged, &counter_ops, &counters[COUNT_BACKLOGGED], 0444);
MODULE_PARM_DESC(backlogged, "counter: cipher requests that found the ring full and waited");
