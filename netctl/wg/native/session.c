/* Sessions (keys, counters, replay window), peers, and the peers of inner addresses. Compare noise.c and receive.c of
 * the Linux kernel's WireGuard. */
#include "core.h"

#include <endian.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>

/* Allocate the buffers that are not allocated yet. False: no memory. */
bool sending_init(struct sending *sending)
{
	return sending->arena || (sending->arena = malloc(ARENA));
}

bool arrival_init(struct arrival *arrival)
{
	if (!arrival->slots)
		arrival->slots = malloc((size_t)SLOTS * SLOT_STRIDE);
	if (!arrival->controls)
		arrival->controls = malloc((size_t)SLOTS * CONTROL_LEN);
	if (!arrival->sources)
		arrival->sources = calloc(SLOTS, sizeof *arrival->sources);
	if (!arrival->incoming)
		arrival->incoming = calloc(SLOTS, sizeof *arrival->incoming);
	return arrival->slots && arrival->controls && arrival->sources && arrival->incoming;
}

bool core_init(struct core *core)
{
	core->udp4 = core->udp6 = -1;
	core->mtu = 1420;
	core->last_read = core->last_received = -BUSY_S;
	core->cipher = EVP_CIPHER_fetch(NULL, "ChaCha20-Poly1305", NULL);
	core->raw = malloc(VNET_LEN + MAX_PACKET + 1);
	core->outgoing = calloc(MAX_BATCHES, sizeof *core->outgoing);
	core->threads = 1;
	core->worth = WORTH;
	return core->cipher && core->raw && core->outgoing && sending_init(&core->sendings[0]) &&
	       arrival_init(&core->arrivals[0]) && RAND_bytes((unsigned char *)&core->seed, sizeof core->seed) == 1;
}

void core_free(struct core *core)
{
	workers_stop(core);
	for (size_t i = 0; i < BUCKETS; i++)
		while (core->buckets[i])
			session_drop(core, core->buckets[i]);
	for (unsigned i = 0; i < SENDINGS; i++) {
		if (core->sendings[i].arena)
			OPENSSL_cleanse(core->sendings[i].arena, ARENA);
		free(core->sendings[i].arena);
	}
	for (unsigned i = 0; i < ARRIVALS; i++) {
		struct arrival *arrival = &core->arrivals[i];
		if (arrival->slots)
			OPENSSL_cleanse(arrival->slots, (size_t)SLOTS * SLOT_STRIDE);
		free(arrival->slots);
		free(arrival->controls);
		free(arrival->sources);
		free(arrival->incoming);
	}
	EVP_CIPHER_free(core->cipher);
	free(core->works);
	free(core->raw);
	free(core->outgoing);
	free(core->peers);
}

/* The session with this index, or NULL. We chose the indices at random, so the table needs no hash. */
struct session *session_find(struct core *core, uint32_t local_index)
{
	struct session *found = core->buckets[local_index % BUCKETS];
	while (found && found->local_index != local_index)
		found = found->next;
	return found;
}

static EVP_CIPHER_CTX *keyed(const struct core *core, const uint8_t *key, int is_sealing)
{
	EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
	if (context && EVP_CipherInit_ex2(context, core->cipher, key, NULL, is_sealing, NULL) != 1) {
		EVP_CIPHER_CTX_free(context);
		return NULL;
	}
	return context;
}

/* Add a session. NULL: no memory, or the index is taken. */
struct session *session_add(struct core *core, uint32_t local_index, uint32_t remote_index, uint32_t peer,
			    const uint8_t *send_key, const uint8_t *receive_key, double created_at)
{
	struct session *session, **bucket = &core->buckets[local_index % BUCKETS];

	if (session_find(core, local_index) || !(session = calloc(1, sizeof *session)))
		return NULL;
	session->seal[0] = keyed(core, send_key, 1);
	session->open[0] = keyed(core, receive_key, 0);
	if (!session->seal[0] || !session->open[0]) {
		EVP_CIPHER_CTX_free(session->seal[0]);
		EVP_CIPHER_CTX_free(session->open[0]);
		free(session);
		return NULL;
	}
	memcpy(session->send_key, send_key, KEY_LEN);
	memcpy(session->receive_key, receive_key, KEY_LEN);
	session->serial = ++core->serials;
	session->local_index = local_index;
	session->remote_index = remote_index;
	session->peer = peer;
	session->created_at = created_at;
	session->next = *bucket;
	*bucket = session;
	return session;
}

