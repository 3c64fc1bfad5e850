/* The core's Python interface: the type `Core`, used by netctl/wg/native/path.py. CPython's limited API of 3.11. */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
/* On Python before 3.13, '#' in a format is a Py_ssize_t only for these names. The headers of 3.13 and later no longer
 * define them, and a module compiled with those headers may run on an older Python. */
#define PyArg_ParseTuple _PyArg_ParseTuple_SizeT
#define PyObject_CallMethod _PyObject_CallMethod_SizeT
#include <Python.h>

#include "core.h"

#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <openssl/crypto.h>
#include <string.h>

enum { ADDRESS_LEN = 23 }; /* family 4 or 6, 16 address bytes (IPv4: 4, then zeros), port, scope id; network order */

typedef struct {
	PyObject_HEAD
	struct core core;
	PyObject *host;           /* borrowed reference, set while a method runs */
	PyThreadState *thread;    /* set while this thread does not hold the interpreter */
} Core;

static bool address_decode(union address *to, const uint8_t *bytes, Py_ssize_t length)
{
	memset(to, 0, sizeof *to);
	if (length == 0)
		return true;
	if (length != ADDRESS_LEN || (bytes[0] != 4 && bytes[0] != 6))
		return false;
	if (bytes[0] == 4) {
		to->v4.sin_family = AF_INET;
		memcpy(&to->v4.sin_addr, bytes + 1, 4);
		memcpy(&to->v4.sin_port, bytes + 17, 2);
	} else {
		uint32_t scope;
		to->v6.sin6_family = AF_INET6;
		memcpy(&to->v6.sin6_addr, bytes + 1, 16);
		memcpy(&to->v6.sin6_port, bytes + 17, 2);
		memcpy(&scope, bytes + 19, 4);
		to->v6.sin6_scope_id = ntohl(scope);
	}
	return true;
}

static void address_encode(const union address *from, uint8_t bytes[ADDRESS_LEN])
{
	memset(bytes, 0, ADDRESS_LEN);
	if (from->any.sa_family == AF_INET6) {
		uint32_t scope = htonl(from->v6.sin6_scope_id);
		bytes[0] = 6;
		memcpy(bytes + 1, &from->v6.sin6_addr, 16);
		memcpy(bytes + 17, &from->v6.sin6_port, 2);
		memcpy(bytes + 19, &scope, 4);
	} else {
		bytes[0] = 4;
		memcpy(bytes + 1, &from->v4.sin_addr, 4);
		memcpy(bytes + 17, &from->v4.sin_port, 2);
	}
}

/* ---- calls into Python: each call takes the interpreter and releases it at the end ---- */

static PyThreadState *enter(Core *self)
{
	PyThreadState *thread = self->thread;
	if (thread)
		PyEval_RestoreThread(thread);
	self->thread = NULL;
	return thread;
}

static void leave(Core *self, PyThreadState *thread, PyObject *result)
{
	if (!result)
		self->core.is_failed = true;
	self->core.is_urgent = true; /* a timer may be due now */
	Py_XDECREF(result);
	if (thread)
		self->thread = PyEval_SaveThread();
}

static int32_t host_lookup(void *context, const uint8_t *address, size_t length)
{
	Core *self = context;
	PyThreadState *thread = enter(self);
	PyObject *result = PyObject_CallMethod(self->host, "lookup", "y#", (const char *)address, (Py_ssize_t)length);
	long peer = -1;

	if (result) {
		peer = PyLong_AsLong(result);
		if (peer == -1 && PyErr_Occurred())
			Py_CLEAR(result);
	}
	leave(self, thread, result);
	return peer >= 0 && peer <= INT32_MAX ? (int32_t)peer : -1;
}

static void host_other(void *context, const uint8_t *datagram, size_t length, const union address *source)
{
	Core *self = context;
	PyThreadState *thread = enter(self);
	uint8_t from[ADDRESS_LEN];

	address_encode(source, from);
	leave(self, thread, PyObject_CallMethod(self->host, "other", "y#y#", (const char *)datagram,
						(Py_ssize_t)length, (const char *)from, (Py_ssize_t)ADDRESS_LEN));
}

static void host_stage(void *context, uint32_t peer, const uint8_t *raw, size_t length)
{
	Core *self = context;
	PyThreadState *thread = enter(self);

	leave(self, thread, PyObject_CallMethod(self->host, "stage", "ky#", (unsigned long)peer, (const char *)raw,
						(Py_ssize_t)length));
}

