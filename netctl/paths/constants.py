"""The path manager's constants; times are in seconds unless the name says otherwise."""

from __future__ import annotations

MAX_ROUND = 2**52
"""The highest round adopted from a peer: half of the protocol's range, so that our rounds can still grow."""
PUNCH_OFFSETS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""Times of pings after the start of a punch (DESIGN §7.5): five while both NATs surely listen, then back-off."""
PUNCH_SETTLE = 1.5
"""Wait after the last packet of a punch: longer than any sane round trip."""
EARLY_FOR = 10.0
EARLY_KEPT = 256
"""Introductions kept for peers that an apply is about to set up, by time (an apply takes no longer) and by number (a
mediator can send any number)."""
PUNCH_WITHOUT_WORD = 1.0
"""Wait for a Punch after an Introduction; without one (the mediator has gone) the punch starts by itself."""
RETRY_FIRST = 15.0
RETRY_MAX = 600.0
"""Back-off between rounds of a pair without a direct path; it doubles. Every ten minutes a round costs nothing."""
OFFER_REPEAT = 3.0
"""Time after which an unanswered offer is repeated: the other side may have logged in a moment later."""
OFFER_ANSWERED = 0.5
"""Time after an introduction without a path at which our offer is repeated once: the peer may have missed it."""
STABLE_AFTER = 60.0
"""Age at which a direct path counts as stable: the pair's back-off starts from the beginning again."""

