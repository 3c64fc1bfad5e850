/* netctl-wg's hot path: moves, encrypts and decrypts packets between a TUN and UDP sockets without the interpreter.
 *
 * The protocol is in Python (netctl/tunnel): it makes sessions, chooses each peer's session and endpoint, and owns
 * timers and allowed IPs. The C files do the rest, as a kernel does (compare noise.c's counters, receive.c and send.c
 * of the Linux kernel's WireGuard): packet.c handles IP, session.c keys and counters, turn.c moves packets, workers.c
 * encrypts and decrypts with more than one core. Only module.c knows Python; the other files call it through
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
	HEADER_LEN = 16,          /* type, receiver index, counter (WireGuard paper §5.4.6) */
	TAG_LEN = 16,
	OVERHEAD = HEADER_LEN + TAG_LEN,
	KEY_LEN = 32,
	NONCE_LEN = 12,
	VNET_LEN = 10,            /* struct virtio_net_hdr */
	MAX_PACKET = 65535,
	MAX_GSO_BYTES = 65507,    /* most bytes of one UDP GSO send */
	MAX_GSO_SEGMENTS = 64,
	MAX_RUN = 128,            /* packets of one super-packet to the TUN */
	TRANSPORT = 4,
	WINDOW_SIZE = 8192,       /* counters that may arrive out of order, as in netctl/tunnel/constants.py */
	WINDOW_BITS = 2 * WINDOW_SIZE,
	FLOWS = 4096,             /* inner addresses whose peer is cached, as LOOKUP_CACHE_SIZE */
	BUCKETS = 1 << 14,        /* of the index table: a few sessions in each with the largest number of peers */
	MAX_BATCHES = 64,         /* in one sendmmsg(2) */
	SLOTS = 64,               /* in one recvmmsg(2) */
	SLOTS_MERGED = 4,         /* with merged datagrams of up to 64 KB: the data of one call stays in the cache */
	SLOT_LEN = 65536,
	SLOT_STRIDE = SLOT_LEN + 23 * 64, /* no two slots start in the same cache set */
	CONTROL_LEN = 64,
	TUN_READS = 64,           /* in one turn: enough to fill a GSO send of small packets */
	TUN_TURN_BYTES = 1 << 18, /* read in one turn at most: the other direction waits meanwhile */
	UDP_CALLS = 8,            /* calls of recvmmsg(2) in one turn */
	MAX_EVENTS = 64,
	CROWD = 32,               /* After more packets than this, smaller than SMALL bytes on average, we yield the core: */
	SMALL = 512,              /* their reader may share it, and its socket buffer holds only a few hundred packets. */
	ARENA = 2 * (MAX_PACKET + 1) + OVERHEAD,
	MAX_THREADS = 8,          /* contexts in a session; beyond four, the thread that reads and writes is the limit */
	SENDINGS = 4,             /* entries of the send ring: being read, encrypted by workers, sent */
	ARRIVALS = 2,             /* one is decrypted while the next is received */
	WORKS = SENDINGS + ARRIVALS,
	MAX_JOBS = 1024,          /* in one work: more than the small packets that a turn reads */
	CHUNK = 8,                /* jobs that a thread claims at once: some 8 µs with full packets */
	JOB_COST = 512,           /* the fixed cost of a packet, in bytes */
	WORTH = 24 << 10,         /* cost from which on waking workers pays: some 15 µs; a ping does not reach it */
	TURN_OVER = 32 << 10,     /* cost after which workers begin while the next packets are read */
};

#define REJECT_AFTER_MESSAGES (UINT64_MAX - WINDOW_SIZE)
#define REJECT_AFTER_TIME 180.0
#define BUSY_S 0.001     /* a turn sooner after the one before belongs to a stream */
#define REPORT_S 1.0     /* delay of traffic reports: the protocol's timers are seconds, and count from the packet */
#define QUIET_S 0.001    /* no report sooner after a packet: an answer may be under way, and Python takes 0.1 ms */
#define SPIN_S 5e-5      /* a worker looks for work for so long before it sleeps: waking it takes as long */
#define PATIENCE_S 0.05  /* longest wait for QUIET_S: a stream is never quiet */

/* The kernel's description of a super-packet (virtio 1.2 §5.1.6). */
struct vnet {
	uint8_t flags, gso_type;
	uint16_t hdr_len, gso_size, csum_start, csum_offset;
};
enum { NEEDS_CSUM = 1, GSO_NONE = 0, GSO_TCPV4 = 1, GSO_TCPV6 = 4, GSO_UDP_L4 = 5, GSO_ECN = 0x80 };

