"""The path manager's numbers, in seconds unless the name says otherwise."""

from __future__ import annotations

MAX_ROUND = 2**52
"""The highest round that is taken over from a peer: half of what the wire carries, so that ours can go on above it."""
PUNCH_OFFSETS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""DESIGN §7.5: five packets while both NATs are surely listening, then back-off for late candidates."""
PUNCH_SETTLE = 1.5
"""After the last packet of a punch: longer than any sane round trip."""
EARLY_FOR = 10.0
EARLY_KEPT = 256
"""Introductions of peers that an apply is about to set up: it takes no longer; a mediator can send any number."""
PUNCH_WITHOUT_WORD = 1.0
"""An Introduction that no Punch follows (the mediator went away in between) starts by itself."""
RETRY_FIRST = 15.0
RETRY_MAX = 600.0
"""Back-off between rounds of a pair that found no direct path: doubles; ten minutes cost nothing."""
OFFER_REPEAT = 3.0
"""An offer without an answer is repeated: the other side may have logged in a moment later."""
OFFER_ANSWERED = 0.5
"""An introduced peer that no path was found to by then may never have seen our offer: once more."""
STABLE_AFTER = 60.0
"""A direct path this old proves the pair good: its back-off starts from the beginning again."""

PING_ACTIVE = 1.0
"""Between pings of the path in use while packets flow."""
PING_IDLE = 10.0
"""Between pings of an idle path: under the 30 s after which the strictest NATs forget UDP."""
PING_NOMINATE = 0.2
"""Between pings until the other side has followed a switch."""
PING_SUSPECT = 0.4
"""Between pings of a path that has stopped to answer."""
ACTIVE_FOR = 5.0
"""Packets count as flowing this long after the engine's counters moved by more than a keepalive."""
KEEPALIVES = (0, 32, 64)
"""Bytes between two looks that are no packets of a user: WireGuard's keepalive is an empty transport message of 32, and
one that meets an old key is followed by the handshake's own. An empty ping has 64 too."""
HANDSHAKES = ((92, 148), (148, 92), (240, 240))
"""Bytes that came and that went of one handshake: for who begins it, for who answers, and where both begin at once."""
ANSWER_WITHIN = 0.6
"""A ping older than this (or than three round trips) is unanswered: the path is suspect."""
RESCUE_AFTER = 1.0
"""A path suspect this long: ready the relay, ping every other candidate."""
DEAD_AFTER = 2.8
"""A path that answered nothing this long is dead. With PING_ACTIVE: back on the relay within 5 s."""
DATA_SILENT = 0.9
"""The engine sends and hears nothing this long, over two looks: the path is doubted. A round trip is far shorter."""
DATA_ASKS = 3
"""Answers of the peer that it has sent something, after which a path that brought nothing is given up: two packets
each, so a path that loses a tenth is given up wrongly once in a million doubts."""
DATA_LOOK = 0.35
"""Between questions for data, and looks at the engine, while a path is doubted."""
DATA_SETTLE = 0.25
"""From the peer's word that it has sent something to where that must be here: it waits in line with other packets."""
DATA_REST = 60.0
"""A peer that knows of no question for data is not asked for so long."""
DATA_GIVEN_AT_ONCE = 2
DATA_GIVEN_REST = 0.2
"""What a peer is sent through the tunnel when it asks, and how soon again: no question makes a flood."""
KEEPALIVE_WAIT = 12.0
"""WireGuard answers data with a keepalive after ten seconds (Keepalive-Timeout) where nothing else goes back."""
REKEY_AFTER = 120.0
"""WireGuard's Rekey-After-Time: with packets flowing, a session this old is replaced by the next."""
HANDSHAKE_OVERDUE = 16.0
"""Longer than the initiator's own keepalive and two tries of a handshake: nothing is lost before 180 s."""
REFUSED_FIRST = 60.0
REFUSED_MAX = 3600.0
"""A path that carried no data is left alone for so long, doubling: each try costs a second or two of silence."""
MTU_RETRY = 0.4
MTU_TRIES = 3
"""Between padded pings, and how many of one size: at a loss of a tenth each way one in 150 sizes is judged wrongly."""
MTU_CONFIRM = 60.0
"""Between padded pings of the size that was found, while packets flow: a minute is what a hop that changes may cost."""
MTU_CONFIRM_REST = 5.0
"""The same while packets go out and none comes back: a stream that nobody answers asks no more often."""
MTU_RAISE = 600.0
"""Between tries of the full size on a narrow path (RFC 8899 §5.1.1, PMTU_RAISE_TIMER)."""
LIVENESS_EVERY = 0.5
LIVENESS_AGAIN = 0.25
LIVENESS_ASKS = 3
LIVENESS_SILENT = 0.75
"""Questions whether a peer answers, while somebody looks: the seconds between two, and after one without an answer;
after how many of them and how long it does not answer. A cut is found after 1.25 s, which leaves a page the rest of two
seconds; three questions of a peer behind a loss of a twentieth each way are lost once in ten minutes."""
LIVENESS_RATE = 200.0
LIVENESS_BURST = 50
"""Such questions of all pairs together, a second and at once: 200 peers are asked once a second, which still shows a
cut within two. They cost some 25 kB/s each way then; more peers are asked more rarely."""
LIVENESS_LOST = 120.0
"""A way that has died is asked whether the peer is back there for so long: then its NAT has forgotten it, and the
address may be somebody else's."""
LIVENESS_RTT_WEIGHT = 0.3
"""Of a new sample in the smoothed round trip that a viewer sees."""
TRIGGERED_REST = 0.02
"""Between pings of one address that pings of the peer cause."""
TRUST_FRESH = 2.5
"""A path not in use may be chosen if it answered this recently."""
SWITCH_GAIN = 0.7
SWITCH_GAIN_MS = 5.0
"""A path of the same kind replaces the one in use only below 0.7 of its round trip and 5 ms less."""
SWITCH_REST = 10.0
"""And only when the one in use is this old: no flapping."""
REASSERT_AFTER = (1.5, 4.0)
"""Round trips after a switch at which the endpoint is set again: WireGuard roams back on a late packet."""
REASSERT_MIN = 0.03