PING_ACTIVE = 1.0
"""Interval between pings of the path in use while packets flow."""
PING_IDLE = 10.0
"""Interval between pings of an idle path: below the 30 s after which the strictest NATs forget a UDP flow."""
PING_NOMINATE = 0.2
"""Interval between pings until the other side has followed a switch."""
PING_SUSPECT = 0.4
"""Interval between pings of a path that has stopped answering."""
ACTIVE_FOR = 5.0
"""Packets count as flowing for so long after the engine's counters have grown by more than a keepalive."""
KEEPALIVES = (0, 32, 64)
"""Growth of a counter, in bytes, between two readings that is no user's packet: WireGuard's keepalive is an empty
transport message of 32 bytes, and a keepalive with an old key is followed by that of the handshake. An empty ping has
64 bytes, too."""
ECHO_DATA_LEN = 100
"""Bytes of data in our echo requests, so that they are told from users' packets by their length."""
ECHOES = (160, 192)
"""Bytes of such a request, and of its reply, as WireGuard's message: over IPv4 and over IPv6."""
MAX_ECHOES = 16
"""Echo requests between two readings at most: two viewers, one at each side, ask four times a second each."""
HANDSHAKES = ((92, 148), (148, 92), (240, 240))
"""Bytes (received, sent) of one handshake: for the initiator, for the responder, and when both begin at once."""
ANSWER_WITHIN = 0.6
"""A path is suspect when a ping is unanswered for so long, or for three round trips if these are longer."""
RESCUE_AFTER = 1.0
"""Silence of a path after which the relay is prepared and all other candidates are pinged."""
DEAD_AFTER = 2.8
"""Silence after which a path is dead. With PING_ACTIVE, packets are back on the relay within 5 s."""
SUSPENDED_LONG = 30.0
"""Suspend after which a NAT may have forgotten the flow of a path: the strictest keep one for 30 s."""
WOKEN_DEAD_AFTER = 1.0
"""DEAD_AFTER for a path that has not answered since such a suspend, and while the relay does answer, so the network is
ready: after so long two pings are unanswered."""
OPEN_LOOK = 0.1
"""Time after the opening of a tunnel at which the engine is looked at: a packet that may begin a handshake has left by
then, also on a slow machine."""
OPEN_ANSWER, OPEN_ANSWER_OTHER = 0.4, 0.55
OPEN_SLOWER = 1.5
"""Least time that the answer to an initiation is waited for, by the side that chooses paths and by the other one: two
initiations that cross make each other void, and the next ones do not cross. Three round trips where these are longer.
It grows by this factor with each try: the round trip over a relay is not known, and a new handshake makes the one
before void."""
OPEN_ANEW = 5
"""Handshakes that are begun anew in a row, within Rekey-Timeout. With a loss of a tenth on each of four ways over a
relay, all of them are lost once in 200 times."""
DATA_SILENT = 0.9
"""A path is in doubt when the engine sends but receives nothing for so long, over two readings. A round trip is far
shorter."""
DATA_ASKS = 3
"""Answers in which the peer says that it has sent data; if none of it arrives, the path is given up. Each stands for
two packets, so a path that loses a tenth of its packets is given up wrongly once in a million doubts."""
DATA_LOOK = 0.35
"""Interval between requests for data, and between readings of the engine, while a path is in doubt."""
DATA_SETTLE = 0.25
"""Time within which data must arrive after the peer has said that it sent some: it queues behind other packets."""
DATA_REST = 60.0
"""A peer whose program does not know requests for data is not asked again for so long."""
DATA_GIVEN_AT_ONCE = 2
DATA_GIVEN_REST = 0.2
"""Packets sent through the tunnel upon a peer's request, and the time to the next: requests cannot cause a flood."""
KEEPALIVE_WAIT = 12.0
"""WireGuard answers data with a keepalive after ten seconds (Keepalive-Timeout) if it has no other packet to send."""
REKEY_AFTER = 120.0
"""WireGuard's Rekey-After-Time: while packets flow, a session of this age is replaced by the next."""
REJECT_AFTER = 180.0
"""WireGuard's Reject-After-Time: a session of this age is over."""
HANDSHAKE_OVERDUE = 16.0
"""Delay of a handshake that counts as failed: longer than the initiator's keepalive and two tries. Nothing is lost
before a session is 180 s old."""
REFUSED_FIRST = 60.0
REFUSED_MAX = 3600.0
"""A path that carried no data is not used for so long, doubling: each try costs a second or two of silence."""
MTU_RETRY = 0.4
MTU_TRIES = 3
"""Interval between padded pings, and their number for one size: with a loss of a tenth each way, one size in 150 is
judged wrongly."""
MTU_CONFIRM = 60.0
"""Interval between checks of the found size while packets flow: a changed hop may cost a minute."""
MTU_CONFIRM_REST = 5.0
"""The same while packets are sent and none are received: a stream without answers causes no more checks."""
MTU_RAISE = 600.0
"""Interval between tries of the full size on a path with a smaller one (RFC 8899 §5.1.1, PMTU_RAISE_TIMER)."""
LIVENESS_EVERY = 0.5
LIVENESS_AGAIN = 0.25
LIVENESS_ASKS = 3
LIVENESS_SILENT = 0.75
"""Liveness requests to a peer while somebody watches: interval, interval after an unanswered one, and the number and
time of unanswered ones after which the peer counts as silent. A cut is detected after 1.25 s, which leaves a page the
rest of two seconds. With a loss of a twentieth each way, three requests in a row are lost once in ten minutes."""
LIVENESS_RATE = 200.0
LIVENESS_BURST = 50
"""Liveness requests of all pairs together, a second and as a burst. 200 peers are asked once a second, which still
shows a cut within two seconds and costs some 40 kB/s each way; more peers are asked less often."""
LIVENESS_LOST = 120.0
"""A dead path is asked for so long whether the peer is back; by then its NAT has forgotten the flow, and the address
may be another host's."""
LIVENESS_RTT_WEIGHT = 0.3
"""Weight of a new sample in the smoothed round trip that a viewer sees."""
MTU_RELAYED_AFTER = 3.0
"""Time that the relay carries an idle pair before the size is asked there: most pairs are direct by then, and a
thousand of them would all ask at once."""
TRIGGERED_REST = 0.02
"""Interval between pings of one address that the peer's pings trigger."""
TRUST_FRESH = 2.5
"""A path may be chosen if its last answer is no older."""
SWITCH_GAIN = 0.7
SWITCH_GAIN_MS = 5.0
"""A path of the same kind replaces the one in use only if its round trip is below 0.7 of the other's and 5 ms less."""
SWITCH_REST = 10.0
"""And only if the path in use has this age: prevents flapping."""
REASSERT_AFTER = (1.5, 4.0)
"""Times after a switch, in round trips, at which the endpoint is set again: WireGuard roams back upon a late packet."""
REASSERT_MIN = 0.03

