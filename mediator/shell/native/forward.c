/* The relay's hot path: forwards datagrams of bound members to their peers without the interpreter.
 *
 * Python's RelayServer decides who is bound where, what may pass, and what all other messages mean. It records here
 * the destination of the datagrams of one source at one port (`set_flow`), and how many bytes of them may pass before
 * Python decides again (`grant`). `drain` reads a socket, forwards datagrams of known flows, and returns all others
 * unchanged. CPython's limited API of 3.11; runs only in the caller's thread.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
/* On Python before 3.13, '#' in a format is a Py_ssize_t only with these names, whatever Python's headers the module
 * was compiled with: the headers of 3.13 and later no longer define them. */
#define PyArg_ParseTuple _PyArg_ParseTuple_SizeT
#define Py_BuildValue _Py_BuildValue_SizeT
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* recvmmsg, sendmmsg */
#endif
#include <Python.h>

#include <errno.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/uio.h>

#ifndef SOL_UDP
#define SOL_UDP 17
#endif
#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

enum {
	SLOTS = 64,              /* datagrams of one recvmmsg(2) */
	SLOTS_MERGED = 4,        /* for datagrams of up to 64 KB: the data of one call stays in the cache */
	SLOT_LEN = 65536,
	SLOT_STRIDE = SLOT_LEN + 23 * 64, /* no two slots start in the same cache set */
	CALLS = 4,               /* calls of recvmmsg(2) before other sockets get their turn */
	CALLS_MERGED = 16,
	IN_CONTROL = 64,         /* bytes for the segment size and the destination address */
	EXTRA = 64,              /* ancillary bytes with the local address that a flow leaves from */
	OUT_CONTROL = EXTRA + 32,
	MAX_SEGMENTS = 64,       /* of one GSO send */
	MAX_BYTES = 65507,
	MIN_MESSAGE = 32,        /* bytes of WireGuard's shortest message: header and tag */
	TRANSPORT = 4,           /* message type of WireGuard's types 1 to 4 */
	BUCKETS = 1 << 14,       /* a power of two */
	MAX_FLOWS = 1 << 14,
};

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

struct flow {
	struct flow *next;            /* in its bucket */
	union address source, to;
	unsigned at_port;
	int out;
	bool is_transport_only, no_gso;
	uint64_t credit;              /* bytes that may pass */
	uint64_t held;                /* the turn in which one was returned: later ones are then returned too, in order */
	size_t extra_length;
	_Alignas(struct cmsghdr) uint8_t extra[EXTRA];
};

/* One datagram to send, merged or not. */
struct batch {
	struct flow *flow;
	size_t total, segment;
	unsigned parts, segments;
	bool is_closed;
	struct iovec iovs[SLOTS];
	_Alignas(struct cmsghdr) uint8_t control[OUT_CONTROL];
};

typedef struct {
	PyObject_HEAD
	struct flow **buckets;
	unsigned flows;
	uint64_t seed, turn;
	unsigned long long forwarded, nowhere;
	bool is_merged;
	uint8_t *slots;
	struct batch *batches;
	unsigned batch_count;
	struct mmsghdr incoming[SLOTS], outgoing[SLOTS];
	struct iovec iovs[SLOTS];
	union address sources[SLOTS];
	_Alignas(struct cmsghdr) uint8_t controls[SLOTS][IN_CONTROL];
} Forwarder;

/* ---- addresses and flows ---- */

static socklen_t address_length(const union address *address)
{
	return address->any.sa_family == AF_INET6 ? sizeof address->v6 : sizeof address->v4;
}

/* Parse an address of the socket module: a family, the packed address, a port, a scope id. False: not an address. */
static bool address_of(union address *to, int family, const uint8_t *packed, Py_ssize_t length, unsigned port,
		       unsigned scope)
{
	memset(to, 0, sizeof *to);
	if (port == 0 || port > 65535)
		return false;
	if (family == AF_INET && length == 4) {
		to->v4.sin_family = AF_INET;
		to->v4.sin_port = htons((uint16_t)port);
		memcpy(&to->v4.sin_addr, packed, 4);
		return true;
	}
	if (family == AF_INET6 && length == 16) {
		to->v6.sin6_family = AF_INET6;
		to->v6.sin6_port = htons((uint16_t)port);
		to->v6.sin6_scope_id = scope;
		memcpy(&to->v6.sin6_addr, packed, 16);
		return true;
	}
	return false;
}