/* Report the traffic of every touched session, and clear the list. A report may end sessions. */
static PyObject *tell(Core *self)
{
	while (self->core.touched) {
		struct session *session = self->core.touched;
		struct traffic was = session->traffic;
		uint8_t source[ADDRESS_LEN];
		PyObject *result;

		self->core.touched = session->next_touched;
		memset(&session->traffic, 0, sizeof session->traffic);
		address_encode(&was.source, source);
		result = PyObject_CallMethod(self->host, "report", "kKKKddiiiiy#", (unsigned long)session->local_index,
					     (unsigned long long)session->send_counter, (unsigned long long)was.tx_bytes,
					     (unsigned long long)was.rx_bytes, was.sent_at, was.received_at,
					     (int)was.has_sent, (int)was.has_sent_data, (int)was.has_received,
					     (int)was.has_received_data, (const char *)source,
					     (Py_ssize_t)ADDRESS_LEN);
		if (!result)
			return NULL;
		Py_DECREF(result);
	}
	return Py_NewRef(Py_None);
}

static void host_report(void *context, struct core *core)
{
	Core *self = context;
	PyThreadState *thread = enter(self);
	(void)core;
	leave(self, thread, tell(self));
}

/* ---- methods ---- */

static PyObject *core_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
	static char *names[] = {"tun", "epoll", "clock", "offload", "uso", "busy_poll_s", NULL};
	allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
	int tun, epoll, clock, offload, uso;
	double busy_poll_s;
	Core *self;

	if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "iiippd", names, &tun, &epoll, &clock, &offload, &uso,
					 &busy_poll_s))
		return NULL;
	if (!(self = (Core *)allocate(type, 0)))
		return NULL;
	if (!core_init(&self->core)) {
		Py_DECREF(self);
		return PyErr_NoMemory();
	}
	self->core.tun = tun;
	self->core.epoll = epoll;
	self->core.clock = (clockid_t)clock;
	self->core.offload = offload;
	self->core.uso = uso;
	self->core.busy_poll_s = busy_poll_s;
	self->core.host = (struct host){self, host_lookup, host_other, host_stage, host_report};
	return (PyObject *)self;
}