LAZY_IDLE = 300.0
"""A lazy pair without data for so long is folded up. Longer than WireGuard's session of 180 s: a pair that talks every
minute stays open."""
LAZY_QUIET = 0.1
"""Part of that time after which a lazy pair looks for no path any more: it is folded up instead."""
LAZY_CALM = 0.1
"""Part of that time before the pair is folded up in which a viewer's echo requests are left out. WireGuard
answers the last one with a keepalive after 10 s, and makes a new handshake after 15 s without an answer: each
would ring."""
RING_KEPT = 5.0
RING_DATAGRAMS = 16
"""Datagrams that wait for a path at a doorbell, and how long: WireGuard makes a new handshake after 5 s
(Rekey-Timeout), and a session that still holds sends single packets."""

PRESENCE_WAIT = 0.5
"""Longest wait of a ring for the mediator's word on whether the peer is online, before it binds at the relay. The grant
of the relay takes the same trip, so a mediator that answers delays nothing."""
FIRST_STEER_REST = 0.3
"""Delay of a peer's first endpoint on the side that does not choose, and of a tunnel that the peer may open first: a
handshake fits into it."""

RELAY_REFRESH = 20.0
"""Interval of refreshes, which keep NAT and relay binding open."""
RELAY_KEEP = 60.0
"""A relay binding is kept for so long after the switch to a direct path."""
RELAY_WAIT_PEER = (0.2, 0.3, 0.5, 1.0, 2.0, 5.0)
"""Intervals between requests whether the peer is bound; the relay also reports it by itself."""
RELAY_WAIT_REGRANT = 6
"""Such requests in a row after which a new grant is requested, once in about two minutes: one of the two members may
have another port by now."""
RELAY_RETRY = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Intervals between unanswered BINDs or CONFIRMs; the last one repeats."""
RELAY_LOST_AFTER = 3
"""Unanswered refreshes after which the binding counts as lost."""
RELAY_DOUBT = 2.0
"""The relay is refreshed when packets are sent over it and none are received for so long."""
RELAY_WATCH = 60.0
"""For so long after packets have flowed a relay that was silent for `RELAY_DOUBT` is asked whether it is there, where
there is another one: it is found dead before the next packet. Later the refreshes suffice, which cost less."""
RELAY_SECOND = 0.5
"""A relay that is dead is left for the best other one, and after so long for the next as well: if the peer ranks them
differently at this moment, both still meet. Longer than it takes to bind at most distances."""
RELAY_ALONE = 3.0
"""When a relay answers and the peer has not come to it for so long, the next best relay is asked as well."""
RELAYS_ASKED = 3
"""Relays asked at once while none carries: an absent peer costs no more."""
RELAY_DOUBTS = 7
"""Doubts in a row (`RELAY_DOUBT`) after which another relay is asked, although this one answers: longer than the ten
seconds after which WireGuard answers packets that go one way (Keepalive-Timeout)."""
RELAY_GAIN = 0.7
RELAY_GAIN_MS = 10
"""A pair moves to another relay only below 0.7 of the sum of both round trips and 10 ms less."""
RELAY_TIE_MS = 5
"""Sums that differ by no more are equal: two measurements of one relay differ by as much, and nobody notices it."""
RELAY_MOVE_REST = 10.0
"""And only when the relay in use has been used for so long, which prevents flapping."""
RELAY_TRIAL = 15.0
"""Time for the peer to come to a better relay: longer than `RELAY_MOVE_REST`, which the peer may wait."""
RELAY_TRIAL_REST = 60.0
"""A relay that did not answer, or to which the peer did not come, is the last choice for so long."""
METER_QUESTIONS = (0.0, 0.15, 0.3)
"""Offsets of the requests of one series, to every relay: the shortest of three round trips counts, as queues add."""
METER_WAIT = 1.0
"""Wait for answers after the last request of a series."""
METER_EVERY = 300.0
"""Interval between series."""
METER_REST = 5.0
"""Least interval between series that an event has caused."""
RELAY_REGRANT_FIRST = 3
RELAY_REGRANT = 10
"""Unanswered BINDs after which a new grant is requested, at first and then each time: a relay with a changed secret or
clock does not answer old grants, and packets wait meanwhile."""
UDP_SILENT = 3
"""Unanswered messages to the relay over UDP after which TLS is used."""
UDP_SILENT_TUNNEL = 1
"""The same while the TLS connection exists because of other pairs."""
UDP_FIRST_RETRY = 10.0
"""Time to the first check whether UDP works: a slow link's answer may only have been late."""
UDP_RETRY = 60.0
"""Interval between checks whether UDP works again while TLS carries the packets."""
GRANT_RETRY = (1.0, 2.0, 5.0, 15.0, 60.0)
"""Intervals between RelayRequests without a grant; the last one repeats."""
GRANT_RENEW = 3600.0
"""Interval between renewals of a grant, which is valid for six hours: so it outlasts a long absence of the mediator."""

