/* Encrypts and decrypts with more than one thread.
 *
 * Thread 0, which moves packets, gives packets their counters and their order. The rest, the cipher, touches only one
 * datagram and a key, so any thread may do it in any order. A batch is a `work`: thread 0 fills and publishes it,
 * fetches the next packets from the kernel meanwhile, helps, and continues with the batch once all its jobs are done.
 * Batches leave their ring in the order in which they entered it: this keeps the order per peer, as the queues of
 * wireguard-go and of the kernel do. Workers use nothing else of the core and never call the host.
 */
#include "core.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

/* Tell the CPU that this thread waits for another core. */
static inline void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

enum {
	LOOKS = 64,     /* spins between two reads of the clock, or two yields of this core */
};
#define WORKER_NAME "wg-crypt" /* the threads' name in top(1) */

static void perform(struct core *core, bool is_sealing, struct job *job, unsigned thread)
{
	if (!job->session)
		return;
	if (!is_sealing)
		job->is_open = session_open_by(core, job->session, thread, job->datagram, job->length);
	else if (!session_seal_by(core, job->session, thread, job->datagram, job->length))
		memset(job->datagram, 0, HEADER_LEN); /* OpenSSL has no memory: every receiver drops this invalid message */
}

/* Claim up to CHUNK jobs and do them. False: there are no unclaimed jobs. */
static bool help(struct core *core, struct work *work, unsigned thread)
{
	unsigned left = atomic_load_explicit(&work->unclaimed, memory_order_relaxed), count;

	do {
		if (!left)
			return false;
		count = left < CHUNK ? left : CHUNK;
	} while (!atomic_compare_exchange_weak_explicit(&work->unclaimed, &left, left - count, memory_order_acquire,
							memory_order_relaxed));
	for (unsigned i = left - count; i < left; i++)
		perform(core, work->is_sealing, &work->jobs[work->first + i], thread);
	atomic_fetch_add_explicit(&work->done, count, memory_order_release);
	return true;
}

/* Sleep until `published` differs from `seen`, or the workers stop. */
static void sleep_after(struct core *core, unsigned seen)
{
	pthread_mutex_lock(&core->lock);
	atomic_fetch_add(&core->sleepers, 1);
	while (atomic_load(&core->published) == seen && !atomic_load(&core->is_stopping))
		pthread_cond_wait(&core->wake, &core->lock);
	atomic_fetch_sub(&core->sleepers, 1);
	pthread_mutex_unlock(&core->lock);
}

static void *worker_run(void *argument)
{
	struct worker *worker = argument;
	struct core *core = worker->core;
	double idle_since = -1;

	while (!atomic_load_explicit(&core->is_stopping, memory_order_relaxed)) {
		unsigned seen = atomic_load(&core->published);
		bool has_helped = false;

		for (unsigned i = 0; i < WORKS; i++)
			while (help(core, &core->works[i], worker->number))
				has_helped = true;
		if (has_helped) {
			idle_since = -1;
			continue;
		}
		for (unsigned i = 0; i < LOOKS && atomic_load_explicit(&core->published, memory_order_relaxed) == seen; i++)
			relax();
		if (idle_since < 0) {
			idle_since = core_now(core);
		} else if (core_now(core) - idle_since >= SPIN_S) {
			sleep_after(core, seen);
			idle_since = -1;
		}
	}
	return NULL;
}