struct super {
	size_t ip_len, header_len, gso_size, total, count;
	bool is_ipv6, is_tcp;
};

/* Packets of one flow that will become one super-packet; they stay in the buffers in which they were decrypted. */
struct run {
	unsigned count;
	size_t ip_len, header_len, size, total; /* size: bytes of payload in each packet but the last */
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

/* A session's traffic since the last report to the protocol. */
struct traffic {
	bool is_noted, has_sent, has_sent_data, has_received, has_received_data;
	uint64_t tx_bytes, rx_bytes;
	double sent_at, received_at;
	union address source;         /* of the last received datagram */
};

struct session {
	struct session *next;         /* in the same bucket */
	struct session *next_touched;
	uint32_t local_index, remote_index;
	uint32_t peer;
	double created_at;
	uint64_t serial;              /* unique among all sessions ever */
	uint64_t send_counter;        /* the counter of the next datagram */
	uint64_t greatest;            /* greatest counter received, plus one; 0: none yet */
	struct traffic traffic;
	uint64_t seen[WINDOW_BITS / 64]; /* fields up to here change with each packet; workers read only the following ones */
	uint8_t send_key[KEY_LEN], receive_key[KEY_LEN];
	EVP_CIPHER_CTX *seal[MAX_THREADS], *open[MAX_THREADS]; /* one for each thread, made at its first use */
};

struct peer {
	bool is_used, holds_endpoint, no_gso;
	union address endpoint;       /* family 0: none */
	struct session *current;      /* the session to send with, or NULL */
};

struct flow {
	uint8_t address[16];
	uint8_t length;               /* 4 or 16; 0: free */
	int32_t peer;                 /* -1: no peer has the address */
};

/* The datagrams of one GSO send. */
struct batch {
	uint32_t peer;
	union address to;
	size_t start, total, segment;
	unsigned count;
	bool is_closed;
};

struct core;

/* One datagram to encrypt or decrypt in place. */
struct job {
	struct session *session;      /* NULL: nothing to do. After the job it may be invalid: compare `serial` */
	uint8_t *datagram;
	const union address *source;
	uint64_t serial;
	uint32_t length;              /* bytes of the datagram; to encrypt: of its padded text */
	bool is_open;                 /* the result: decrypted and authentic */
};

/* The jobs of one batch. Thread 0 adds the jobs, all threads do them, and thread 0 continues once all are done. */
struct work {
	_Alignas(64) atomic_uint unclaimed;
	_Alignas(64) atomic_uint done;
	_Alignas(64) unsigned first, count; /* jobs before `first` were done early by `settle` */
	size_t cost;
	bool is_sealing, is_out;
	struct job jobs[MAX_JOBS];
};

/* Batches to send, an entry of the send ring. */
struct sending {
	uint8_t *arena;
	size_t arena_used;
	unsigned batch_count;
	struct batch batches[MAX_BATCHES];
	struct work *work;            /* NULL with one thread: packets are encrypted as they are added */
};

/* Datagrams received by one recvmmsg(2). */
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

/* Calls into Python, each of which may change peers and sessions. `lookup`: the peer of a packed inner address, -1:
 * none. `other`: a datagram without transport data. `stage`: a packet for a peer without a session. `report`: all
 * touched sessions. */
struct host {
	void *context;
	int32_t (*lookup)(void *context, const uint8_t *address, size_t length);
	void (*other)(void *context, const uint8_t *datagram, size_t length, const union address *source);
	void (*stage)(void *context, uint32_t peer, const uint8_t *raw, size_t length);
	void (*report)(void *context, struct core *core);
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
	unsigned filling, draining;   /* positions in the ring `sendings`: being filled, and oldest not sent */
	struct arrival arrivals[ARRIVALS];
	unsigned arriving;            /* index in `arrivals`: being received */
	struct arrival *opening;      /* the arrival before, which workers decrypt; NULL: none */
	uint64_t serials;
	size_t worth;                 /* WORTH, except in tests */
	unsigned threads;             /* 1: no workers */
	struct work *works;           /* array of WORKS */
	struct worker workers[MAX_THREADS];
	pthread_mutex_t lock;         /* for `wake`, on which idle workers sleep */
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
