/* The loop: encrypts packets from the TUN and sends them; decrypts, merges and writes packets received by UDP. */
#include "core.h"

#include <endian.h>
#include <errno.h>
#include <netinet/udp.h>
#include <sched.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

double core_now(const struct core *core)
{
	struct timespec time;
	clock_gettime(core->clock, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void report(struct core *core)
{
	if (core->touched)
		core->host.report(core->host.context, core);
}

/* ---- sending ---- */

static socklen_t address_length(const union address *address)
{
	return address->any.sa_family == AF_INET6 ? sizeof address->v6 : sizeof address->v4;
}

static int socket_for(const struct core *core, const union address *address)
{
	return address->any.sa_family == AF_INET6 ? core->udp6 : core->udp4;
}

/* Whether a GSO send failed because the route has a smaller MTU, or the card computes no checksums: datagrams must be
 * sent one by one. */
static bool is_gso_refused(int error)
{
	return error == EINVAL || error == EIO || error == EMSGSIZE || error == EOPNOTSUPP;
}

static void fill(struct mmsghdr *message, struct iovec *iov, uint8_t *data, size_t length, union address *to)
{
	*iov = (struct iovec){data, length};
	*message = (struct mmsghdr){.msg_hdr = {
		.msg_name = to, .msg_namelen = address_length(to), .msg_iov = iov, .msg_iovlen = 1}};
}

/* Send the segments of a batch one by one. With a full buffer or a refusal, a datagram is lost, as on any link. */
static void send_singly(struct core *core, struct sending *sending, struct batch *batch)
{
	struct iovec iovs[MAX_GSO_SEGMENTS];
	unsigned count = 0, sent = 0;

	for (size_t at = 0; at < batch->total; at += batch->segment, count++) {
		size_t length = batch->total - at < batch->segment ? batch->total - at : batch->segment;
		fill(&core->outgoing[count], &iovs[count], sending->arena + batch->start + at, length, &batch->to);
	}
	while (sent < count) {
		int done = sendmmsg(socket_for(core, &batch->to), core->outgoing + sent, count - sent, MSG_DONTWAIT);
		if (done > 0)
			sent += (unsigned)done;
		else if (errno == EAGAIN || errno == ENOBUFS)
			return;
		else if (errno != EINTR)
			sent++;
	}
}

/* Send encrypted batches, each as one GSO datagram, and all batches of one socket with one call. */
static void transmit(struct core *core, struct sending *sending)
{
	struct iovec iovs[MAX_BATCHES];
	struct {
		_Alignas(struct cmsghdr) uint8_t bytes[CMSG_SPACE(sizeof(uint16_t))];
	} controls[MAX_BATCHES];
	unsigned first = 0;

	while (first < sending->batch_count) {
		int fd = socket_for(core, &sending->batches[first].to), sent;
		unsigned end = first;

		for (; end < sending->batch_count && socket_for(core, &sending->batches[end].to) == fd; end++) {
			struct batch *batch = &sending->batches[end];
			struct mmsghdr *message = &core->outgoing[end - first];
			if (batch->count > 1 && core->peers[batch->peer].no_gso)
				break;
			fill(message, &iovs[end], sending->arena + batch->start, batch->total, &batch->to);
			if (batch->count > 1) {
				uint16_t segment = (uint16_t)batch->segment;
				struct cmsghdr *head = (struct cmsghdr *)controls[end].bytes;
				memset(head, 0, sizeof controls[end]);
				head->cmsg_len = CMSG_LEN(sizeof segment);
				head->cmsg_level = SOL_UDP;
				head->cmsg_type = UDP_SEGMENT;
				memcpy(CMSG_DATA(head), &segment, sizeof segment);
				message->msg_hdr.msg_control = head;
				message->msg_hdr.msg_controllen = sizeof controls[end];
			}
		}
		if (fd < 0 || end == first) { /* no socket of this family, or a destination that refuses GSO */
			if (fd >= 0)
				send_singly(core, sending, &sending->batches[first]);
			first++;
			continue;
		}
		sent = sendmmsg(fd, core->outgoing, end - first, MSG_DONTWAIT);
		if (sent > 0)
			first += (unsigned)sent;
		else if (sending->batches[first].count > 1 && is_gso_refused(errno))
			core->peers[sending->batches[first].peer].no_gso = true; /* retried one by one */
		else if (errno != EINTR)
			first++; /* lost, as on any link */
	}
	sending->batch_count = 0;
	sending->arena_used = 0;
}

static struct sending *filling(struct core *core)
{
	return &core->sendings[core->filling % SENDINGS];
}

/* Send the oldest batches that workers encrypt: packets leave in the order in which they were read, for all peers. */
static void send_oldest(struct core *core)
{
	struct sending *sending = &core->sendings[core->draining++ % SENDINGS];

	work_finish(core, sending->work);
	transmit(core, sending);
	work_clear(sending->work);
}

/* Send the collected batches, or with workers hand them over: they are sent once encrypted, and the next ring entry
 * collects packets meanwhile. */
static void send_on(struct core *core)
{
	if (core->threads == 1) {
		transmit(core, filling(core));
		return;
	}
	if (!filling(core)->batch_count)
		return;
	work_publish(core, filling(core)->work);
	core->filling++;
	while (core->draining != core->filling && (core->filling - core->draining == SENDINGS ||
						   work_is_done(core->sendings[core->draining % SENDINGS].work)))
		send_oldest(core);
}

/* Send all collected batches. */
void send_flush(struct core *core)
{
	send_on(core);
	while (core->draining != core->filling)
		send_oldest(core);
}

/* A slot for a datagram with `padded` bytes of text, at most MAX_PACKET, at the end of a fitting batch. */
static uint8_t *send_slot(struct core *core, uint32_t peer, size_t padded)
{
	size_t size = padded + OVERHEAD;
	struct sending *sending = filling(core);
	struct batch *batch = sending->batch_count ? &sending->batches[sending->batch_count - 1] : NULL;
	uint8_t *slot;

	if (sending->arena_used + size > ARENA || (core->threads > 1 && sending->work->count == MAX_JOBS)) {
		send_on(core);
		sending = filling(core);
		batch = NULL;
	}
	if (!batch || batch->is_closed || batch->peer != peer || size > batch->segment ||
	    batch->count == MAX_GSO_SEGMENTS || batch->total + size > MAX_GSO_BYTES) {
		if (sending->batch_count == MAX_BATCHES) {
			send_on(core);
			sending = filling(core);
		}
		batch = &sending->batches[sending->batch_count++];
		*batch = (struct batch){.peer = peer, .to = core->peers[peer].endpoint, .start = sending->arena_used,
					.segment = size};
	}
	batch->is_closed = size < batch->segment; /* a shorter datagram is the last of its batch */
	batch->count++;
	batch->total += size;
	slot = sending->arena + sending->arena_used;
	sending->arena_used += size;
	return slot;
}

static struct session *sendable(const struct core *core, uint32_t peer)
{
	struct session *session = core->peers[peer].current;
	return session && session_is_usable(session, core->now) ? session : NULL;
}

/* The length with padding as in the kernel's WireGuard: to a multiple of 16 bytes, but not past the MTU. */
static size_t padded_length(const struct core *core, size_t length)
{
	size_t padded = (length + 15) & ~(size_t)15;
	if (padded > core->mtu)
		padded = core->mtu;
	return padded > length ? padded : length;
}

/* Count `length` bytes of text as sent. */
static void sent(struct core *core, struct session *session, size_t length)
{
	struct traffic *traffic = session_touch(core, session);

	traffic->tx_bytes += length + OVERHEAD;
	traffic->sent_at = core->now;
	traffic->has_sent = true;
	if (length)
		traffic->has_sent_data = true;
}

/* A slot for a packet of `length` bytes. NULL: the peer has no endpoint, and the packet is only counted as sent. */
static uint8_t *begin_packet(struct core *core, struct session *session, size_t length)
{
	if (core->peers[session->peer].endpoint.any.sa_family)
		return send_slot(core, session->peer, padded_length(core, length));
	session->send_counter++;
	sent(core, session, length);
	return NULL;
}

/* Encrypt the packet in its slot, or give it to the workers. */
static void end_packet(struct core *core, struct session *session, uint8_t *slot, size_t length)
{
	size_t padded = padded_length(core, length);

	memset(slot + HEADER_LEN + length, 0, padded - length);
	if (core->threads > 1) {
		session_number(session, slot);
		work_add(filling(core)->work, session, slot, padded);
	} else if (!session_seal(core, session, slot, padded)) {
		memset(slot, 0, HEADER_LEN); /* OpenSSL has no memory: every receiver drops this invalid message */
	}
	sent(core, session, length);
}

bool send_keepalive(struct core *core, struct session *session)
{
	uint8_t *slot;

	if (!session_is_usable(session, core->now))
		return false;
	if ((slot = begin_packet(core, session, 0)))
		end_packet(core, session, slot, 0);
	return true;
}

static void send_super(struct core *core, struct session *session, const uint8_t *packet, const struct super *super)
{
	/* If the counters end inside the super-packet, its remaining packets are lost. */
	for (size_t number = 0; number < super->count && session_is_usable(session, core->now); number++) {
		size_t length = super_length(super, number);
		uint8_t *slot = begin_packet(core, session, length);

		if (!slot)
			continue;
		super_cut(super, packet, number, slot + HEADER_LEN);
		end_packet(core, session, slot, length);
	}
}

/* Handle one read of the TUN: a vnet header and a packet or super-packet. Malformed ones are dropped. False: there is
 * no session, and the packet was not staged. */
bool tun_packet(struct core *core, const uint8_t *raw, size_t length, bool may_stage)
{
	const uint8_t *packet = raw + VNET_LEN;
	struct session *session;
	struct super super;
	struct vnet vnet;
	size_t size;
	uint8_t *slot;
	int32_t peer;

	if (length < VNET_LEN + 20 || length > VNET_LEN + MAX_PACKET)
		return true;
	size = length - VNET_LEN;
	vnet_decode(raw, &vnet);
	if (packet[0] >> 4 == 4)
		peer = flow_lookup(core, packet + 16, 4);
	else if (packet[0] >> 4 == 6 && size >= 40)
		peer = flow_lookup(core, packet + 24, 16);
	else
		return true;
	if (peer < 0)
		return true;
	session = sendable(core, (uint32_t)peer);
	if (!session) {
		if (!may_stage)
			return false;
		send_flush(core);
		report(core);
		if (!core->is_failed)
			core->host.stage(core->host.context, (uint32_t)peer, raw, length);
		return true;
	}
	if (vnet.gso_type) {
		if (super_shape(packet, size, &vnet, &super))
			send_super(core, session, packet, &super);
		return true;
	}
	if (vnet.flags & NEEDS_CSUM && (vnet.csum_start < 20 || vnet.csum_start + vnet.csum_offset + 2u > size))
		return true;
	if (!(slot = begin_packet(core, session, size)))
		return true;
	memcpy(slot + HEADER_LEN, packet, size);
	if (vnet.flags & NEEDS_CSUM)
		complete(slot + HEADER_LEN, size, vnet.csum_start, vnet.csum_offset);
	end_packet(core, session, slot, size);
	return true;
}

static void tun_turn(struct core *core)
{
	bool is_busy = core->now - core->last_read < BUSY_S;
	size_t taken = 0;

	core->last_read = core->now;
	/* After a rest: read one packet, which may be a ping, without asking for more. */
	for (unsigned reads = is_busy ? TUN_READS : 1; reads && taken < TUN_TURN_BYTES && !core->is_failed; reads--) {
		ssize_t count = read(core->tun, core->raw, VNET_LEN + MAX_PACKET + 1);
		if (count < 0) {
			if (errno != EAGAIN && errno != EINTR)
				core->is_tun_broken = true; /* EIO while the interface is down, EBADFD when it is gone */
			break;
		}
		taken += (size_t)count;
		tun_packet(core, core->raw, (size_t)count, true);
		if (core->threads > 1 && filling(core)->work->cost >= TURN_OVER)
			send_on(core);
	}
	send_flush(core);
}

/* ---- receiving ---- */

static void tun_write(struct core *core, uint8_t *packet, size_t length)
{
	static uint8_t zero[VNET_LEN];
	struct iovec iov[2] = {{zero, VNET_LEN}, {packet, length}};
	/* The packet is lost, as on any link, when the kernel refuses it or its queue is full. */
	while (writev(core->tun, iov, 2) < 0 && errno == EINTR)
		;
}

/* Write the packets of the run to the TUN. */
static void tun_flush(struct core *core)
{
	struct run *run = &core->run;

	if (run->count == 1) {
		tun_write(core, run->packets[0], run->lengths[0]);
	} else if (run->count > 1) {
		uint8_t vnet[VNET_LEN], header[40 + 60];
		struct iovec iov[2 + MAX_RUN] = {{vnet, VNET_LEN}, {header, run->header_len}};
		ssize_t done;

		run_header(run, vnet, header);
		for (unsigned i = 0; i < run->count; i++)
			iov[2 + i] = (struct iovec){run->packets[i] + run->header_len, run->lengths[i] - run->header_len};
		while ((done = writev(core->tun, iov, (int)(2 + run->count))) < 0 && errno == EINTR)
			;
		if (done < 0)
			for (unsigned i = 0; i < run->count; i++)
				tun_write(core, run->packets[i], run->lengths[i]);
	}
	run->count = 0;
}

static bool is_same_address(const union address *a, const union address *b)
{
	if (a->any.sa_family != b->any.sa_family)
		return false;
	if (a->any.sa_family == AF_INET6)
		return a->v6.sin6_port == b->v6.sin6_port && a->v6.sin6_scope_id == b->v6.sin6_scope_id &&
		       memcmp(&a->v6.sin6_addr, &b->v6.sin6_addr, 16) == 0;
	return a->v4.sin_port == b->v4.sin_port && a->v4.sin_addr.s_addr == b->v4.sin_addr.s_addr;
}

static void received(struct core *core, struct session *session, size_t length, const union address *source)
{
	const struct peer *peer = &core->peers[session->peer];
	struct traffic *traffic = session_touch(core, session);

	traffic->rx_bytes += length;
	traffic->received_at = core->now;
	traffic->has_received = true;
	if (length > OVERHEAD)
		traffic->has_received_data = true;
	traffic->source = *source;
	/* The protocol needs at once the first packet of a new session, and the new address of a peer. */
	if (session != peer->current || (!peer->holds_endpoint && !is_same_address(source, &peer->endpoint)))
		core->is_urgent = true;
}

static bool is_transport(const uint8_t *data, size_t length)
{
	uint32_t type;

	if (length < OVERHEAD)
		return false;
	memcpy(&type, data, 4);
	return le32toh(type) == TRANSPORT;
}

/* The session of a transport datagram of at least OVERHEAD bytes; NULL: no session that may receive. */
static struct session *receiver(struct core *core, const uint8_t *data)
{
	struct session *session;
	uint32_t index;

	memcpy(&index, data + 4, 4);
	session = session_find(core, le32toh(index));
	return session && core->now - session->created_at < REJECT_AFTER_TIME ? session : NULL;
}

/* Take a decrypted datagram: check its counter and source, and add its packet to the run for the TUN. */
static void take_opened(struct core *core, struct session *session, uint8_t *data, size_t length,
			const union address *source)
{
	uint8_t *packet = data + HEADER_LEN;
	uint64_t counter;
	size_t size;

	memcpy(&counter, data + 8, 8);
	if (!session_accept(session, le64toh(counter)))
		return;
	received(core, session, length, source);
	size = true_length(packet, length - OVERHEAD);
	if (!size)
		return;
	if ((packet[0] >> 4 == 4 ? flow_lookup(core, packet + 12, 4) : flow_lookup(core, packet + 8, 16)) !=
	    (int32_t)session->peer)
		return;
	if (core->run.count && run_extend(&core->run, packet, size))
		return;
	tun_flush(core);
	run_begin(&core->run, packet, size, core->offload, core->uso);
}

/* Decrypt one datagram in place and take it; any other than transport data goes to the host. */
static void take_datagram(struct core *core, uint8_t *data, size_t length, const union address *source)
{
	struct session *session;

	if (!is_transport(data, length)) {
		tun_flush(core);
		report(core);
		if (!core->is_failed)
			core->host.other(core->host.context, data, length, source);
	} else if ((session = receiver(core, data)) && session_open_by(core, session, 0, data, length)) {
		take_opened(core, session, data, length, source);
	}
}

/* Take the datagrams that workers have decrypted, in the order in which they were received. */
static void deliver(struct core *core, struct arrival *arrival)
{
	work_finish(core, arrival->work);
	for (unsigned i = 0; i < arrival->work->count && !core->is_failed; i++) {
		struct job *job = &arrival->work->jobs[i];
		struct session *session;

		if (!job->session) /* there was no session: an earlier handshake of this batch may have made one */
			take_datagram(core, job->datagram, job->length, job->source);
		else if (job->is_open && (session = receiver(core, job->datagram)) && session->serial == job->serial)
			take_opened(core, session, job->datagram, job->length, job->source);
	}
	tun_flush(core);
	work_clear(arrival->work);
	if (arrival->packets > CROWD && arrival->bytes < arrival->packets * SMALL)
		sched_yield();
	arrival->packets = arrival->bytes = 0;
}

/* End a batch of received datagrams. With workers: let them decrypt it, and deliver the batch before it. */
static void receive_on(struct core *core)
{
	struct arrival *arrival = &core->arrivals[core->arriving], *before = core->opening;

	if (core->threads == 1) {
		tun_flush(core);
		if (arrival->packets > CROWD && arrival->bytes < arrival->packets * SMALL)
			sched_yield();
		arrival->packets = arrival->bytes = 0;
		return;
	}
	work_publish(core, arrival->work);
	core->opening = arrival;
	core->arriving = (core->arriving + 1) % ARRIVALS;
	if (before)
		deliver(core, before);
}

/* Deliver all received datagrams. */
void receive_flush(struct core *core)
{
	struct arrival *before;

	receive_on(core);
	if ((before = core->opening)) {
		core->opening = NULL;
		deliver(core, before);
	}
}

/* Take `total` bytes in datagrams of `size` bytes (the last may be shorter), all from one source. */
void take_merged(struct core *core, uint8_t *data, size_t total, size_t size, const union address *source)
{
	in_port_t port = source->any.sa_family == AF_INET6 ? source->v6.sin6_port : source->v4.sin_port;

	if (port == 0 || size == 0)
		return; /* no answer can be sent to port 0 (RFC 768) */
	for (size_t at = 0; at < total && !core->is_failed; at += size) {
		size_t length = total - at < size ? total - at : size;
		if (core->threads == 1) {
			take_datagram(core, data + at, length, source);
			continue;
		}
		if (core->arrivals[core->arriving].work->count == MAX_JOBS) {
			unsigned here = core->arriving; /* the remaining datagrams are in the same slots */
			receive_flush(core);
			core->arriving = here;
		}
		work_add(core->arrivals[core->arriving].work, is_transport(data + at, length) ? receiver(core, data + at) : NULL,
			 data + at, length)->source = source;
	}
}

static size_t merged_size(struct msghdr *message, size_t total)
{
	for (struct cmsghdr *at = CMSG_FIRSTHDR(message); at; at = CMSG_NXTHDR(message, at))
		if (at->cmsg_level == SOL_UDP && at->cmsg_type == UDP_GRO && at->cmsg_len >= CMSG_LEN(sizeof(int))) {
			int size;
			memcpy(&size, CMSG_DATA(at), sizeof size);
			return size > 0 && (size_t)size < total ? (size_t)size : total;
		}
	return total;
}

static void udp_turn(struct core *core, int fd)
{
	struct iovec iovs[SLOTS];

	core->last_received = core->now;
	for (unsigned calls = 0; calls < UDP_CALLS && !core->is_failed; calls++) {
		struct arrival *arrival = &core->arrivals[core->arriving];
		int most = core->is_merged ? SLOTS_MERGED : SLOTS, got;
		for (int i = 0; i < most; i++) {
			uint8_t *slot = arrival->slots + (size_t)i * SLOT_STRIDE;
			struct mmsghdr *message = &arrival->incoming[i];
			fill(message, &iovs[i], slot, SLOT_LEN, &arrival->sources[i]);
			message->msg_hdr.msg_namelen = sizeof(union address);
			message->msg_hdr.msg_control = arrival->controls + (size_t)i * CONTROL_LEN;
			message->msg_hdr.msg_controllen = CONTROL_LEN;
		}
		got = recvmmsg(fd, arrival->incoming, (unsigned)most, MSG_DONTWAIT, NULL);
		if (got <= 0) /* no more datagrams, or an ICMP error of an earlier send */
			break;
		core->is_merged = false;
		for (int i = 0; i < got && !core->is_failed; i++) {
			size_t total = arrival->incoming[i].msg_len;
			size_t size = merged_size(&arrival->incoming[i].msg_hdr, total);
			if (size < total)
				core->is_merged = true;
			arrival->bytes += total;
			arrival->packets += size ? (total + size - 1) / size : 0;
			take_merged(core, arrival->slots + (size_t)i * SLOT_STRIDE, total, size, &arrival->sources[i]);
		}
		if (got < most) /* another call would most likely find nothing */
			break;
		receive_on(core);
		core->now = core_now(core);
	}
	receive_flush(core);
}

/* Drop all packets under way, after a call of the host failed: they are lost, as on any link. */
void core_abandon(struct core *core)
{
	settle(core);
	core->run.count = 0;
	core->filling = core->draining = core->arriving = 0;
	core->opening = NULL;
	for (unsigned i = 0; i < SENDINGS; i++) {
		core->sendings[i].batch_count = 0;
		core->sendings[i].arena_used = 0;
		if (core->threads > 1)
			work_clear(core->sendings[i].work);
	}
	for (unsigned i = 0; i < ARRIVALS && core->threads > 1; i++)
		work_clear(core->arrivals[i].work);
}

/* ---- the loop ---- */

/* When to return to the protocol: at `end`, or when a report is due. Later, by PATIENCE_S at most, while packets flow:
 * an answer may be under way. */
static double next_return(const struct core *core, double end)
{
	double last = core->last_read > core->last_received ? core->last_read : core->last_received;
	double quiet = last + QUIET_S, at = end;

	if (core->touched && core->touched_at + REPORT_S < at)
		at = core->touched_at + REPORT_S;
	if (quiet <= at)
		return at;
	return quiet < at + PATIENCE_S ? quiet : at + PATIENCE_S;
}

/* Move packets for `timeout` seconds, or until the protocol must act. Returns the count of descriptors in `ready`,
 * which are readable and not ours; -1: epoll or a call of the host failed. */
int core_run(struct core *core, double timeout, int *ready, int most)
{
	struct epoll_event events[MAX_EVENTS];
	int count = 0;
	double end;

	core->now = core_now(core);
	end = core->now + timeout;
	core->is_urgent = core->is_failed = core->is_tun_broken = false;
	do {
		double until = next_return(core, end), wait = until > core->now ? until - core->now : 0;
		double last = core->last_read > core->last_received ? core->last_read : core->last_received;
		int got;

		if (core->now - last < core->busy_poll_s)
			wait = 0;
		got = epoll_wait(core->epoll, events, MAX_EVENTS, (int)(wait < 3600 ? wait * 1e3 + 0.999 : 3600e3));
		if (got < 0)
			return errno == EINTR ? 0 : -1; /* a signal: return to Python */
		core->now = core_now(core);
		for (int i = 0; i < got && !core->is_failed; i++) {
			int fd = events[i].data.fd;
			if (fd == core->tun)
				tun_turn(core);
			else if (fd == core->udp4 || fd == core->udp6)
				udp_turn(core, fd);
			else if (count < most)
				ready[count++] = fd;
		}
	} while (!count && !core->is_urgent && !core->is_failed && !core->is_tun_broken &&
		 core->now < next_return(core, end));
	return core->is_failed ? -1 : count;
}
