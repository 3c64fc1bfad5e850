/* netctl-wg's hot path: packets between a TUN and UDP sockets, sealed and opened, without the interpreter.
 *
 * The protocol is Python's (netctl/tunnel): it makes sessions, says which one a peer sends with and where to, and owns
 * timers and allowed IPs. This does what a kernel does once that is settled (compare noise.c's counters, receive.c and
 * send.c of the Linux kernel's WireGuard): packet.c knows IP, session.c keys and counters, turn.c moves packets, workers.c seals
 * and opens with more than one core. Nothing here knows Python but module.c; what these files need of it goes through
 * `struct host`.
 *
 * Lengths are checked once, where bytes come in: `tun_packet` and `take_datagram`.
 */
#ifndef NETCTL_CORE_H
#define NETCTL_CORE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* recvmmsg, sendmmsg */
#endif

#include <netinet/in.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

enum {
	HEADER_LEN = 16,          /* type, receiver index, counter (paper §5.4.6) */
	TAG_LEN = 16,
	OVERHEAD = HEADER_LEN + TAG_LEN,
	KEY_LEN = 32,
	NONCE_LEN = 12,
	VNET_LEN = 10,            /* struct virtio_net_hdr */
	MAX_PACKET = 65535,
	MAX_GSO_BYTES = 65507,    /* the most that one UDP GSO send takes */
	MAX_GSO_SEGMENTS = 64,
	MAX_RUN = 128,            /* packets of one super-packet to the TUN */
	TRANSPORT = 4,
	WINDOW_SIZE = 8192,       /* counters that may come out of order, as in netctl/tunnel/constants.py */
	WINDOW_BITS = 2 * WINDOW_SIZE,
	FLOWS = 4096,             /* inner addresses whose peer is remembered, as LOOKUP_CACHE_SIZE */
	BUCKETS = 1 << 14,        /* of the index table: a few sessions each with the most peers that a device takes */
	MAX_BATCHES = 64,         /* of one sendmmsg(2) */
	SLOTS = 64,               /* of one recvmmsg(2) */
	SLOTS_MERGED = 4,         /* where each holds up to 64 KB: what one call brings stays in the cache */
	SLOT_LEN = 65536,
	SLOT_STRIDE = SLOT_LEN + 23 * 64, /* no two slots start in the same cache set */
	CONTROL_LEN = 64,
	TUN_READS = 64,           /* of one turn: fills a GSO send of small packets */
	TUN_TURN_BYTES = 1 << 18, /* and not more than this: the other direction waits meanwhile */
	UDP_CALLS = 8,            /* recvmmsg(2) of one turn */
	MAX_EVENTS = 64,
	CROWD = 32,               /* More packets than this at once, and all of them smaller than SMALL: their reader's */
	SMALL = 512,              /* socket buffer holds a few hundred, and it may share our core: it has a turn first. */
	ARENA = 2 * (MAX_PACKET + 1) + OVERHEAD,
	MAX_THREADS = 8,          /* Beyond four the one that reads and writes is the limit; a session has room for so many. */
	SENDINGS = 4,             /* batches on their way to the wire: read, sealed by workers, sent */
	ARRIVALS = 2,             /* one is opened while the next is received */
	WORKS = SENDINGS + ARRIVALS,
	MAX_JOBS = 1024,          /* of one batch: more small packets than a turn reads */
	CHUNK = 8,                /* jobs that a thread takes at once: some 8 µs of full packets */
	JOB_COST = 512,           /* a packet costs as much as so many bytes, whatever its size */
	WORTH = 24 << 10,         /* bytes and jobs that are worth waking others for: some 15 µs; a ping is not */
	TURN_OVER = 32 << 10,     /* bytes and jobs after which workers begin, while the next are read */
};

#define REJECT_AFTER_MESSAGES (UINT64_MAX - WINDOW_SIZE)
#define REJECT_AFTER_TIME 180.0
#define BUSY_S 0.001     /* a turn that comes sooner after the one before belongs to a stream */
#define REPORT_S 1.0     /* traffic is told to the protocol after this: its timers are of seconds, and count from the packet */
#define QUIET_S 0.001    /* but not sooner after a packet: an answer may be under way, and Python takes 0.1 ms */
#define SPIN_S 5e-5      /* a worker looks for the next batch before it sleeps: to wake one takes as long */
#define PATIENCE_S 0.05  /* and not later than this: in a stream it is never quiet */

