from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from sarguard.reference.training.prefetch import prefetch


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_order_is_kept(count: int) -> None:
    assert list(prefetch(str, range(count))) == [str(n) for n in range(count)]


def test_the_next_item_is_made_while_one_is_used() -> None:
    made = threading.Event()

    def make(number: int) -> int:
        if number == 1:
            made.set()
        return number

    found = prefetch(make, range(3))
    assert next(found) == 0
    assert made.wait(5), "item 1 was not begun while item 0 was used"
    assert list(found) == [1, 2]


def test_no_more_than_one_item_is_made_ahead() -> None:
    begun: list[int] = []

    def make(number: int) -> int:
        begun.append(number)
        return number

    found = prefetch(make, range(100))
    assert [next(found), next(found)] == [0, 1]
    found.close()
    assert begun == [0, 1, 2]


def test_a_fault_in_making_reaches_the_caller() -> None:
    def make(number: int) -> int:
        if number == 2:
            raise RuntimeError("cannot make 2")
        return number

    found = prefetch(make, range(5))
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(RuntimeError, match="cannot make 2"):
        next(found)


def test_a_fault_in_the_items_reaches_the_caller() -> None:
    def items() -> Iterator[int]:
        yield 0
        raise RuntimeError("no more items")

    with pytest.raises(RuntimeError, match="no more items"):
        list(prefetch(str, items()))
