/* Fuzzes netctl-wg's data path in C: what a TUN, a stranger, and a peer that has the keys may send it.
 *
 * With libFuzzer (`make fuzz`), or with -DSTANDALONE and a number of rounds as the argument: inputs of its own, from
 * fixed seeds, for machines without clang. Build with -fsanitize=address,undefined, or it finds half of it.
 *
 * NETCTL_WG_THREADS (environment) makes it seal and open by so many threads, each batch, however small; with
 * -fsanitize=thread it finds who touches what another thread has.
 */
#include "core.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define abort() (fprintf(stderr, "%s:%d: this must not happen\n", __FILE__, __LINE__), (abort)())

static const uint8_t KEY[KEY_LEN] = {1, 2, 3};
static struct core core, peer;
static in_port_t own_port;

static int32_t lookup(void *context, const uint8_t *address, size_t length)
{
	(void)context;
	if (length != 4 && length != 16)
		abort();
	return address[length - 1] % 4 == 3 ? -1 : 0;
}

static void other(void *context, const uint8_t *datagram, size_t length, const union address *source)
{
	uint8_t sum = source->any.sa_family != AF_INET;
	(void)context;
	for (size_t i = 0; i < length; i++)
		sum ^= datagram[i];
	core.is_failed = sum == 0x42; /* the protocol may fail */
}

static void stage(void *context, uint32_t number, const uint8_t *raw, size_t length)
{
	(void)context, (void)number, (void)raw;
	if (length < VNET_LEN + 20)
		abort();
}

static void report(void *context, struct core *told)
{
	(void)context;
	for (; told->touched; told->touched = told->touched->next_touched)
		memset(&told->touched->traffic, 0, sizeof told->touched->traffic);
}

static void start(struct core *made, uint32_t local, uint32_t remote)
{
	if (!core_init(made) || !peer_reserve(made, 0))
		abort();
	made->host = (struct host){NULL, lookup, other, stage, report};
	made->tun = open("/dev/null", O_WRONLY);
	made->epoll = epoll_create1(0);
	made->offload = made->uso = true;
	made->peers[0].is_used = true;
	made->clock = CLOCK_MONOTONIC;
	made->udp4 = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	struct sockaddr_in *own = &made->peers[0].endpoint.v4;
	socklen_t length = sizeof *own;
	own->sin_family = AF_INET;
	own->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	struct epoll_event event = {.events = EPOLLIN, .data.fd = made->udp4};
	int on = 1;
	if (bind(made->udp4, &made->peers[0].endpoint.any, length) || setsockopt(made->udp4, 17, 104, &on, sizeof on) ||
	    getsockname(made->udp4, &made->peers[0].endpoint.any, &length) ||
	    epoll_ctl(made->epoll, EPOLL_CTL_ADD, made->udp4, &event))
		abort();
	made->peers[0].current = session_add(made, local, remote, 0, KEY, KEY, core_now(made));
	made->now = core_now(made);
}

static uint16_t take16(const uint8_t **data, size_t *size)
{
	uint16_t value = 0;
	if (*size >= 2) {
		memcpy(&value, *data, 2);
		*data += 2;
		*size -= 2;
	}
	return value;
}

/* A peer that has the keys sends packets of `step` bytes: what it likes, in any order, one of them forged. */
static void from_peer(const uint8_t *data, size_t size, size_t step, uint64_t counter, unsigned forged)
{
	static uint8_t memory[SLOT_LEN];
	union address source = {.v4 = {.sin_family = AF_INET, .sin_port = 1}};
	size_t total = 0, number = 0;

	for (size_t at = 0; at < size && total + step + OVERHEAD <= sizeof memory; at += step, number++) {
		size_t length = size - at < step ? size - at : step;
		uint8_t *text = memory + total + HEADER_LEN;
		memcpy(text, data + at, length);
		peer.peers[0].current->send_counter = counter + (number == 3 ? number - 1 : number);
		if (!session_seal(&peer, peer.peers[0].current, memory + total, length))
			abort();
		if (number == forged)
			memory[total + HEADER_LEN] ^= 1;
		total += length + OVERHEAD;
	}
	if (total)
		take_merged(&core, memory, total, step + OVERHEAD, &source);
	receive_flush(&core);
}