/* Encrypt and decrypt with `threads` threads, this one included. Returns 0, or an errno: then only with this thread. */
int workers_start(struct core *core, unsigned threads)
{
	char name[16] = "";
	sigset_t all, before;
	int error = 0;

	if (threads < 2)
		return 0;
	send_flush(core);
	if (!core->works && !(core->works = aligned_alloc(64, WORKS * sizeof *core->works)))
		return ENOMEM;
	memset(core->works, 0, WORKS * sizeof *core->works);
	for (unsigned i = 0; i < SENDINGS; i++) {
		core->sendings[i].work = &core->works[i];
		core->works[i].is_sealing = true;
		if (!sending_init(&core->sendings[i]))
			return ENOMEM;
	}
	for (unsigned i = 0; i < ARRIVALS; i++) {
		core->arrivals[i].work = &core->works[SENDINGS + i];
		if (!arrival_init(&core->arrivals[i]))
			return ENOMEM;
	}
	pthread_mutex_init(&core->lock, NULL);
	pthread_cond_init(&core->wake, NULL);
	atomic_store(&core->is_stopping, false);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before); /* only the interpreter's thread receives signals */
	pthread_getname_np(pthread_self(), name, sizeof name);
	pthread_setname_np(pthread_self(), WORKER_NAME); /* inherited: a confined thread may not name another */
	for (core->threads = 1; core->threads < threads; core->threads++) {
		struct worker *worker = &core->workers[core->threads];
		*worker = (struct worker){.core = core, .number = core->threads};
		if ((error = pthread_create(&worker->thread, NULL, worker_run, worker)))
			break;
	}
	pthread_setname_np(pthread_self(), name);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (error && core->threads > 1)
		workers_stop(core);
	return error;
}

/* End the workers. Drops the packets under way, as `core_abandon` does. */
void workers_stop(struct core *core)
{
	if (core->threads < 2)
		return;
	core_abandon(core);
	pthread_mutex_lock(&core->lock);
	atomic_store(&core->is_stopping, true);
	pthread_cond_broadcast(&core->wake);
	pthread_mutex_unlock(&core->lock);
	for (unsigned i = 1; i < core->threads; i++)
		pthread_join(core->workers[i].thread, NULL);
	core->threads = 1;
	pthread_cond_destroy(&core->wake);
	pthread_mutex_destroy(&core->lock);
}

/* Add a job to a work that has room and is not published. */
struct job *work_add(struct work *work, struct session *session, uint8_t *datagram, size_t length)
{
	struct job *job = &work->jobs[work->count++];

	*job = (struct job){.session = session, .datagram = datagram, .length = (uint32_t)length,
			    .serial = session ? session->serial : 0};
	work->cost += length + JOB_COST;
	return job;
}

/* Publish a work: from now on workers may do its jobs. Wakes them if the work is worth it. */
void work_publish(struct core *core, struct work *work)
{
	work->is_out = true;
	if (work->cost < core->worth)
		return; /* thread 0 does the jobs in `work_finish` */
	atomic_store_explicit(&work->unclaimed, work->count - work->first, memory_order_release);
	atomic_fetch_add(&core->published, 1);
	if (atomic_load(&core->sleepers)) {
		pthread_mutex_lock(&core->lock);
		pthread_cond_broadcast(&core->wake);
		pthread_mutex_unlock(&core->lock);
	}
}

bool work_is_done(const struct work *work)
{
	return work->first + atomic_load_explicit(&work->done, memory_order_acquire) == work->count;
}

/* Help until all jobs of a published work are done. */
void work_finish(struct core *core, struct work *work)
{
	if (work->cost < core->worth) {
		for (; work->first < work->count; work->first++)
			perform(core, work->is_sealing, &work->jobs[work->first], 0);
		return;
	}
	while (help(core, work, 0))
		;
	for (unsigned i = 1; !work_is_done(work); i++) {
		relax();
		if (i % LOOKS == 0)
			sched_yield(); /* the thread with the last jobs may need this core */
	}
}

/* Empty a work whose jobs are done. */
void work_clear(struct work *work)
{
	atomic_store_explicit(&work->done, 0, memory_order_relaxed);
	work->first = work->count = 0;
	work->cost = 0;
	work->is_out = false;
}

/* Do all jobs, published or not: afterwards no thread uses a session. */
void settle(struct core *core)
{
	if (core->threads < 2)
		return;
	for (unsigned i = 0; i < WORKS; i++) {
		struct work *work = &core->works[i];
		if (work->is_out)
			work_finish(core, work);
		else
			for (; work->first < work->count; work->first++)
				perform(core, work->is_sealing, &work->jobs[work->first], 0);
	}
}