FIRST_STEER_REST = 0.3
"""The side that does not choose sets a peer's first endpoint this much later: a handshake fits in."""

RELAY_REFRESH = 20.0
"""Keeps NAT and binding open (DESIGN §7.7)."""
RELAY_KEEP = 60.0
"""A relay binding is kept this long after the switch to a direct path."""
RELAY_WAIT_PEER = (0.2, 0.3, 0.5, 1.0, 2.0, 5.0)
"""Between questions whether the peer is bound yet; the relay also says so by itself."""
RELAY_RETRY = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Between unanswered BINDs or CONFIRMs; the last one for ever."""
RELAY_LOST_AFTER = 3
"""Unanswered refreshes after which the binding is gone."""
RELAY_DOUBT = 2.0
"""Packets go out over the relay and none comes back this long: ask whether it still knows us."""
RELAY_REGRANT_FIRST = 3
RELAY_REGRANT = 10
"""Unanswered BINDs after which a new grant is asked for, and after how many each time then: a relay whose secret or
clock is another stays silent to old grants, and packets wait meanwhile."""
UDP_SILENT = 3
"""Messages to the relay over UDP without an answer, after which TLS is wanted."""
UDP_SILENT_TUNNEL = 1
"""The same while the TLS connection is there anyway: other pairs need it."""
UDP_FIRST_RETRY = 10.0
"""The first look whether UDP works after all: it may have been the answer of a slow link that was late."""
UDP_RETRY = 60.0
"""Between looks whether UDP works again while TLS carries."""
GRANT_RETRY = (1.0, 2.0, 5.0, 15.0, 60.0)
"""Between RelayRequests without a grant; the last one for ever."""
GRANT_RENEW = 3600.0
"""A grant lives six hours: renewed hourly, so that it outlives a mediator that is gone for long."""

STUN_RETRY = (0.1, 0.2, 0.4)
"""Between binding requests to a server that has not answered in this gathering."""
STUN_GATHER = 0.6
"""Candidates are offered at latest this long after gathering began, with what is known then."""
FAMILY_LEAD = 0.25
"""Once every server of one address family has answered, an offer waits no longer for the other (RFC 8305 §5): it
follows in an offer of its own."""
STUN_REST = 5.0
"""Gatherings caused by single peers share one within this time."""
STUN_REFRESH = 25.0
"""Keeps the mapping alive under 30 s NAT timeouts and notices a new address."""

MAX_CANDIDATES = 16
"""Of one peer: more are cut off, so a hostile one cannot make us spray packets."""
MAX_ROUTES = 24
"""Candidates and peer-reflexive addresses of one peer."""
MAX_OUTSTANDING = 16
"""Pings of one route that may still be answered."""
MAX_STUN_SERVERS = 8
MAX_SRFLX = 4
"""Server-reflexive addresses offered: a symmetric NAT shows another one to every server."""
PONGS_PER_SECOND = 100
"""To one peer: a replayed ping must not make a flood."""
UNPROVEN_BURST = 256
UNPROVEN_RATE = 10.0
"""Datagrams of one pair to addresses that never answered, at once and a second: a round sends 8 pings to at most 16
candidates, and begins anew at once when a host moves; after that rounds are 15 s apart and more."""
HEARD_BURST = 64
HEARD_RATE = 5.0
"""The same to addresses that a peer was heard from and did not offer, and in answer: a budget apart, for whoever copies
datagrams spends it, and must not take the offered candidates' place in it."""
UNPROVEN_BURST_ALL = 16_384
UNPROVEN_RATE_ALL = 1_000.0
"""The same of all pairs together: a thousand peers with two candidates each are punched at once, and what must wait
is tried in the next round. 1,000 probes a second are 1 Mbit/s."""
OFFERS_BURST = 20
OFFERS_RATE = 1.0
"""Offers of one peer that are listened to, at once and a second: a round takes two or three."""
MAX_HEARD_FROM = 8
"""Addresses of one peer that it was heard from and that never answered: a NAT that changes shows one or two."""
HEARD_FROM_KEPT = 30.0
"""Seconds that such an address is kept when the room is needed by none."""
SEEN_PINGS = 256
"""The last pings of one peer: none is taken twice. More than a round sends to all of a peer's candidates."""
PING_LATE_US = 10_000_000
"""A ping with a number that much below the highest was recorded: no path holds a packet up for ten seconds."""
NUMBERS_FORGOTTEN = 30.0
"""Nothing numbered as high was heard for so long: the peer's clock or program may have gone back to an earlier one."""
ANSWERED_LATELY = 30.0
"""Where a ping of ours was answered no longer ago, there is the peer: pings of an idle path are 10 s apart."""
INTRODUCED_LATELY = 60.0
"""After the mediator's word of a peer it is there; longer than NUMBERS_FORGOTTEN, so that both can be true."""
HAIRPIN_WAIT = 2.0
"""Seconds for a datagram to our own outside to come back, if it does."""