/* The same of the packets of one flow. */
static void from_peer_super(const struct super *super, const uint8_t *packet)
{
	static uint8_t memory[SLOT_LEN];
	union address source = {.v4 = {.sin_family = AF_INET, .sin_port = 1}};
	size_t step = super->header_len + super->gso_size + OVERHEAD, total = 0;

	peer.peers[0].current->send_counter = session_find(&core, 1)->greatest;
	for (size_t i = 0; i < super->count && total + step <= sizeof memory; i++) {
		super_cut(super, packet, i, memory + total + HEADER_LEN);
		if (!session_seal(&peer, peer.peers[0].current, memory + total, super_length(super, i)))
			abort();
		total += super_length(super, i) + OVERHEAD;
	}
	take_merged(&core, memory, total, step, &source);
	receive_flush(&core);
}

/* A super-packet cut into its packets is merged again, and nothing but whole headers is ever written. */
static void there_and_back(uint8_t *data, size_t size, const struct vnet *vnet)
{
	static uint8_t memory[MAX_RUN][4096];
	struct run run = {0};
	struct super super;

	if (!super_shape(data, size, vnet, &super))
		return;
	from_peer_super(&super, data);
	for (size_t i = 0; i < super.count && i < MAX_RUN && super.header_len + super.gso_size <= 4096; i++) {
		size_t length = super_length(&super, i);
		super_cut(&super, data, i, memory[i]);
		if (length != true_length(memory[i], length))
			continue;
		if (!run.count || !run_extend(&run, memory[i], length))
			run_begin(&run, memory[i], length, true, true);
	}
	if (run.count > 1) {
		uint8_t header[40 + 60], head[VNET_LEN];
		run_header(&run, head, header);
	}
}

/* A session ends while what it is to seal and open has only been published: all of it is done first, with its key. */
static void renew(uint16_t kind, uint16_t number)
{
	static uint8_t memory[40 * (100 + OVERHEAD)];
	union address source = {.v4 = {.sin_family = AF_INET, .sin_port = 9}};
	struct session *session = session_find(&core, 1);
	uint64_t first = session->send_counter;
	unsigned count = 1 + number % 40, at = core.filling % SENDINGS;
	uint8_t raw[VNET_LEN + 100] = {[VNET_LEN] = 0x45, [VNET_LEN + 3] = 100};

	core.peers[0].endpoint.any.sa_family = AF_INET;
	core.peers[0].current = session;
	core.mtu = 1420;
	core.now = core_now(&core);
	for (unsigned i = 0; i < count; i++)
		tun_packet(&core, raw, sizeof raw, true);
	if (core.threads > 1)
		work_publish(&core, core.sendings[at].work);
	peer.peers[0].current->send_counter = session->greatest;
	for (unsigned i = 0; i < count; i++)
		if (!session_seal(&peer, peer.peers[0].current, memory + i * (100 + OVERHEAD), 100))
			abort();
	take_merged(&core, memory, count * (100 + OVERHEAD), 100 + OVERHEAD, &source);
	session_drop(&core, session);
	for (unsigned i = 0; i < count; i++) {
		static const uint8_t wanted[112] = {0x45, 0, 0, 100};
		uint8_t *datagram = core.sendings[at].arena + i * (112 + OVERHEAD);
		uint64_t counter;
		memcpy(&counter, datagram + 8, 8);
		if (counter != first + i || !session_open_by(&peer, peer.peers[0].current, 0, datagram, 112 + OVERHEAD) ||
		    memcmp(datagram + HEADER_LEN, wanted, sizeof wanted))
			abort();
	}
	core_abandon(&core);
	core.peers[0].current = session_add(&core, 1, kind & 1 ? 1 : 2, 0, KEY, KEY, core_now(&core));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	union address source = {.v4 = {.sin_family = AF_INET}};
	uint8_t *copy;
	uint16_t kind, number;
	const char *threads = getenv("NETCTL_WG_THREADS");

	if (!core.cipher) {
		start(&core, 1, 2);
		start(&peer, 2, 1);
		own_port = core.peers[0].endpoint.v4.sin_port;
		core.worth = 0;
		if (workers_start(&core, threads ? (unsigned)atoi(threads) : 1))
			abort();
	}
	kind = take16(&data, &size);
	number = take16(&data, &size);
	if (size > MAX_PACKET)
		return 0;
	copy = malloc(size + !size); /* of its own size: reading past it is noticed */
	memcpy(copy, data, size);
	core.is_failed = false;
	core.now = core_now(&core);
	core.offload = kind & 0x100;
	core.uso = kind & 0x200;
	core.mtu = kind & 0x400 ? 1420 : number;
	core.peers[0].endpoint.any.sa_family = kind & 0x800 ? AF_INET : 0;
	core.peers[0].endpoint.v4.sin_port = kind & 0x8000 ? 0 : own_port; /* 0: every send is refused */
	core.peers[0].no_gso = false;
	core.peers[0].current = kind & 0x1000 ? NULL : session_find(&core, 1);
	switch (kind % 4) {
	case 0:
		for (unsigned i = 0; i <= number % 70; i++)
			tun_packet(&core, copy, size, true);
		send_keepalive(&core, session_find(&core, 1));
		send_flush(&core);
		if (kind & 0x2000) {
			int ready[MAX_EVENTS];
			core_run(&core, 0, ready, MAX_EVENTS);
		}
		break;
	case 1:
		source.v4.sin_port = kind & 0x2000 ? 0 : 9;
		core.now = core_now(&core) + (kind & 0x4000 ? 0 : REJECT_AFTER_TIME);
		take_merged(&core, copy, size, number, &source);
		receive_flush(&core);
		break;
	case 2:
		from_peer(copy, size, number % 2000 + 1, session_find(&core, 1)->greatest + number % 64, kind >> 12);
		break;
	default:
		if (size > VNET_LEN) {
			struct vnet vnet;
			vnet_decode(copy, &vnet);
			there_and_back(copy + VNET_LEN, size - VNET_LEN, &vnet);
		}
	}
	free(copy);
	if (core.is_failed) {
		core_abandon(&core);
		core.is_failed = false;
	}
	if (number == 0x1234 || number % 64 == 7) /* the keys are renewed */
		renew(kind, number);
	return 0;
}