/* Remove a session and overwrite its keys; EVP_CIPHER_CTX_free overwrites its own copies. Workers first finish their
 * jobs with these keys, so that no packet taken before is lost. */
void session_drop(struct core *core, struct session *session)
{
	struct session **link = &core->buckets[session->local_index % BUCKETS];

	settle(core);
	while (*link != session)
		link = &(*link)->next;
	*link = session->next;
	for (link = &core->touched; *link; link = &(*link)->next_touched)
		if (*link == session) {
			*link = session->next_touched;
			break;
		}
	if (session->peer < core->peer_count && core->peers[session->peer].current == session)
		core->peers[session->peer].current = NULL;
	for (unsigned i = 0; i < MAX_THREADS; i++) {
		EVP_CIPHER_CTX_free(session->seal[i]);
		EVP_CIPHER_CTX_free(session->open[i]);
	}
	OPENSSL_cleanse(session, sizeof *session);
	free(session);
}

bool session_is_usable(const struct session *session, double now)
{
	return now - session->created_at < REJECT_AFTER_TIME && session->send_counter < REJECT_AFTER_MESSAGES;
}

/* The nonce of a datagram: four zeros and the header's counter, both little-endian. */
static void make_nonce(uint8_t nonce[NONCE_LEN], const uint8_t *datagram)
{
	memset(nonce, 0, 4);
	memcpy(nonce + 4, datagram + 8, 8);
}

/* The parameters that place the tag at `at`. EVP_CIPHER_CTX_ctrl would build the same ones for each packet, which takes
 * a tenth of the cipher's time. */
#define TAG_AT(at)                                                                                             \
	{                                                                                                      \
		OSSL_PARAM_construct_octet_string(OSSL_CIPHER_PARAM_AEAD_TAG, at, TAG_LEN), OSSL_PARAM_construct_end() \
	}

/* Write a datagram's header with the session's next counter. The caller has checked `session_is_usable`. */
void session_number(struct session *session, uint8_t *datagram)
{
	uint32_t words[2] = {htole32(TRANSPORT), htole32(session->remote_index)};
	uint64_t little = htole64(session->send_counter++);

	memcpy(datagram, words, 8);
	memcpy(datagram + 8, &little, 8);
}

/* Encrypt `padded` bytes after the header in place; there is room for the tag. `thread`: 0, or a worker's number, which
 * no other thread uses: of the session, the function reads only the keys and that thread's contexts. False: OpenSSL has
 * no memory. */
bool session_seal_by(struct core *core, struct session *session, unsigned thread, uint8_t *datagram, size_t padded)
{
	uint8_t nonce[NONCE_LEN], *text = datagram + HEADER_LEN;
	EVP_CIPHER_CTX *context = session->seal[thread];
	OSSL_PARAM tag[] = TAG_AT(text + padded);
	int done = 0, rest = 0;

	if (!context && !(context = session->seal[thread] = keyed(core, session->send_key, 1)))
		return false;
	make_nonce(nonce, datagram);
	return EVP_EncryptInit_ex2(context, NULL, NULL, nonce, NULL) == 1 &&
	       (padded == 0 || EVP_EncryptUpdate(context, text, &done, text, (int)padded) == 1) &&
	       EVP_EncryptFinal_ex(context, text + done, &rest) == 1 && EVP_CIPHER_CTX_get_params(context, tag) == 1;
}

/* Write the header and encrypt, by thread 0. */
bool session_seal(struct core *core, struct session *session, uint8_t *datagram, size_t padded)
{
	session_number(session, datagram);
	return session_seal_by(core, session, 0, datagram, padded);
}