static bool is_same(const union address *a, const union address *b)
{
	if (a->any.sa_family != b->any.sa_family)
		return false;
	if (a->any.sa_family == AF_INET6)
		return a->v6.sin6_port == b->v6.sin6_port && a->v6.sin6_scope_id == b->v6.sin6_scope_id &&
		       memcmp(&a->v6.sin6_addr, &b->v6.sin6_addr, 16) == 0;
	return a->v4.sin_port == b->v4.sin_port && a->v4.sin_addr.s_addr == b->v4.sin_addr.s_addr;
}

static uint64_t mix(uint64_t value)
{
	value ^= value >> 33;
	value *= UINT64_C(0xff51afd7ed558ccd);
	value ^= value >> 33;
	value *= UINT64_C(0xc4ceb9fe1a85ec53);
	return value ^ value >> 33;
}

/* The table holds only bound members, so others cannot choose which flows share a bucket. */
static unsigned bucket_of(const Forwarder *self, unsigned port, const union address *source)
{
	uint64_t words[2] = {0, 0}, hash = self->seed + port;

	if (source->any.sa_family == AF_INET6) {
		memcpy(words, &source->v6.sin6_addr, 16);
		hash += (uint64_t)source->v6.sin6_port << 32;
	} else {
		memcpy(words, &source->v4.sin_addr, 4);
		hash += (uint64_t)source->v4.sin_port << 32;
	}
	return (unsigned)(mix(mix(hash ^ words[0]) ^ words[1]) & (BUCKETS - 1));
}

static struct flow *find(const Forwarder *self, unsigned port, const union address *source)
{
	struct flow *flow = self->buckets[bucket_of(self, port, source)];

	while (flow && (flow->at_port != port || !is_same(&flow->source, source)))
		flow = flow->next;
	return flow;
}

static void forget_all(Forwarder *self)
{
	for (unsigned i = 0; self->buckets && i < BUCKETS; i++) {
		while (self->buckets[i]) {
			struct flow *flow = self->buckets[i];
			self->buckets[i] = flow->next;
			free(flow);
		}
	}
	self->flows = 0;
}

/* ---- sending ---- */

/* Errors that mean: send the datagrams singly. Causes: a route with a smaller MTU, a card without checksums. */
static bool is_gso_refused(int error)
{
	return error == EINVAL || error == EIO || error == EMSGSIZE || error == EOPNOTSUPP;
}

static void put_control(struct batch *batch, struct msghdr *message, bool as_one)
{
	struct flow *flow = batch->flow;
	size_t length = flow->extra_length;

	memcpy(batch->control, flow->extra, length);
	if (as_one && batch->segments > 1) {
		struct cmsghdr *head = (struct cmsghdr *)(batch->control + length);
		uint16_t segment = (uint16_t)batch->segment;
		memset(head, 0, CMSG_SPACE(sizeof segment));
		head->cmsg_len = CMSG_LEN(sizeof segment);
		head->cmsg_level = SOL_UDP;
		head->cmsg_type = UDP_SEGMENT;
		memcpy(CMSG_DATA(head), &segment, sizeof segment);
		length += CMSG_SPACE(sizeof segment);
	}
	message->msg_control = length ? batch->control : NULL;
	message->msg_controllen = length;
}

/* Send the segments of a batch as single datagrams. Datagrams without room are lost, as on any link. */
static void send_singly(Forwarder *self, struct batch *batch)
{
	struct msghdr message = {.msg_name = &batch->flow->to, .msg_namelen = address_length(&batch->flow->to)};

	put_control(batch, &message, false);
	for (unsigned part = 0; part < batch->parts; part++) {
		struct iovec whole = batch->iovs[part];
		for (size_t at = 0; at < whole.iov_len; at += batch->segment) {
			size_t left = whole.iov_len - at;
			struct iovec one = {(uint8_t *)whole.iov_base + at, left < batch->segment ? left : batch->segment};
			message.msg_iov = &one;
			message.msg_iovlen = 1;
			if (sendmsg(batch->flow->out, &message, MSG_DONTWAIT) >= 0)
				self->forwarded += one.iov_len;
		}
	}
}

