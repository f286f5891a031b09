"""The pool of host memory: arrays come back by themselves, never overlap, and take little more than is needed."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from xconv.backend import hostpool
from xconv.backend.hostpool import ALIGN, SMALL, HostPool

THREADS = 8
SEGMENT = hostpool.SEGMENT[1]


def address(a: np.ndarray) -> int:
    return a.__array_interface__["data"][0]


def settled() -> None:
    """What is unreachable is gone, on every Python."""
    gc.collect()


VIEWS: dict[str, Callable[[np.ndarray], object]] = {
    "slice": lambda a: a[10:20],
    "reversed": lambda a: a[::-1],
    "reshaped": lambda a: a.reshape(2, -1),
    "transposed": lambda a: a.reshape(2, -1).T,
    "view of a view": lambda a: a.reshape(4, -1)[1:3, ::2],
    "of another dtype": lambda a: a.view(np.uint8),
    "memoryview": memoryview,
    "field of a tuple": lambda a: ({"saved": a[None]},),
    "iterator": np.nditer,
    "broadcast": lambda a: np.broadcast_to(a, (3, *a.shape)),
}


@pytest.mark.parametrize("kind", VIEWS)
def test_memory_is_not_handed_out_again_while_a_view_holds_it(kind):
    pool = HostPool()
    first = pool.empty((SMALL,), np.float32)
    where = address(first)
    held = VIEWS[kind](first)
    del first
    settled()
    others = [pool.empty((SMALL,), np.float32) for _ in range(5)]
    assert where not in [address(a) for a in others]
    del held
    settled()
    again = pool.empty((SMALL,), np.float32)
    assert address(again) == where


def test_arrays_of_the_pool_are_plain_aligned_and_of_the_asked_shape():
    pool = HostPool()
    for shape, dtype in [((3, 5), np.float32), ((0, 7), np.float64), ((300, 200), np.float64), ((SMALL,), np.uint8)]:
        a = pool.empty(shape, dtype)
        assert type(a) is np.ndarray
        assert a.shape == shape
        assert a.dtype == dtype
        assert a.flags.c_contiguous
        assert a.flags.writeable
        if a.nbytes >= SMALL:
            assert address(a) % ALIGN == 0
        a[...] = 1


def held_and_idle(pool):
    """Bytes of segments, of what waits, and of holes; idle is what the pool says, and nothing is there twice."""
    waiting = [
        (id(segment), start, start + size) for size, blocks in pool._ready.items() for _, segment, start in blocks
    ]
    holes = [(id(segment), *hole) for segment in pool._segments for hole in segment.holes]
    for (one, _, end), (other, start, _) in itertools.pairwise(sorted(waiting + holes)):
        assert one != other or end <= start
    waits, free = (sum(end - start for _, start, end in places) for places in (waiting, holes))
    assert pool._ready_bytes == waits and pool._idle_bytes == waits + free
    return sum(segment.size for segment in pool._segments), waits, free


def test_the_pool_keeps_no_more_than_its_limit():
    pool = HostPool(limit=10 * SMALL)
    many = [pool.empty((SMALL,), np.uint8) for _ in range(30)]
    kept = pool.empty((20 * SMALL,), np.uint8)
    assert held_and_idle(pool)[0] == 50 * SMALL
    del many
    settled()
    total, waits, free = held_and_idle(pool)
    assert (total, waits + free) == (30 * SMALL, 10 * SMALL)
    del kept
    settled()
    assert held_and_idle(pool) == (10 * SMALL, 0, 10 * SMALL)


def test_neighbours_are_joined_and_cut_anew(monkeypatch):
    """Other sizes than before need no more memory."""
    pool, mb = HostPool(), 1 << 20
    monkeypatch.setattr(hostpool, "SEGMENT", (SEGMENT, SEGMENT))
    many = [pool.empty((mb,), np.uint8) for _ in range(32)]
    assert held_and_idle(pool) == (SEGMENT, 0, 0)
    del many[:16:2]
    settled()
    assert held_and_idle(pool) == (SEGMENT, 8 * mb, 0)
    again = pool.empty((mb,), np.uint8)  # one that waits for its size
    assert held_and_idle(pool) == (SEGMENT, 7 * mb, 0)
    del many[:8]
    settled()
    assert held_and_idle(pool) == (SEGMENT, 15 * mb, 0)
    whole = [pool.empty((6 * mb,), np.uint8), pool.empty((7 * mb,), np.uint8)]
    assert held_and_idle(pool) == (SEGMENT, 0, 2 * mb)
    whole += [pool.empty((mb,), np.float32)]  # for which there is no room
    assert held_and_idle(pool)[0] == 2 * SEGMENT
    large = pool.empty((2 * SEGMENT,), np.uint8)
    assert held_and_idle(pool)[0] == 4 * SEGMENT
    del whole, many, again, large
    settled()
    total, waits, free = held_and_idle(pool)
    assert total == waits + free == 4 * SEGMENT
    assert waits == 0  # so much is joined at once, and is there for any size
    assert pool.empty((2 * SEGMENT // 3,), np.uint8).nbytes and held_and_idle(pool)[0] == 4 * SEGMENT


def test_the_pool_grows_with_what_is_asked_of_it():
    pool, least = HostPool(), hostpool.SEGMENT[0]
    few = pool.empty((SMALL,), np.uint8)
    assert held_and_idle(pool)[0] == least  # of which the rest is not touched
    many = [pool.empty((least,), np.uint8) for _ in range(300)]
    sizes = [segment.size for segment in pool._segments]
    assert sizes == sorted(sizes) and sizes[-1] == SEGMENT and sum(sizes) < 300 * least + 2 * SEGMENT
    assert few.nbytes + sum(array.nbytes for array in many) == SMALL + 300 * least


def test_arrays_of_any_sizes_never_overlap():
    rng, pool, held = np.random.default_rng(0), HostPool(limit=20 * SEGMENT), {}
    for step in range(3000):
        if held and (len(held) > 25 or rng.random() < 0.45):
            number = list(held)[rng.integers(len(held))]
            array = held.pop(number)
            assert (array == number).all()
            del array
        else:
            size = int(rng.choice([SMALL, 3 * SMALL, 40 * SMALL, 333_333]) * rng.integers(1, 4))
            held[step] = pool.empty((size // 8,), np.int64)
            held[step][...] = step
        if step % 100 == 0:
            held_and_idle(pool)
    assert all((array == number).all() for number, array in held.items())
    assert held_and_idle(pool)[0] < 4 * SEGMENT  # at most 26 arrays of 4 MB are held, a third of that on the average


def test_a_collection_may_give_back_while_places_are_joined(monkeypatch):
    """Python may collect garbage, and so give arrays back, in the middle of anything."""
    pool, cycles = HostPool(), []
    monkeypatch.setattr(hostpool, "SEGMENT", (SEGMENT, SEGMENT))
    first = [pool.empty((SEGMENT // 8,), np.uint8) for _ in range(8)]
    cycles += [first.pop() for _ in range(2)]
    joined = hostpool._Segment.joined

    def collecting(segment):
        if cycles:
            cycles.pop()
        joined(segment)
        if cycles:
            cycles.pop()

    monkeypatch.setattr(hostpool._Segment, "joined", collecting)
    del first
    settled()
    assert not cycles
    total, waits, free = held_and_idle(pool)
    assert total == SEGMENT == waits + free and waits > 0
    assert pool.empty((SEGMENT,), np.uint8).nbytes == SEGMENT and held_and_idle(pool)[0] == SEGMENT


def test_arrays_may_die_while_one_is_handed_out():
    """From Python 3.12 on garbage may be collected between any two lines, and a signal's handler runs there anyway."""
    pool, dying = HostPool(), []

    class Ready(dict):
        def get(self, size):
            found = super().get(size)
            dying.clear()  # more than may wait as it is
            return found

    waiting = [pool.empty((SEGMENT // 8,), np.uint8) for _ in range(3)]
    dying += [pool.empty((SEGMENT // 4,), np.uint8) for _ in range(4)]
    del waiting
    settled()
    pool._ready = Ready(pool._ready)
    made = [pool.empty((SEGMENT // 8,), np.uint8)]
    assert not dying
    pool._ready = dict(pool._ready)
    made += [pool.empty((SEGMENT // 16,), np.uint8) for _ in range(40)]
    places = sorted((address(a), address(a) + a.nbytes) for a in made)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(places))
    del made
    settled()
    total, waits, free = held_and_idle(pool)
    assert total == waits + free


def test_who_interrupts_the_pool_gets_memory_beside_it():
    """Such as a signal's handler that predicts."""
    pool, got = HostPool(), []

    class Ready(dict):
        def get(self, size):
            got.append(pool.empty((SMALL,), np.float32))
            return super().get(size)

    pool._ready = Ready()
    mine = pool.empty((SMALL,), np.float32)
    mine[...], got[0][...] = 1, 2
    assert (mine == 1).all() and len(got) == 1 and held_and_idle(pool)[0] == hostpool.SEGMENT[0]


def test_where_memory_is_short_what_is_idle_goes_back_and_no_more_is_asked_for(monkeypatch):
    pool, made, room = HostPool(), hostpool._Segment, [3 * SEGMENT]

    def segment(size):
        if size + sum(one.size for one in pool._segments) > room[0]:
            raise MemoryError
        return made(size)

    monkeypatch.setattr(hostpool, "_Segment", segment)
    first = pool.empty((2 * SEGMENT + SEGMENT // 2,), np.uint8)
    second = pool.empty((SEGMENT // 4,), np.uint8)  # a quarter of what there is would be more than there is room for
    assert held_and_idle(pool)[0] == 2 * SEGMENT + SEGMENT * 3 // 4
    del first
    settled()
    third = pool.empty((2 * SEGMENT + SEGMENT * 3 // 4,), np.uint8)
    assert held_and_idle(pool) == (3 * SEGMENT, 0, 0)
    with pytest.raises(MemoryError):
        pool.empty((SEGMENT,), np.uint8)
    assert held_and_idle(pool) == (3 * SEGMENT, 0, 0)
    del second, third
    settled()
    assert pool.empty((SMALL,), np.uint8).nbytes == SMALL


def test_arrays_made_in_many_threads_never_overlap():
    pool = HostPool()

    def use(number: int) -> int:
        wrong, held = 0, []
        for i in range(300):
            a = pool.empty((SMALL // 4 + 1024 * (i % 3),), np.float32)
            a[...] = number
            held.append(a)
            if len(held) > 3:
                wrong += int((held.pop(0) != number).sum())
        return wrong

    with ThreadPoolExecutor(THREADS) as threads:
        assert list(threads.map(use, range(THREADS))) == [0] * THREADS
    gc.collect()
    held_and_idle(pool)