/* Decrypt a datagram of at least OVERHEAD bytes in place: the packet follows the header. `thread`: as for
 * `session_seal_by`. False: not authentic, or OpenSSL has no memory. */
bool session_open_by(struct core *core, struct session *session, unsigned thread, uint8_t *datagram, size_t length)
{
	uint8_t nonce[NONCE_LEN], *text = datagram + HEADER_LEN;
	EVP_CIPHER_CTX *context = session->open[thread];
	size_t padded = length - OVERHEAD;
	OSSL_PARAM tag[] = TAG_AT(text + padded);
	int done = 0, rest = 0;

	if (!context && !(context = session->open[thread] = keyed(core, session->receive_key, 0)))
		return false;
	make_nonce(nonce, datagram);
	return EVP_DecryptInit_ex2(context, NULL, NULL, nonce, NULL) == 1 &&
	       EVP_CIPHER_CTX_set_params(context, tag) == 1 &&
	       (padded == 0 || EVP_DecryptUpdate(context, text, &done, text, (int)padded) == 1) &&
	       EVP_DecryptFinal_ex(context, text + done, &rest) == 1;
}

/* Mark an authentic counter as seen (RFC 6479). False: it is a duplicate, too old, or past the limit. */
bool session_accept(struct session *session, uint64_t counter)
{
	uint64_t word, bit = (uint64_t)1 << (counter % 64), *seen = session->seen;
	const uint64_t words = WINDOW_BITS / 64;

	if (counter >= REJECT_AFTER_MESSAGES || counter + WINDOW_SIZE < session->greatest)
		return false;
	word = counter / 64;
	if (counter >= session->greatest) {
		uint64_t top = session->greatest ? (session->greatest - 1) / 64 : 0;
		uint64_t steps = word - top < words ? word - top : words;
		for (uint64_t i = 1; i <= steps; i++)
			seen[(top + i) % words] = 0;
		session->greatest = counter + 1;
	} else if (seen[word % words] & bit) {
		return false;
	}
	seen[word % words] |= bit;
	return true;
}

/* The record of the session's traffic, which the next report includes from now on. */
struct traffic *session_touch(struct core *core, struct session *session)
{
	if (!session->traffic.is_noted) {
		if (!core->touched)
			core->touched_at = core->now;
		session->traffic.is_noted = true;
		session->next_touched = core->touched;
		core->touched = session;
	}
	return &session->traffic;
}

/* Make room for a peer number. False: no memory. */
bool peer_reserve(struct core *core, uint32_t peer)
{
	struct peer *peers;
	uint32_t count = core->peer_count ? core->peer_count : 16;

	if (peer < core->peer_count)
		return true;
	while (count <= peer)
		count *= 2;
	if (!(peers = realloc(core->peers, count * sizeof *peers)))
		return false;
	memset(peers + core->peer_count, 0, (count - core->peer_count) * sizeof *peers);
	core->peers = peers;
	core->peer_count = count;
	return true;
}

/* The peer of an inner address, -1: none. From the cache, else from the protocol's table of allowed IPs. */
int32_t flow_lookup(struct core *core, const uint8_t *address, size_t length)
{
	uint32_t hash = core->seed, word;
	struct flow *flow;

	for (size_t at = 0; at < length; at += 4) {
		memcpy(&word, address + at, 4);
		hash = (hash ^ word) * 0x9E3779B1u;
		hash ^= hash >> 15;
	}
	flow = &core->flows[hash % FLOWS];
	if (flow->length != length || memcmp(flow->address, address, length) != 0) {
		int32_t peer = core->host.lookup(core->host.context, address, length);
		if (core->is_failed)
			return -1;
		if (peer >= 0 && ((uint32_t)peer >= core->peer_count || !core->peers[peer].is_used))
			peer = -1;
		memcpy(flow->address, address, length);
		flow->length = (uint8_t)length;
		flow->peer = peer;
	}
	return flow->peer;
}
