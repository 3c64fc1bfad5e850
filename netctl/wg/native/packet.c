/* IP packets: computes checksums (RFC 1071), splits super-packets, and merges packets of one flow into super-packets.
 *
 * The rules are those of checksum.py, segment.py and coalesce.py, which give the reasons; the bytes are the same.
 */
#include "core.h"

#include <arpa/inet.h>
#include <endian.h>
#include <string.h>

enum { TCP = 6, UDP = 17, FIN = 0x01, PSH = 0x08, ACK = 0x10, CWR = 0x80, VXLAN_PORT = 4789 };

static uint16_t get16(const uint8_t *at)
{
	return (uint16_t)(at[0] << 8 | at[1]);
}

static void put16(uint8_t *at, size_t value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

static uint32_t get32(const uint8_t *at)
{
	return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static void put32(uint8_t *at, uint32_t value)
{
	put16(at, value >> 16);
	put16(at + 2, value & 0xFFFF);
}

/* The sum of 16-bit words in this machine's byte order, modulo 65,535; summing 32-bit words gives the same result. */
uint64_t sum_words(const uint8_t *data, size_t length)
{
	uint64_t total = 0;
	size_t at = 0;

	for (; at + 4 <= length; at += 4) {
		uint32_t word;
		memcpy(&word, data + at, 4);
		total += word;
	}
	if (at < length) {
		uint8_t tail[4] = {0};
		uint32_t word;
		memcpy(tail, data + at, length - at);
		memcpy(&word, tail, 4);
		total += word;
	}
	return total;
}

void put_checksum(uint8_t *field, uint64_t sum)
{
	uint16_t value = (uint16_t)(sum % 0xFFFF) ^ 0xFFFF;
	memcpy(field, &value, 2);
}

/* The pseudo-header's sum (RFC 9293 §3.1, RFC 8200 §8.1). */
static uint64_t sum_pseudo(const uint8_t *header, bool is_ipv6, uint8_t protocol, size_t length)
{
	uint8_t rest[8] = {0, 0, 0, protocol};
	put32(rest + 4, (uint32_t)length);
	return (is_ipv6 ? sum_words(header + 8, 32) : sum_words(header + 12, 8)) + sum_words(rest, 8);
}

void vnet_decode(const uint8_t *bytes, struct vnet *vnet)
{
	uint16_t words[4];
	memcpy(words, bytes + 2, 8);
	*vnet = (struct vnet){bytes[0], bytes[1], le16toh(words[0]), le16toh(words[1]), le16toh(words[2]),
			      le16toh(words[3])};
}

/* The length in the IP header, if the packet has that many bytes; 0: shorter, or no IP packet. */
size_t true_length(const uint8_t *packet, size_t size)
{
	size_t length = 0;
	if (size >= 20 && packet[0] >> 4 == 4) {
		length = get16(packet + 2);
		if (length < 20)
			return 0;
	} else if (size >= 40 && packet[0] >> 4 == 6) {
		length = (size_t)get16(packet + 4) + 40;
	}
	return length <= size ? length : 0;
}

/* The layout of a super-packet. False: the vnet header contradicts it. True: 0 < header_len < total and count >= 1. */
bool super_shape(const uint8_t *packet, size_t total, const struct vnet *vnet, struct super *super)
{
	uint8_t kind = vnet->gso_type & (uint8_t)~GSO_ECN;
	size_t start = vnet->csum_start, header_len;

	if (total < 20 || vnet->gso_size == 0)
		return false;
	super->is_ipv6 = packet[0] >> 4 == 6;
	super->is_tcp = kind != GSO_UDP_L4;
	if (!super->is_tcp)
		header_len = start + 8;
	else if (kind == (super->is_ipv6 ? GSO_TCPV6 : GSO_TCPV4) && start + 20 <= total)
		header_len = start + (size_t)(packet[start + 12] >> 4) * 4;
	else
		return false;
	if (start < (super->is_ipv6 ? 40u : 20u) || header_len >= total || (super->is_tcp && header_len < start + 20))
		return false;
	super->ip_len = start;
	super->header_len = header_len;
	super->gso_size = vnet->gso_size;
	super->total = total;
	super->count = (total - header_len + vnet->gso_size - 1) / vnet->gso_size;
	return true;
}

size_t super_length(const struct super *super, size_t number)
{
	size_t offset = super->header_len + number * super->gso_size;
	size_t payload = super->total - offset < super->gso_size ? super->total - offset : super->gso_size;
	return super->header_len + payload;
}

/* Write packet `number`, with correct headers and checksums, to `out`, which has room for `super_length` bytes. */
void super_cut(const struct super *super, const uint8_t *packet, size_t number, uint8_t *out)
{
	size_t length = super_length(super, number), at = super->ip_len;
	uint8_t *transport = out + at, *field;

	memcpy(out, packet, super->header_len);
	memcpy(out + super->header_len, packet + super->header_len + number * super->gso_size,
	       length - super->header_len);
	if (super->is_ipv6) {
		put16(out + 4, length - 40);
	} else {
		put16(out + 2, length);
		out[10] = out[11] = 0;
		put_checksum(out + 10, sum_words(out, at));
	}
	if (super->is_tcp) {
		uint8_t flags = transport[13];
		put32(transport + 4, get32(transport + 4) + (uint32_t)(number * super->gso_size));
		transport[13] = flags & (uint8_t)~(FIN | PSH | CWR);
		if (number == 0) /* CWR only here: the congestion window was reduced once (RFC 3168 §6.1.2) */
			transport[13] |= flags & CWR;
		if (number == super->count - 1)
			transport[13] |= flags & (FIN | PSH);
		field = transport + 16;
	} else {
		put16(transport + 4, length - at);
		field = transport + 6;
	}
	field[0] = field[1] = 0;
	put_checksum(field, sum_words(transport, length - at) +
				    sum_pseudo(out, super->is_ipv6, super->is_tcp ? TCP : UDP, length - at));
}

/* Complete a packet's checksum: the field, which is inside the packet, holds the sum of the pseudo-header before. */
void complete(uint8_t *packet, size_t length, size_t csum_start, size_t csum_offset)
{
	put_checksum(packet + csum_start + csum_offset, sum_words(packet + csum_start, length - csum_start));
}

/* Begin a run, a possible super-packet, with its first packet; `length`: from its IP header, already checked. */
void run_begin(struct run *run, uint8_t *packet, size_t length, bool offload, bool uso)
{
	uint8_t protocol;
	size_t at;

	run->count = 1;
	run->can_grow = false;
	run->packets[0] = packet;
	run->lengths[0] = (uint16_t)length;
	run->total = length;
	run->is_ipv6 = packet[0] >> 4 == 6;
	at = run->ip_len = run->is_ipv6 ? 40 : 20;
	if (!offload || length < at + 8)
		return;
	if (!run->is_ipv6 && (packet[0] != 0x45 || packet[6] & 0xBF || packet[7] || sum_words(packet, 20) % 0xFFFF))
		return; /* options, a fragment, or a header checksum that must stay wrong */
	protocol = run->is_ipv6 ? packet[6] : packet[9];
	run->is_tcp = protocol == TCP;
	if (run->is_tcp) {
		/* PSH and FIN end a run, so a packet with one of them begins none. */
		if (length < at + 20 || packet[at + 13] != ACK || packet[at + 12] >> 4 < 5)
			return;
		run->header_len = at + (size_t)(packet[at + 12] >> 4) * 4;
	} else if (protocol == UDP && uso) {
		if (get16(packet + at + 2) == VXLAN_PORT || !(packet[at + 6] | packet[at + 7]))
			return;
		run->header_len = at + 8;
	} else {
		return;
	}
	if (length <= run->header_len)
		return;
	run->size = length - run->header_len;
	if (run->is_tcp)
		run->next_sequence = get32(packet + at + 4) + (uint32_t)run->size;
	run->can_grow = true;
}

static bool differ(const uint8_t *a, const uint8_t *b, size_t from, size_t to)
{
	return memcmp(a + from, b + from, to - from) != 0;
}

/* Add a packet to the run, if a kernel would merge it. False: not added. */
bool run_extend(struct run *run, uint8_t *packet, size_t length)
{
	const uint8_t *first = run->packets[0];
	size_t at = run->ip_len, end = run->header_len, payload;

	if (!run->can_grow || run->count == MAX_RUN || length <= end || length > run->lengths[0] ||
	    packet[0] >> 4 != (run->is_ipv6 ? 6 : 4))
		return false;
	payload = length - end;
	if (run->total + payload > MAX_PACKET)
		return false;
	if (run->is_ipv6) {
		if (differ(first, packet, 0, 4) || differ(first, packet, 6, at))
			return false;
	} else if (differ(first, packet, 0, 2) || differ(first, packet, 6, 10) || differ(first, packet, 12, at) ||
		   sum_words(packet, 20) % 0xFFFF) {
		return false;
	}
	if (run->is_tcp) {
		if (differ(first, packet, at, at + 4) || differ(first, packet, at + 8, at + 13) ||
		    differ(first, packet, at + 14, at + 16) || differ(first, packet, at + 18, end) ||
		    get32(packet + at + 4) != run->next_sequence ||
		    (packet[at + 13] & (uint8_t)~(PSH | FIN)) != ACK)
			return false;
		run->next_sequence += (uint32_t)payload;
		run->can_grow = packet[at + 13] == ACK;
	} else if (differ(first, packet, at, at + 4) || !(packet[at + 6] | packet[at + 7])) {
		return false;
	}
	if (length < run->lengths[0])
		run->can_grow = false; /* a shorter packet is the last of its run */
	run->packets[run->count] = packet;
	run->lengths[run->count++] = (uint16_t)length;
	run->total += payload;
	return true;
}

/* Write the headers of a run of two or more: header_len bytes to `header`, with the pseudo-header's sum as checksum. */
void run_header(const struct run *run, uint8_t vnet[VNET_LEN], uint8_t *header)
{
	size_t at = run->ip_len, offset = run->is_tcp ? 16 : 6;
	const uint8_t *last = run->packets[run->count - 1];
	uint16_t words[4], pseudo;

	memcpy(header, run->packets[0], run->header_len);
	if (run->is_ipv6) {
		put16(header + 4, run->total - 40);
	} else {
		put16(header + 2, run->total);
		header[10] = header[11] = 0;
		put_checksum(header + 10, sum_words(header, 20));
	}
	if (run->is_tcp)
		header[at + 13] |= last[at + 13] & (PSH | FIN);
	else
		put16(header + at + 4, run->total - at);
	pseudo = (uint16_t)(sum_pseudo(header, run->is_ipv6, run->is_tcp ? TCP : UDP, run->total - at) % 0xFFFF);
	memcpy(header + at + offset, &pseudo, 2);
	vnet[0] = NEEDS_CSUM;
	vnet[1] = run->is_tcp ? (run->is_ipv6 ? GSO_TCPV6 : GSO_TCPV4) : GSO_UDP_L4;
	words[0] = htole16((uint16_t)run->header_len);
	words[1] = htole16((uint16_t)run->size);
	words[2] = htole16((uint16_t)at);
	words[3] = htole16((uint16_t)offset);
	memcpy(vnet + 2, words, 8);
}
