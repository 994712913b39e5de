// SPDX-License-Identifier: GPL-2.0
/*
 * Job rings: a queue and a thread each. A request is queued, waits for its turn,
 * and is completed later with bottom halves off, as from the driver's tasklet.
 *
 * Time: a job starts when it was queued or when the one before it was done,
 * whichever is later, and is done latency_us after that. Keeping this clock apart
 * from when the thread gets to run makes a late wake-up cost one job, not all that
 * queue behind it.
 */
#include <crypto/algapi.h>
#include <crypto/internal/skcipher.h>
#include <linux/delay.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include "simcaam.h"

#define RINGS_MAX	4
#define LATENCY_MAX	20000000	/* µs; a request may not look like a hang */
#define SPIN_US		10		/* below this a sleep costs more than it lasts */
#define SLEEP_US	100000		/* µs; how long latency_us may have changed unseen */

static uint rings = 3;
module_param(rings, uint, 0444);
MODULE_PARM_DESC(rings, "number of job rings, 1 to 4; a cipher instance stays on one (default 3)");

static uint latency_us;
module_param(latency_us, uint, 0644);
MODULE_PARM_DESC(latency_us, "time that a ring takes for a job, in µs, at most 20000000; 0, the default, is as fast as the CPU and ends what waits");

static uint ring_depth = 512;
module_param(ring_depth, uint, 0644);
MODULE_PARM_DESC(ring_depth, "requests a ring takes before it is full: MAY_BACKLOG ones then wait (EBUSY), others get ENOSPC (default 512)");

struct ring {
	spinlock_t lock;	/* the queue and busy_until; bottom halves off */
	struct crypto_queue queue;
	ktime_t busy_until;
	wait_queue_head_t wait;
	struct task_struct *thread;
	void *engine;
	atomic_t users;
	ring_job job;
};

static struct ring all_rings[RINGS_MAX];

struct ring *ring_get(void)
{
	struct ring *least = &all_rings[0];
	uint i;

	if (fault_no_ring())
		return ERR_PTR(-ENODEV);
	for (i = 1; i < rings; i++)
		if (atomic_read(&all_rings[i].users) < atomic_read(&least->users))
			least = &all_rings[i];
	atomic_inc(&least->users);
	return least;
}

void ring_put(struct ring *ring)
{
	atomic_dec(&ring->users);
}

/* Take the ring's clock for some jobs queued at that time; returns when they are done. */
static ktime_t ring_reserve(struct ring *ring, ktime_t queued, unsigned int jobs)
{
	u64 latency = min_t(uint, READ_ONCE(latency_us), LATENCY_MAX);
	ktime_t done;

	spin_lock_bh(&ring->lock);
	done = latency && ktime_after(ring->busy_until, queued) ? ring->busy_until : queued;
	done = ktime_add_us(done, latency * jobs);
	ring->busy_until = done;
	spin_unlock_bh(&ring->lock);
	return done;
}

static void wait_until(ktime_t done)
{
	s64 left;

	while ((left = ktime_us_delta(done, ktime_get())) > 0 && READ_ONCE(latency_us)) {
		if (left <= SPIN_US) {
			udelay(left);
		} else {
			left = min_t(s64, left, SLEEP_US);
			usleep_range(left, left + left / 16);
		}
	}
}

void ring_wait(struct ring *ring, unsigned int jobs)
{
	wait_until(ring_reserve(ring, ktime_get(), jobs));
}

/*
 * -EINPROGRESS: completed later; -EBUSY: likewise, but the caller is to hold back
 * until it hears -EINPROGRESS; -ENOSPC: full, not taken. Any context.
 */
int ring_enqueue(struct ring *ring, struct crypto_async_request *req)
{
	struct ring_stamp *stamp = skcipher_request_ctx(skcipher_request_cast(req));
	int err;

	stamp->queued = ktime_get();
	spin_lock_bh(&ring->lock);
	ring->queue.max_qlen = max(READ_ONCE(ring_depth), 1U);
	err = crypto_enqueue_request(&ring->queue, req);
	spin_unlock_bh(&ring->lock);
	if (err == -EBUSY)
		count(COUNT_BACKLOGGED);
	if (err == -EINPROGRESS || err == -EBUSY)
		wake_up(&ring->wait);
	return err;
}

static void complete_request(struct crypto_async_request *req, int err)
{
	local_bh_disable();
	crypto_request_complete(req, err);
	local_bh_enable();
}

/* The next request, or NULL; one that waited for room is notified that it is queued. */
static struct crypto_async_request *ring_next(struct ring *ring)
{
	struct crypto_async_request *req, *waiting;

	spin_lock_bh(&ring->lock);
	waiting = crypto_get_backlog(&ring->queue);
	req = crypto_dequeue_request(&ring->queue);
	spin_unlock_bh(&ring->lock);
	if (waiting)
		complete_request(waiting, -EINPROGRESS);
	return req;
}

static bool ring_has_work(struct ring *ring)
{
	bool work;

	spin_lock_bh(&ring->lock);
	work = crypto_queue_len(&ring->queue) > 0;
	spin_unlock_bh(&ring->lock);
	return work;
}

static int ring_thread(void *data)
{
	struct ring *ring = data;
	/* Writeback may be waiting for this thread: it must not wait for writeback. */
	unsigned int noio = memalloc_noio_save();

	while (!kthread_should_stop()) {
		struct crypto_async_request *req;
		struct ring_stamp *stamp;
		int err;

		wait_event_interruptible(ring->wait,
					 ring_has_work(ring) || kthread_should_stop());
		req = ring_next(ring);
		if (!req)
			continue;
		stamp = skcipher_request_ctx(skcipher_request_cast(req));
		err = ring->job(ring->engine, req);
		wait_until(ring_reserve(ring, stamp->queued, 1));
		count(COUNT_JOBS);
		if (err)
			count(COUNT_FAILED);
		complete_request(req, err);
		cond_resched();
	}
	memalloc_noio_restore(noio);
	return 0;
}

static int ring_start(struct ring *ring, uint nr, ring_job job)
{
	void *engine;

	spin_lock_init(&ring->lock);
	crypto_init_queue(&ring->queue, ring_depth);
	init_waitqueue_head(&ring->wait);
	atomic_set(&ring->users, 0);
	ring->job = job;

	engine = chip_engine();
	if (IS_ERR(engine))
		return PTR_ERR(engine);
	ring->engine = engine;
	ring->thread = kthread_run(ring_thread, ring, "simcaam_jr%u", nr);
	if (IS_ERR(ring->thread)) {
		int err = PTR_ERR(ring->thread);

		ring->thread = NULL;
		return err;
	}
	return 0;
}

int rings_start(ring_job job)
{
	uint i;
	int err;

	if (rings < 1 || rings > RINGS_MAX)
		return -EINVAL;
	for (i = 0; i < rings; i++) {
		err = ring_start(&all_rings[i], i, job);
		if (err) {
			rings_stop();
			return err;
		}
	}
	return 0;
}

/* No request may be in progress: every holder of a cipher holds the module. */
void rings_stop(void)
{
	uint i;

	for (i = 0; i < RINGS_MAX; i++) {
		struct ring *ring = &all_rings[i];

		if (ring->thread)
			kthread_stop(ring->thread);
		if (ring->engine)
			chip_engine_free(ring->engine);
		ring->thread = NULL;
		ring->engine = NULL;
	}
}