#ifdef STANDALONE
static uint64_t seed = 88172645463325252u;

static uint64_t next(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	return seed ^= seed << 17;
}

/* Something like a packet: a vnet header, IP, TCP or UDP, each field odd now and then. */
static size_t invent(uint8_t *at)
{
	size_t size = next() % 8 ? next() % 3000 : next() % 60, start;
	uint8_t *packet = at + 4;

	for (size_t i = 0; i < size + 4; i++)
		at[i] = (uint8_t)(next() % 4 ? 0 : next());
	at[0] = (uint8_t)next();
	at[1] = (uint8_t)next();
	at[2] = (uint8_t)next();
	if (at[0] % 4 == 0 || at[0] % 4 == 3) {
		static const uint8_t kinds[] = {0, 1, 4, 5, 0x81, 7};
		if (size < VNET_LEN + 60)
			return size + 4;
		packet[0] = next() % 2;
		packet[1] = kinds[next() % 6];
		packet[4] = (uint8_t)next();
		packet[5] = next() % 4 ? 2 : 0;
		packet[6] = packet[1] == 4 || next() % 8 == 0 ? 40 : 20;
		packet[8] = packet[1] == 5 ? 6 : 16;
		packet += VNET_LEN;
	} else if (at[0] % 4 == 1) {
		packet[0] = next() % 4 ? 4 : (uint8_t)next();
		packet[4] = 1;
		return size + 4;
	} else if (size < 60) {
		return size + 4;
	}
	packet[0] = next() % 2 ? 0x45 : 0x60;
	start = packet[0] == 0x45 ? 20 : 40;
	packet[start == 20 ? 9 : 6] = next() % 2 ? 6 : 17;
	packet[start == 20 ? 3 : 5] = (uint8_t)(next() % 200);
	packet[start + 12] = next() % 8 ? 0x50 : (uint8_t)next();
	packet[start + 13] = next() % 4 ? 0x10 : (uint8_t)next();
	return size + 4;
}

int main(int count, char **arguments)
{
	static uint8_t memory[4096];
	long rounds = count > 1 ? atol(arguments[1]) : 100000;
	for (long i = 0; i < rounds; i++)
		LLVMFuzzerTestOneInput(memory, invent(memory));
	core_free(&core);
	core_free(&peer);
	printf("%ld rounds\n", rounds);
	return 0;
}
#endif