/* Send all gathered batches, with one call for consecutive ones from the same socket. */
static void flush(Forwarder *self)
{
	unsigned first = 0;

	while (first < self->batch_count) {
		struct flow *flow = self->batches[first].flow;
		unsigned end = first;
		int sent;

		for (; end < self->batch_count && self->batches[end].flow->out == flow->out; end++) {
			struct batch *batch = &self->batches[end];
			struct msghdr *message = &self->outgoing[end - first].msg_hdr;
			if (batch->flow->no_gso && batch->segments > 1)
				break;
			*message = (struct msghdr){.msg_name = &batch->flow->to,
						   .msg_namelen = address_length(&batch->flow->to),
						   .msg_iov = batch->iovs, .msg_iovlen = batch->parts};
			put_control(batch, message, true);
		}
		if (end == first) {
			send_singly(self, &self->batches[first++]);
			continue;
		}
		sent = sendmmsg(flow->out, self->outgoing, end - first, MSG_DONTWAIT);
		if (sent > 0) {
			for (unsigned i = first; i < first + (unsigned)sent; i++)
				self->forwarded += self->batches[i].total;
			first += (unsigned)sent;
		} else if (is_gso_refused(errno) && self->batches[first].segments > 1) {
			flow->no_gso = true; /* send again, singly */
		} else if (errno != EINTR) {
			first++; /* lost, as on any link */
		}
	}
	self->batch_count = 0;
}

/* Add `total` bytes, in datagrams of `segment` bytes, to the gathered ones. They stay in their slot until `flush`. */
static void gather(Forwarder *self, struct flow *flow, uint8_t *data, size_t total, size_t segment)
{
	unsigned segments = (unsigned)((total + segment - 1) / segment);
	struct batch *batch = self->batch_count ? &self->batches[self->batch_count - 1] : NULL;

	if (!batch || batch->flow != flow || batch->is_closed || total > batch->segment ||
	    batch->segments >= MAX_SEGMENTS || batch->total + total > MAX_BYTES || segments > 1) {
		batch = &self->batches[self->batch_count++];
		batch->flow = flow;
		batch->total = 0;
		batch->segment = segment;
		batch->parts = batch->segments = 0;
	}
	batch->iovs[batch->parts++] = (struct iovec){data, total};
	batch->total += total;
	batch->segments += segments;
	batch->is_closed = segments > 1 || total < batch->segment; /* a shorter datagram must be the last */
}

/* ---- receiving ---- */

/* Whether every segment is a WireGuard message of a type that is forwarded unread, and none is too short. */
static bool is_data(const uint8_t *data, size_t total, size_t segment, bool is_transport_only)
{
	size_t tail = total % segment ? total % segment : segment;

	if (tail < MIN_MESSAGE || segment < MIN_MESSAGE)
		return false;
	for (size_t at = 0; at < total; at += segment) {
		const uint8_t *type = data + at;
		if (type[1] || type[2] || type[3] || type[0] > TRANSPORT || type[0] < (is_transport_only ? TRANSPORT : 1))
			return false;
	}
	return true;
}

static size_t segment_of(struct msghdr *message, size_t total)
{
	for (struct cmsghdr *at = CMSG_FIRSTHDR(message); at; at = CMSG_NXTHDR(message, at))
		if (at->cmsg_level == SOL_UDP && at->cmsg_type == UDP_GRO && at->cmsg_len >= CMSG_LEN(sizeof(int))) {
			int size;
			memcpy(&size, CMSG_DATA(at), sizeof size);
			return size > 0 && (size_t)size < total ? (size_t)size : total;
		}
	return total;
}

/* Append (datagram, segment size, packed sockaddr, ancillary bytes) to `rest`. False: an exception is set. */
static bool give_back(PyObject *rest, const uint8_t *data, size_t total, size_t segment, const union address *source,
		      const struct msghdr *message)
{
	PyObject *row = Py_BuildValue("(y#ny#y#)", (const char *)data, (Py_ssize_t)total, (Py_ssize_t)segment,
				      (const char *)source, (Py_ssize_t)address_length(source),
				      (const char *)message->msg_control, (Py_ssize_t)message->msg_controllen);
	int failed = !row || PyList_Append(rest, row) < 0;
	Py_XDECREF(row);
	return !failed;
}

