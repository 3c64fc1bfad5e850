"""No collection while it is paused, and afterwards as before."""

from __future__ import annotations

import gc

import pytest

from netctl.system.collection import paused


def test_nothing_is_collected_meanwhile_and_all_is_as_before() -> None:
    collections: list[str] = []

    def seen(phase: str, info: dict[str, int]) -> None:
        collections.append(phase)

    gc.callbacks.append(seen)
    try:
        with paused():
            kept = [[number] for number in range(100_000)]
            assert collections == []
        assert gc.isenabled()
        assert len(kept) == 100_000
        kept = [[number] for number in range(100_000)]
        assert collections, "else this test sees none at all"
    finally:
        gc.callbacks.remove(seen)


def test_an_error_leaves_it_as_before() -> None:
    with pytest.raises(ZeroDivisionError), paused():
        raise ZeroDivisionError
    assert gc.isenabled()


def test_who_has_switched_it_off_finds_it_off() -> None:
    gc.disable()
    try:
        with paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()
