"""A member stays with one store, whichever of its mediators it reaches."""

from __future__ import annotations

import pytest

from netctl.model.errors import RemoteError
from netctl.session import KnownStores

ONE, TWO, THREE = "one:8443", "two:8443", "three:8443"


def refused(known: KnownStores, mediator: str, store: str) -> str:
    with pytest.raises(RemoteError) as caught:
        known.check(mediator, store)
    assert caught.value.code == "login.other-store"
    assert known.trouble == str(caught.value)
    return str(caught.value)


def test_mediators_of_one_store_are_as_good_as_one_another() -> None:
    known = KnownStores()
    for mediator in (ONE, TWO, THREE, ONE):
        known.check(mediator, "a")
    assert known.trouble is None


def test_one_with_another_store_is_refused_for_as_long_as_a_mediator_stands_for_the_first() -> None:
    known = KnownStores()
    known.check(ONE, "a")
    said = refused(known, TWO, "b")
    assert TWO in said
    assert ONE in said
    known.check(ONE, "a")
    assert known.trouble is not None, "it is still so"
    refused(known, TWO, "b")
    known.check(TWO, "a")
    assert known.trouble is None, "it was started with the same store"


def test_a_store_that_was_lost_and_begun_anew_is_believed_from_the_mediator_that_had_it() -> None:
    known = KnownStores()
    known.check(ONE, "a")
    known.check(ONE, "b")
    assert known.trouble is None
    known.check(TWO, "b")
    refused(known, THREE, "a")


def test_of_two_that_had_it_the_first_with_a_new_one_waits_for_the_second() -> None:
    known = KnownStores()
    known.check(ONE, "a")
    known.check(TWO, "a")
    refused(known, ONE, "b")
    known.check(TWO, "b")
    known.check(ONE, "b")
    assert known.trouble is None


def test_what_is_no_longer_in_the_document_does_not_count() -> None:
    known = KnownStores()
    known.check(ONE, "a")
    refused(known, TWO, "b")
    known.use({TWO})
    assert known.trouble is None
    known.check(TWO, "b")


def test_a_mediator_of_before_stores_had_names_is_no_trouble() -> None:
    known = KnownStores()
    known.check(ONE, "")
    known.check(TWO, "a")
    known.check(ONE, "")
    assert known.trouble is None