static PyObject *forwarder_drain(Forwarder *self, PyObject *arguments)
{
	unsigned calls = CALLS_MERGED, port;
	bool is_out_of_credit = false;
	PyObject *rest;
	int fd;

	if (!PyArg_ParseTuple(arguments, "iI", &fd, &port) || !(rest = PyList_New(0)))
		return NULL;
	self->turn++;
	for (unsigned call = 0; call < calls && !is_out_of_credit; call++) {
		int most = self->is_merged ? SLOTS_MERGED : SLOTS, got;

		for (int i = 0; i < most; i++) {
			self->iovs[i] = (struct iovec){self->slots + (size_t)i * SLOT_STRIDE, SLOT_LEN};
			self->incoming[i].msg_hdr = (struct msghdr){
				.msg_name = &self->sources[i], .msg_namelen = sizeof self->sources[i],
				.msg_iov = &self->iovs[i], .msg_iovlen = 1,
				.msg_control = self->controls[i], .msg_controllen = IN_CONTROL};
		}
		got = recvmmsg(fd, self->incoming, (unsigned)most, MSG_DONTWAIT, NULL);
		if (got < 0 && errno != EAGAIN && errno != EINTR)
			continue; /* an ICMP error of an earlier send: no sender to tell */
		if (got <= 0)
			break;
		if (!self->is_merged)
			calls = calls < call + CALLS ? calls : call + CALLS;
		self->is_merged = false;
		for (int i = 0; i < got; i++) {
			struct msghdr *message = &self->incoming[i].msg_hdr;
			const union address *source = &self->sources[i];
			size_t total = self->incoming[i].msg_len, segment = segment_of(message, total);
			uint8_t *data = self->slots + (size_t)i * SLOT_STRIDE;
			struct flow *flow;

			if (segment < total)
				self->is_merged = true;
			/* No answer is possible to port 0 (RFC 768). */
			if ((source->any.sa_family == AF_INET6 ? source->v6.sin6_port : source->v4.sin_port) == 0) {
				self->nowhere++;
				continue;
			}
			flow = total ? find(self, port, source) : NULL;
			if (flow && flow->held != self->turn && flow->credit >= total &&
			    is_data(data, total, segment, flow->is_transport_only)) {
				flow->credit -= total;
				if (total <= MAX_BYTES && total <= segment * MAX_SEGMENTS) {
					gather(self, flow, data, total, segment);
					continue;
				}
				flush(self);
				for (size_t at = 0; at < total;) { /* more than one send can carry */
					size_t most_bytes = MAX_BYTES / segment * segment, left = total - at;
					if (most_bytes > segment * MAX_SEGMENTS)
						most_bytes = segment * MAX_SEGMENTS;
					gather(self, flow, data + at, left < most_bytes ? left : most_bytes, segment);
					at += left < most_bytes ? left : most_bytes;
				}
				flush(self);
				continue;
			}
			if (flow) {
				is_out_of_credit |= flow->credit < total; /* return soon: Python may grant more */
				flow->held = self->turn;
			}
			if (!give_back(rest, data, total, segment, source, message)) {
				self->batch_count = 0;
				Py_DECREF(rest);
				return NULL;
			}
		}
		flush(self);
		if (got < most)
			break;
	}
	return rest;
}

/* ---- methods ---- */

static PyObject *forwarder_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
	allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
	Forwarder *self;

	(void)arguments;
	(void)keywords;
	if (!(self = (Forwarder *)allocate(type, 0)))
		return NULL;
	self->buckets = calloc(BUCKETS, sizeof *self->buckets);
	self->slots = calloc(SLOTS, SLOT_STRIDE);
	self->batches = calloc(SLOTS, sizeof *self->batches);
	if (!self->buckets || !self->slots || !self->batches || getrandom(&self->seed, sizeof self->seed, 0) < 0) {
		Py_DECREF(self);
		return PyErr_NoMemory();
	}
	return (PyObject *)self;
}