/* A super-packet as the kernel describes it (virtio 1.2 §5.1.6). */
struct vnet {
	uint8_t flags, gso_type;
	uint16_t hdr_len, gso_size, csum_start, csum_offset;
};
enum { NEEDS_CSUM = 1, GSO_NONE = 0, GSO_TCPV4 = 1, GSO_TCPV6 = 4, GSO_UDP_L4 = 5, GSO_ECN = 0x80 };

struct super {
	size_t ip_len, header_len, gso_size, total, count;
	bool is_ipv6, is_tcp;
};

/* Packets of one flow on their way to become one super-packet; they stay where they were opened. */
struct run {
	unsigned count;
	size_t ip_len, header_len, size, total; /* size: payload of every packet but the last */
	uint32_t next_sequence;
	bool is_ipv6, is_tcp, can_grow;
	uint8_t *packets[MAX_RUN];
	uint16_t lengths[MAX_RUN];
};

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

/* What has happened since the protocol was told. */
struct traffic {
	bool is_noted, has_sent, has_sent_data, has_received, has_received_data;
	uint64_t tx_bytes, rx_bytes;
	double sent_at, received_at;
	union address source;         /* of the last that was received */
};

struct session {
	struct session *next;         /* in its bucket */
	struct session *next_touched;
	uint32_t local_index, remote_index;
	uint32_t peer;
	double created_at;
	uint64_t serial;              /* no other session has had it */
	uint64_t send_counter;        /* the next to send with */
	uint64_t greatest;            /* received, plus one; 0: nothing yet */
	struct traffic traffic;
	uint64_t seen[WINDOW_BITS / 64]; /* what is above changes with each packet; workers read only what is below */
	uint8_t send_key[KEY_LEN], receive_key[KEY_LEN];
	EVP_CIPHER_CTX *seal[MAX_THREADS], *open[MAX_THREADS]; /* each thread's own, made when it first needs it */
};

struct peer {
	bool is_used, holds_endpoint, no_gso;
	union address endpoint;       /* family 0: none */
	struct session *current;      /* what to send with */
};

struct flow {
	uint8_t address[16];
	uint8_t length;               /* 4 or 16; 0: free */
	int32_t peer;                 /* -1: nobody's */
};

/* One GSO datagram in the making. */
struct batch {
	uint32_t peer;
	union address to;
	size_t start, total, segment;
	unsigned count;
	bool is_closed;
};

struct core;

/* One datagram to seal or open where it stands. */
struct job {
	struct session *session;      /* NULL: nothing to do. No longer valid once it is done: see `serial` */
	uint8_t *datagram;
	const union address *source;
	uint64_t serial;
	uint32_t length;              /* of the datagram, or, where it is to be sealed, of its padded text */
	bool is_open;                 /* the outcome */
};

/* The jobs of one batch. One thread fills it, all do it, the first goes on with it once all is done. */
struct work {
	_Alignas(64) atomic_uint unclaimed;
	_Alignas(64) atomic_uint done;
	_Alignas(64) unsigned first, count; /* jobs before `first` were done early: see `settle` */
	size_t cost;
	bool is_sealing, is_out;
	struct job jobs[MAX_JOBS];
};

/* What is to be sent. */
struct sending {
	uint8_t *arena;
	size_t arena_used;
	unsigned batch_count;
	struct batch batches[MAX_BATCHES];
	struct work *work;            /* NULL with one thread: packets are sealed as they are put here */
};

/* What one recvmmsg(2) brings. */
struct arrival {
	uint8_t *slots, *controls;
	union address *sources;
	struct mmsghdr *incoming;
	struct work *work;
	size_t bytes, packets;
};

struct worker {
	struct core *core;
	unsigned number;
	pthread_t thread;
};

/* What Python does. `lookup`: whose a packed inner address is, -1 for nobody's. A call may change peers and sessions. */
struct host {
	void *context;
	int32_t (*lookup)(void *context, const uint8_t *address, size_t length);
	void (*other)(void *context, const uint8_t *datagram, size_t length, const union address *source);
	void (*stage)(void *context, uint32_t peer, const uint8_t *raw, size_t length);
	void (*report)(void *context, struct core *core); /* of all that was touched */
};