LOW_TTL = 4
"""Hops of the packet that opens our own NAT before anybody sends: past a home router and a carrier's NAT behind
it, and dead before it is at a peer's."""

SAMPLES = 12
"""Fresh sockets that learn how the NAT gives out ports: enough to see a block's width to a quarter."""
SAMPLE_RETRY = 0.2
SAMPLE_WAIT = 0.6
"""For the answers to the samples; those that came by then are judged."""
SAMPLE_REST = 3.0
"""A prediction is offered with samples no older: others behind the NAT take ports too."""
PORT_DOUBT_REST = 60.0
"""Between samples from fresh sockets while no STUN server answers the shared port."""
PORT_WAIT_FIRST = 60.0
PORT_WAIT_MAX = 3600.0
PORT_CALM = 3600.0
"""Between two ports that are taken in the place of one that is not fit: doubles until an hour was calm."""
PORT_SHARED_TRIES = 3
"""Where three ports in a row are seen under others, the router does so with whatever it maps: nothing is gained."""
PORT_REST = 190.0
"""Linux forgets a flow of UDP after 120 or 180 s without a packet, and most routers are one."""
FILTER_RETRY = 0.3
FILTER_TRIES = 4
FILTER_WAIT = 1.5
"""Four questions in 0.9 s: at a loss of ten per cent each way one in 800 tests takes a loss for a filter."""
MIN_SAMPLES = 4
"""Fewer say nothing about how ports are given out."""
MAX_STEP = 16
"""Between neighbouring ports of a NAT that counts; some count by two, or by a block's size."""
SEQUENTIAL_WINDOW = 64
"""Ports tried after the last one seen: our own first packets and those of others behind the NAT take some."""
MAX_BLOCK = 512
"""A range so narrow is tried port by port."""
BLOCK_MARGIN = 3
"""Mean gaps between samples that a block may reach beyond them: misses its end in one of a hundred."""
LOWEST_PORT = 1024
"""NATs leave the ports below alone (RFC 4787 REQ-3)."""
GUESS_PASSES = 2
"""Times that a window is gone through: a probe may be lost, or come before the mapping is there."""
GUESS_REST = 15.0
"""Between two rounds of guesses at one peer, whatever it says."""
GUESS_INTERVAL = 0.01
"""Between guesses, of all pairs of a host together: 100/s (DESIGN §7.6)."""

BIRTHDAY_SOCKETS = 256
BIRTHDAY_PROBES = 1024
"""With so many mappings among 64,512 ports, so many guesses hit one in 98 of 100 attempts."""
BIRTHDAY_AFTER = 1.0
"""After the start of a punch: what can be had without is had by then."""
BIRTHDAY_HEAD_START = 1.3
"""The mappings go first: half of them are there when the guesses begin."""
BIRTHDAY_LATEST = 3.0
"""After the last guess an attempt has failed."""
BIRTHDAY_BACK_OFF = 3600.0
"""Between attempts with one peer."""
BIRTHDAY_HOLD = 30.0
"""A promise to take part holds this long, and nobody else is promised anything. An attempt takes 16 s at most."""
REWRITE_PINGS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""After a hit: the rewrite of ports takes the system a few hundredths of a second."""
REWRITE_TRIAL = 6.0
"""A rewrite that no chosen path uses by then is taken back."""
REWRITE_ORPHAN = 120.0
"""A rewrite of an earlier agent that no path uses by then is taken back."""