static void forwarder_dealloc(PyObject *object)
{
	Forwarder *self = (Forwarder *)object;
	PyTypeObject *type = Py_TYPE(object);

	forget_all(self);
	free(self->buckets);
	free(self->slots);
	free(self->batches);
	((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
	Py_DECREF(type);
}

/* The key of a flow from Python's arguments: a family, a packed address, a port, a scope id. */
struct words {
	int family;
	const char *packed;
	Py_ssize_t length;
	unsigned port, scope;
};

static bool address_from(union address *to, const struct words *words)
{
	if (address_of(to, words->family, (const uint8_t *)words->packed, words->length, words->port, words->scope))
		return true;
	PyErr_SetString(PyExc_ValueError, "an address is a family, 4 or 16 bytes, a port of 1 to 65535 and a scope id");
	return false;
}

static PyObject *forwarder_set_flow(Forwarder *self, PyObject *arguments)
{
	struct words from, to;
	int out, is_transport_only;
	unsigned port;
	const char *extra;
	Py_ssize_t extra_length;
	union address source, destination;
	struct flow *flow;

	if (!PyArg_ParseTuple(arguments, "I(iy#II)i(iy#II)y#p", &port, &from.family, &from.packed, &from.length,
			      &from.port, &from.scope, &out, &to.family, &to.packed, &to.length, &to.port, &to.scope,
			      &extra, &extra_length, &is_transport_only))
		return NULL;
	if (!address_from(&source, &from) || !address_from(&destination, &to))
		return NULL;
	if (extra_length > EXTRA) {
		PyErr_SetString(PyExc_ValueError, "more ancillary bytes than there is room for");
		return NULL;
	}
	if (!(flow = find(self, port, &source))) {
		unsigned bucket = bucket_of(self, port, &source);
		if (self->flows >= MAX_FLOWS)
			Py_RETURN_FALSE;
		if (!(flow = calloc(1, sizeof *flow)))
			return PyErr_NoMemory();
		flow->source = source;
		flow->at_port = port;
		flow->next = self->buckets[bucket];
		self->buckets[bucket] = flow;
		self->flows++;
	}
	flow->to = destination;
	flow->out = out;
	flow->is_transport_only = is_transport_only;
	flow->no_gso = false;
	flow->extra_length = (size_t)extra_length;
	memcpy(flow->extra, extra, (size_t)extra_length);
	Py_RETURN_TRUE;
}

static PyObject *forwarder_grant(Forwarder *self, PyObject *arguments)
{
	struct words from;
	union address source;
	unsigned long long credit, before = 0;
	unsigned port;
	struct flow *flow;

	if (!PyArg_ParseTuple(arguments, "I(iy#II)K", &port, &from.family, &from.packed, &from.length, &from.port,
			      &from.scope, &credit) || !address_from(&source, &from))
		return NULL;
	if ((flow = find(self, port, &source))) {
		before = flow->credit;
		flow->credit = credit;
	}
	return PyLong_FromUnsignedLongLong(before);
}

static PyObject *forwarder_forget(Forwarder *self, PyObject *Py_UNUSED(nothing))
{
	forget_all(self);
	Py_RETURN_NONE;
}

static PyObject *forwarder_counts(Forwarder *self, PyObject *Py_UNUSED(nothing))
{
	PyObject *result = Py_BuildValue("(KK)", self->forwarded, self->nowhere);
	self->forwarded = self->nowhere = 0;
	return result;
}

static PyMethodDef methods[] = {
	{"set_flow", (PyCFunction)forwarder_set_flow, METH_VARARGS,
	 "set_flow(port, source, out, destination, ancillary, transport_only): where the datagrams of a source at a port "
	 "go. False: there is no room for another flow."},
	{"grant", (PyCFunction)forwarder_grant, METH_VARARGS,
	 "grant(port, source, credit): bytes that may pass from now on; those that were left."},
	{"forget", (PyCFunction)forwarder_forget, METH_NOARGS, "Forget all flows."},
	{"drain", (PyCFunction)forwarder_drain, METH_VARARGS,
	 "drain(fd, port): send on what waits there and may pass; everything else, as it came."},
	{"counts", (PyCFunction)forwarder_counts, METH_NOARGS,
	 "(bytes sent on, receipts from port 0) since the last time."},
	{NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
	{Py_tp_doc, "See forwarding.py."},
	{Py_tp_new, forwarder_new},
	{Py_tp_dealloc, forwarder_dealloc},
	{Py_tp_methods, methods},
	{0, NULL},
};

static PyType_Spec spec = {
	.name = "mediator.shell.native._forward.Forwarder",
	.basicsize = sizeof(Forwarder),
	.flags = Py_TPFLAGS_DEFAULT,
	.slots = slots,
};

static int module_exec(PyObject *module)
{
	PyObject *type = PyType_FromSpec(&spec);
	int failed = !type || PyModule_AddObjectRef(module, "Forwarder", type) < 0;
	Py_XDECREF(type);
	return failed ? -1 : 0;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, module_exec}, {0, NULL}};

static struct PyModuleDef module = {
	PyModuleDef_HEAD_INIT,
	.m_name = "_forward",
	.m_doc = "The relay's hot path in C.",
	.m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__forward(void)
{
	return PyModuleDef_Init(&module);
}