struct core {
	struct host host;
	int tun, epoll, udp4, udp6;
	bool offload, uso, is_failed, is_urgent, is_tun_broken, is_merged, is_running;
	clockid_t clock;
	size_t mtu;
	double busy_poll_s, last_read, last_received, touched_at, now;
	EVP_CIPHER *cipher;
	struct session *buckets[BUCKETS];
	struct session *touched;
	struct peer *peers;
	uint32_t peer_count;
	uint32_t seed;
	struct flow flows[FLOWS];
	struct run run;
	uint8_t *raw;                 /* one read of the TUN */
	struct mmsghdr *outgoing;
	struct sending sendings[SENDINGS];
	unsigned filling, draining;   /* of the ring of them: the one that packets are put to, the oldest on its way */
	struct arrival arrivals[ARRIVALS];
	unsigned arriving;            /* the one that is being received */
	struct arrival *opening;      /* the one before, in the hands of workers; NULL: none */
	uint64_t serials;
	size_t worth;                 /* WORTH, but for tests */
	unsigned threads;             /* 1: no workers */
	struct work *works;           /* WORKS of them */
	struct worker workers[MAX_THREADS];
	pthread_mutex_t lock;         /* for going to sleep */
	pthread_cond_t wake;
	atomic_uint published, sleepers;
	atomic_bool is_stopping;
};

/* packet.c */
uint64_t sum_words(const uint8_t *data, size_t length);
void put_checksum(uint8_t *field, uint64_t sum);
void vnet_decode(const uint8_t *bytes, struct vnet *vnet);
size_t true_length(const uint8_t *packet, size_t size);
bool super_shape(const uint8_t *packet, size_t total, const struct vnet *vnet, struct super *super);
size_t super_length(const struct super *super, size_t number);
void super_cut(const struct super *super, const uint8_t *packet, size_t number, uint8_t *out);
void complete(uint8_t *packet, size_t length, size_t csum_start, size_t csum_offset);
void run_begin(struct run *run, uint8_t *packet, size_t length, bool offload, bool uso);
bool run_extend(struct run *run, uint8_t *packet, size_t length);
void run_header(const struct run *run, uint8_t vnet[VNET_LEN], uint8_t *header);

/* session.c */
bool sending_init(struct sending *sending);
bool arrival_init(struct arrival *arrival);
bool core_init(struct core *core);
void core_free(struct core *core);
struct session *session_find(struct core *core, uint32_t local_index);
struct session *session_add(struct core *core, uint32_t local_index, uint32_t remote_index, uint32_t peer,
			    const uint8_t *send_key, const uint8_t *receive_key, double created_at);
void session_drop(struct core *core, struct session *session);
bool session_is_usable(const struct session *session, double now);
bool session_seal(struct core *core, struct session *session, uint8_t *datagram, size_t padded);
void session_number(struct session *session, uint8_t *datagram);
bool session_seal_by(struct core *core, struct session *session, unsigned thread, uint8_t *datagram, size_t padded);
bool session_open_by(struct core *core, struct session *session, unsigned thread, uint8_t *datagram, size_t length);
bool session_accept(struct session *session, uint64_t counter);
struct traffic *session_touch(struct core *core, struct session *session);
bool peer_reserve(struct core *core, uint32_t peer);
int32_t flow_lookup(struct core *core, const uint8_t *address, size_t length);

/* turn.c */
double core_now(const struct core *core);
bool tun_packet(struct core *core, const uint8_t *raw, size_t length, bool may_stage);
bool send_keepalive(struct core *core, struct session *session);
void send_flush(struct core *core);
void take_merged(struct core *core, uint8_t *data, size_t total, size_t size, const union address *source);
void receive_flush(struct core *core);
void core_abandon(struct core *core);
int core_run(struct core *core, double timeout, int *ready, int most);

/* workers.c */
int workers_start(struct core *core, unsigned threads);
void workers_stop(struct core *core);
struct job *work_add(struct work *work, struct session *session, uint8_t *datagram, size_t length);
void work_publish(struct core *core, struct work *work);
bool work_is_done(const struct work *work);
void work_finish(struct core *core, struct work *work);
void work_clear(struct work *work);
void settle(struct core *core);

#endif