STUN_RETRY = (0.1, 0.2, 0.4)
"""Intervals between binding requests to a server that has not answered in this gathering."""
STUN_GATHER = 0.6
"""Longest gathering: then candidates are offered as far as they are known."""
FAMILY_LEAD = 0.25
"""Wait of an offer for the second address family once all servers of the first have answered (RFC 8305 §5); the second
then follows in another offer."""
STUN_REST = 5.0
"""Gatherings for single peers within this time are one gathering."""
STUN_REFRESH = 25.0
"""Interval between binding requests: keeps the mapping with NAT timeouts of 30 s, and detects a new address."""

MAX_CANDIDATES = 16
"""Candidates of one peer; more are cut off, so that a hostile peer cannot make us send packets everywhere."""
MAX_ROUTES = 24
"""Candidates and peer-reflexive addresses of one peer."""
MAX_OUTSTANDING = 16
"""Pings of one route that may still be answered."""
MAX_STUN_SERVERS = 8
MAX_SRFLX = 4
"""Server-reflexive addresses offered: a symmetric NAT shows another one to each server."""
PONGS_PER_SECOND = 100
"""Pongs to one peer a second: replayed pings must not cause a flood."""
UNPROVEN_BURST = 256
UNPROVEN_RATE = 10.0
"""Datagrams of one pair to addresses that never answered, as a burst and a second. A round sends 8 pings to at most 16
candidates, and begins anew at once when a host moves; later rounds are at least 15 s apart."""
HEARD_BURST = 64
HEARD_RATE = 5.0
"""The same to addresses that a peer sent from but did not offer, including pongs. A separate budget: an attacker who
copies datagrams can exhaust it, but not the budget of the offered candidates."""
UNPROVEN_BURST_ALL = 16_384
UNPROVEN_RATE_ALL = 1_000.0
"""The same for all pairs together: a thousand peers with two candidates each are punched at once, and datagrams past
the limit are sent in the next round. 1,000 probes a second are 1 Mbit/s."""
OFFERS_BURST = 20
OFFERS_RATE = 1.0
"""Offers accepted from one peer, as a burst and a second: a round needs two or three."""
MAX_HEARD_FROM = 8
"""Addresses that one peer sent from and that never answered: a changing NAT causes one or two."""
HEARD_FROM_KEPT = 30.0
"""Such an address is kept for so long if no other needs its place."""
SEEN_PINGS = 256
"""Recorded pings of one peer, none of which is accepted twice: more than a round sends to all candidates of a peer."""
PING_LATE_US = 10_000_000
"""A ping whose number is so many microseconds below the highest is a replay: no path delays a packet by ten seconds."""
NUMBERS_FORGOTTEN = 30.0
"""Time without a ping after which lower numbers are accepted: the peer's clock or program may have gone back."""
ANSWERED_LATELY = 30.0
"""An address at which a ping of ours was answered within this time is the peer's: idle paths are pinged every 10 s."""
INTRODUCED_LATELY = 60.0
"""A peer introduced by the mediator within this time is there. Longer than NUMBERS_FORGOTTEN, so that both can hold."""
HAIRPIN_WAIT = 2.0
"""Longest wait for a datagram to our own outside address to return."""

