"""What a relay lets through: rates a pair and a member, a day's quota, and who is charged."""

from __future__ import annotations

from mediator.core.relay_limits import ASIDE_SHARE, DAY_S, MIN_ASIDE, MIN_BURST, Ledger, Limits, TokenBucket


def test_the_bucket_holds_a_burst_and_refills() -> None:
    bucket = TokenBucket(1000.0, 500.0, 0.0)
    assert bucket.take(500, 0.0)
    assert not bucket.take(1, 0.0)
    assert bucket.take(100, 0.1)
    assert not bucket.take(501, 60.0)
    assert bucket.refused == 502


def test_a_pair_has_its_own_rate() -> None:
    ledger = Ledger(Limits(pair_rate=1000))
    one, other = ledger.toll(1, 2, 0.0), ledger.toll(1, 3, 0.0)
    assert one.take(MIN_BURST, 0.0)
    assert not one.take(1, 0.0)
    assert other.take(1, 0.0)
    assert one.take(1000, 1.0)
    assert (one.passed, one.refused) == (MIN_BURST + 1000, 1)


def test_a_member_has_one_rate_for_all_its_peers() -> None:
    ledger = Ledger(Limits(member_rate=1000))
    assert ledger.toll(1, 2, 0.0).take(MIN_BURST, 0.0)
    assert not ledger.toll(1, 3, 0.0).take(1, 0.0)
    assert ledger.toll(3, 1, 0.0).take(1, 0.0)
    assert ledger.account(1, 0.0).refused == 1


def test_a_quota_counts_both_ways_and_ends_with_the_day() -> None:
    ledger = Ledger(Limits(quota=1000))
    there, back = ledger.toll(1, 2, 0.0), ledger.toll(2, 1, 0.0)
    assert there.take(600, 0.0)
    assert back.take(400, 1.0)
    assert not there.take(1, 2.0)
    assert not back.take(1, 2.0)
    assert not ledger.toll(3, 1, 2.0).take(1, 2.0)
    assert ledger.account(3, 2.0).over_quota == 0
    assert ledger.account(1, 2.0).over_quota == 2
    assert there.take(1000, DAY_S + 2)
    account = ledger.account(1, 2.0)
    assert (account.sent, account.received, account.day) == (1600, 400, 1000)


def test_without_limits_all_passes_and_is_counted() -> None:
    ledger = Ledger(Limits(pair_rate=0))
    toll = ledger.toll(1, 2, 0.0)
    assert all(toll.take(1 << 30, 0.0) for _ in range(4))
    assert [account.member for account in ledger.accounts()] == [1, 2]
    assert ledger.account(2, 0.0).received == 4 << 30


def test_what_is_set_aside_counts_at_once_and_comes_back() -> None:
    ledger = Ledger(Limits(pair_rate=100 * MIN_ASIDE, member_rate=200 * MIN_ASIDE, quota=50 * MIN_ASIDE))
    toll = ledger.toll(1, 2, 0.0)
    # The pair's bucket holds a tenth of a second: ten, of which a quarter may be set aside.
    aside = toll.set_aside(100 * MIN_ASIDE, 0.0)
    assert aside == 10 * MIN_ASIDE * ASIDE_SHARE
    account, other = ledger.account(1, 0.0), ledger.account(2, 0.0)
    assert (toll.passed, account.sent, account.day, other.received, other.day) == (aside,) * 5
    toll.give_back(aside)
    assert (toll.passed, account.sent, account.day, other.received, other.day) == (0,) * 5
    assert toll.take(10 * MIN_ASIDE, 0.0), "all of the burst is there again"
    assert toll.set_aside(MIN_ASIDE, 0.0) == 0
    assert toll.refused == 0, "asking is no refusal"


def test_nothing_is_set_aside_near_a_limit() -> None:
    plenty = Ledger(Limits(pair_rate=0))
    assert plenty.toll(1, 2, 0.0).set_aside(MIN_ASIDE, 0.0) == MIN_ASIDE
    assert plenty.toll(1, 2, 0.0).set_aside(MIN_ASIDE - 1, 0.0) == 0
    near = Ledger(Limits(pair_rate=0, quota=4 * MIN_ASIDE))
    toll = near.toll(1, 2, 0.0)
    assert toll.set_aside(10 * MIN_ASIDE, 0.0) == MIN_ASIDE
    assert toll.set_aside(10 * MIN_ASIDE, 0.0) == 0, "a quarter of what is left is not worth it"
    assert toll.set_aside(10 * MIN_ASIDE, DAY_S + 1) == MIN_ASIDE
    assert Ledger(Limits(pair_rate=0, member_rate=1)).toll(1, 2, 0.0).set_aside(4 * MIN_BURST, 0.0) == 0
