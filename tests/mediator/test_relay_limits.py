"""What a relay lets through: rates a pair and a member, a day's quota, and who is charged."""

from __future__ import annotations

from mediator.core.relay_limits import DAY_S, MIN_BURST, Ledger, Limits, TokenBucket


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