LOW_TTL = 4
"""TTL of the packet that opens our own NAT before the peer sends: it passes a home router and a carrier's NAT behind
it, and does not reach the peer's NAT."""

SAMPLES = 12
"""Fresh sockets that sample the NAT's allocation of ports: enough to estimate a block's width to a quarter."""
SAMPLE_RETRY = 0.2
SAMPLE_WAIT = 0.6
"""Wait for the answers to the samples; then the received ones are evaluated."""
SAMPLE_REST = 3.0
"""Age at which samples are too old for an offer's prediction: other hosts behind the NAT take ports, too."""
PORT_DOUBT_REST = 60.0
"""Interval between samples from fresh sockets while no STUN server answers the shared port."""
PORT_WAIT_FIRST = 60.0
PORT_WAIT_MAX = 3600.0
PORT_CALM = 3600.0
"""Time between two changes of an unfit port: doubles, and starts anew after a calm hour."""
PORT_TRIAL = 1.5
"""Longest wait for the verdict on a port that no peer knows: longer than STUN_GATHER and SAMPLE_WAIT together."""
PORT_LEAVE = 5.0
"""Longest wait for the next port in the place of such an unfit one: a host with thousands of peers needs seconds."""
PORT_SHARED_TRIES = 3
"""Changes in a row because a port is seen as another one: after three, the router does so with every port."""
PORT_REST = 190.0
"""Rest of a dead port: Linux, which most routers run, forgets a UDP flow after 120 or 180 s without a packet."""
FILTER_RETRY = 0.3
FILTER_TRIES = 4
FILTER_WAIT = 1.5
"""Four requests in 0.9 s: with a loss of ten per cent each way, one test in 800 mistakes losses for a filter."""
MIN_SAMPLES = 4
"""Samples at least: fewer do not reveal how ports are allocated."""
MAX_STEP = 16
"""Largest step between ports of a sequential NAT; some count by two, or by a block's size."""
SEQUENTIAL_WINDOW = 64
"""Ports tried after the last one seen: our own first packets and those of others behind the NAT take some."""
MAX_BLOCK = 512
"""Width of a range that is tried port by port."""
BLOCK_MARGIN = 3
"""Extension of a block beyond the samples, in mean gaps between samples: misses the block's end in one of a hundred."""
LOWEST_PORT = 1024
"""NATs do not use the ports below (RFC 4787 REQ-3)."""
GUESS_PASSES = 2
"""Passes through a window: a probe may be lost, or arrive before the mapping exists."""
GUESS_REST = 15.0
"""Least time between two rounds of guesses at one peer, independent of its messages."""
GUESS_INTERVAL = 0.01
"""Interval between guesses of all pairs of a host together: 100/s (DESIGN §7.6)."""

BIRTHDAY_SOCKETS = 256
BIRTHDAY_PROBES = 1024
"""With so many mappings among 64,512 ports, so many guesses hit one of them in 98 of 100 attempts."""
BIRTHDAY_AFTER = 1.0
"""Delay after the start of a punch: a path that other methods can find is found by then."""
BIRTHDAY_HEAD_START = 1.3
"""Lead of the mappings before the guesses: half of them exist when the guesses begin."""
BIRTHDAY_LATEST = 3.0
"""Time after the last guess at which an attempt has failed."""
BIRTHDAY_BACK_OFF = 3600.0
"""Time between attempts with one peer."""
BIRTHDAY_HOLD = 30.0
"""Validity of a promise to take part; no other peer gets one meanwhile. An attempt takes 16 s at most."""
REWRITE_PINGS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Times of pings after a hit: the system needs a few hundredths of a second to rewrite ports."""
REWRITE_TRIAL = 6.0
"""A rewrite is removed if no chosen path uses it by then."""
REWRITE_ORPHAN = 120.0
"""A rewrite of an earlier agent is removed if no path uses it by then."""