static void core_dealloc(PyObject *object)
{
	PyTypeObject *type = Py_TYPE(object);
	core_free(&((Core *)object)->core);
	((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
	Py_DECREF(type);
}

static PyObject *core_add_session(Core *self, PyObject *arguments)
{
	unsigned long local_index, remote_index, peer;
	const char *send_key, *receive_key;
	Py_ssize_t send_length, receive_length;
	double created_at;

	if (!PyArg_ParseTuple(arguments, "kkky#y#d", &local_index, &remote_index, &peer, &send_key, &send_length,
			      &receive_key, &receive_length, &created_at))
		return NULL;
	if (send_length != KEY_LEN || receive_length != KEY_LEN || local_index > UINT32_MAX ||
	    remote_index > UINT32_MAX || peer >= self->core.peer_count || !self->core.peers[peer].is_used) {
		PyErr_SetString(PyExc_ValueError, "keys of 32 bytes, indices of 32 bits, and a peer that was set");
		return NULL;
	}
	if (!session_add(&self->core, (uint32_t)local_index, (uint32_t)remote_index, (uint32_t)peer,
			 (const uint8_t *)send_key, (const uint8_t *)receive_key, created_at))
		return PyErr_NoMemory();
	Py_RETURN_NONE;
}

static PyObject *core_drop_session(Core *self, PyObject *arguments)
{
	unsigned long local_index;
	struct session *session;

	if (!PyArg_ParseTuple(arguments, "k", &local_index))
		return NULL;
	if ((session = session_find(&self->core, (uint32_t)local_index)))
		session_drop(&self->core, session);
	Py_RETURN_NONE;
}

static PyObject *core_set_peer(Core *self, PyObject *arguments)
{
	unsigned long peer;
	PyObject *current;
	const char *endpoint;
	Py_ssize_t length;
	int holds_endpoint;
	union address to;
	struct session *session = NULL;

	if (!PyArg_ParseTuple(arguments, "kOy#p", &peer, &current, &endpoint, &length, &holds_endpoint))
		return NULL;
	if (current != Py_None) {
		unsigned long local_index = PyLong_AsUnsignedLong(current);
		if (PyErr_Occurred())
			return NULL;
		session = session_find(&self->core, (uint32_t)local_index);
	}
	if (peer > INT32_MAX || !address_decode(&to, (const uint8_t *)endpoint, length)) {
		PyErr_SetString(PyExc_ValueError, "a peer's number, and an address of 23 bytes or none");
		return NULL;
	}
	if (!peer_reserve(&self->core, (uint32_t)peer))
		return PyErr_NoMemory();
	self->core.peers[peer].is_used = true;
	self->core.peers[peer].holds_endpoint = holds_endpoint;
	self->core.peers[peer].endpoint = to;
	self->core.peers[peer].current = session && session->peer == peer ? session : NULL;
	Py_RETURN_NONE;
}

static PyObject *core_drop_peer(Core *self, PyObject *arguments)
{
	unsigned long peer;

	if (!PyArg_ParseTuple(arguments, "k", &peer))
		return NULL;
	if (peer < self->core.peer_count)
		memset(&self->core.peers[peer], 0, sizeof *self->core.peers);
	memset(self->core.flows, 0, sizeof self->core.flows);
	Py_RETURN_NONE;
}

static PyObject *core_forget_flows(Core *self, PyObject *Py_UNUSED(nothing))
{
	memset(self->core.flows, 0, sizeof self->core.flows);
	Py_RETURN_NONE;
}

static PyObject *core_forget_refusals(Core *self, PyObject *Py_UNUSED(nothing))
{
	for (uint32_t i = 0; i < self->core.peer_count; i++)
		self->core.peers[i].no_gso = false;
	Py_RETURN_NONE;
}

static PyObject *core_set_sockets(Core *self, PyObject *arguments)
{
	if (!PyArg_ParseTuple(arguments, "ii", &self->core.udp4, &self->core.udp6))
		return NULL;
	Py_RETURN_NONE;
}

static PyObject *core_set_mtu(Core *self, PyObject *arguments)
{
	unsigned long mtu;

	if (!PyArg_ParseTuple(arguments, "k", &mtu))
		return NULL;
	self->core.mtu = mtu;
	Py_RETURN_NONE;
}

/* Ends a method that may have called the host: its result, or NULL with an exception when a call of the host failed. */
static PyObject *finished(Core *self, PyObject *host, PyObject *result)
{
	self->host = host;
	if (self->core.is_failed) {
		self->core.is_failed = false;
		Py_XDECREF(result);
		return NULL;
	}
	return result;
}

static PyObject *core_start_workers(Core *self, PyObject *arguments)
{
	unsigned long threads, worth = WORTH;
	int error;

	if (!PyArg_ParseTuple(arguments, "k|k", &threads, &worth))
		return NULL;
	if (threads < 1 || threads > MAX_THREADS || self->core.threads > 1) {
		PyErr_SetString(PyExc_ValueError, "1 to 8 threads, and once");
		return NULL;
	}
	if ((error = workers_start(&self->core, (unsigned)threads))) {
		errno = error;
		return PyErr_SetFromErrno(PyExc_OSError);
	}
	self->core.worth = worth;
	Py_RETURN_NONE;
}

static PyObject *core_stop_workers(Core *self, PyObject *Py_UNUSED(nothing))
{
	send_flush(&self->core);
	workers_stop(&self->core);
	Py_RETURN_NONE;
}

static PyObject *core_transmit(Core *self, PyObject *arguments)
{
	PyObject *host, *before = self->host;
	const char *raw;
	Py_ssize_t length;
	bool done;

	if (!PyArg_ParseTuple(arguments, "Oy#", &host, &raw, &length))
		return NULL;
	self->host = host;
	self->core.now = core_now(&self->core);
	done = tun_packet(&self->core, (const uint8_t *)raw, (size_t)length, false);
	return finished(self, before, PyBool_FromLong(done));
}

static PyObject *core_keepalive(Core *self, PyObject *arguments)
{
	unsigned long local_index;
	struct session *session;
	bool done;

	if (!PyArg_ParseTuple(arguments, "k", &local_index))
		return NULL;
	self->core.now = core_now(&self->core);
	session = session_find(&self->core, (uint32_t)local_index);
	done = session && send_keepalive(&self->core, session);
	return PyBool_FromLong(done);
}

static PyObject *core_flush(Core *self, PyObject *host)
{
	PyObject *before = self->host, *result;

	send_flush(&self->core);
	self->host = host;
	result = tell(self);
	self->host = before;
	return result;
}

static PyObject *core_move(Core *self, PyObject *arguments)
{
	int ready[MAX_EVENTS], count;
	PyObject *host, *result;
	double timeout;

	if (!PyArg_ParseTuple(arguments, "Od", &host, &timeout))
		return NULL;
	if (self->core.is_running) {
		PyErr_SetString(PyExc_RuntimeError, "it is moving packets already");
		return NULL;
	}
	self->core.is_running = true;
	self->host = host;
	self->thread = PyEval_SaveThread();
	count = core_run(&self->core, timeout, ready, MAX_EVENTS - 1);
	PyEval_RestoreThread(self->thread);
	self->thread = NULL;
	self->core.is_running = false;
	if (self->core.is_failed || count < 0) {
		core_abandon(&self->core);
		return self->core.is_failed ? finished(self, NULL, NULL) : PyErr_SetFromErrno(PyExc_OSError);
	}
	if (self->core.is_tun_broken)
		ready[count++] = self->core.tun;
	if (!(result = tell(self)))
		return finished(self, NULL, NULL);
	Py_DECREF(result);
	self->host = NULL;
	if (!(result = PyList_New(count)))
		return NULL;
	for (int i = 0; i < count; i++) {
		PyObject *fd = PyLong_FromLong(ready[i]);
		if (!fd || PyList_SetItem(result, i, fd) < 0) {
			Py_DECREF(result);
			return NULL;
		}
	}
	return result;
}

static PyMethodDef core_methods[] = {
	{"add_session", (PyCFunction)core_add_session, METH_VARARGS,
	 "add_session(local_index, remote_index, peer, send_key, receive_key, created_at): of a peer that was set."},
	{"drop_session", (PyCFunction)core_drop_session, METH_VARARGS, "drop_session(local_index): its keys are wiped."},
	{"set_peer", (PyCFunction)core_set_peer, METH_VARARGS,
	 "set_peer(peer, local_index or None, address or b'', holds_endpoint): what to send with, and where to."},
	{"drop_peer", (PyCFunction)core_drop_peer, METH_VARARGS, "drop_peer(peer): its number is free again."},
	{"forget_flows", (PyCFunction)core_forget_flows, METH_NOARGS, "Allowed IPs have changed: look them up anew."},
	{"forget_refusals", (PyCFunction)core_forget_refusals, METH_NOARGS, "Try GSO again everywhere."},
	{"set_sockets", (PyCFunction)core_set_sockets, METH_VARARGS, "set_sockets(ipv4, ipv6): descriptors, -1 for none."},
	{"set_mtu", (PyCFunction)core_set_mtu, METH_VARARGS, "set_mtu(mtu): padding depends on it."},
	{"start_workers", (PyCFunction)core_start_workers, METH_VARARGS,
	 "start_workers(threads, worth=WORTH): seal and open by so many threads, this one and others; with 1, by this "
	 "one. Batches below `worth` (see core.h) are this one's all the same."},
	{"stop_workers", (PyCFunction)core_stop_workers, METH_NOARGS, "By this thread alone again."},
	{"transmit", (PyCFunction)core_transmit, METH_VARARGS,
	 "transmit(host, raw): as if `raw` had been read from the TUN. False: there is no session. Goes with `flush`."},
	{"keepalive", (PyCFunction)core_keepalive, METH_VARARGS,
	 "keepalive(local_index): an empty packet. False: the session may not send. Goes with `flush`."},
	{"flush", (PyCFunction)core_flush, METH_O, "flush(host): send what has gathered, and report."},
	{"move", (PyCFunction)core_move, METH_VARARGS,
	 "move(host, timeout): move packets without the interpreter, until something is the protocol's or the time is "
	 "over; descriptors that can be read and are not ours. Raises what a call of `host` raised."},
	{NULL, NULL, 0, NULL},
};

static PyType_Slot core_slots[] = {
	{Py_tp_doc, "Core(tun, epoll, clock, offload, uso, busy_poll_s): see path.py."},
	{Py_tp_new, core_new},
	{Py_tp_dealloc, core_dealloc},
	{Py_tp_methods, core_methods},
	{0, NULL},
};

static PyType_Spec core_spec = {
	.name = "netctl.wg.native._core.Core",
	.basicsize = sizeof(Core),
	.flags = Py_TPFLAGS_DEFAULT,
	.slots = core_slots,
};

static int module_exec(PyObject *module)
{
	PyObject *type = PyType_FromSpec(&core_spec);
	int failed = !type || PyModule_AddObjectRef(module, "Core", type) < 0;
	Py_XDECREF(type);
	return failed || PyModule_AddStringConstant(module, "OPENSSL", OpenSSL_version(OPENSSL_VERSION)) < 0 ? -1 : 0;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, module_exec}, {0, NULL}};

static struct PyModuleDef module = {
	PyModuleDef_HEAD_INIT,
	.m_name = "_core",
	.m_doc = "netctl-wg's hot path in C.",
	.m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__core(void)
{
	return PyModuleDef_Init(&module);
}
