# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""PagePool: each behaviour, each message, and random histories against a model."""

import doctest
import re
from contextlib import nullcontext
from itertools import count, islice

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from jaxinfer import page_pool
from jaxinfer.page_pool import PagePool, PagePoolExhausted, SharedPageError


def filled(lengths):
    """8 pages of 4 tokens; the sequences hold `lengths` tokens, no more reserved."""
    pool = PagePool(8, 4)
    pool.reserve(lengths)
    for seq, length in lengths.items():
        pool.append(seq, length)
    return pool


def pages(pool, *seqs):
    return [pool.page_list([seq])[1].tolist() for seq in seqs]


def test_docstring_example():
    failed, attempted = doctest.testmod(page_pool)
    assert (failed, attempted > 0) == (0, True)


def test_reserve_counts_from_the_length_and_keeps_what_is_reserved():
    pool = filled({"a": 3})
    for num_tokens, capacity in ((1, 4), (6, 12), (2, 12)):
        pool.reserve({"a": num_tokens})
        assert pool.capacity("a") == capacity
    pool.append("a")
    assert (pool.lengths(["a"]), pool.num_free) == (4, 5)


def test_reserve_is_all_or_nothing():
    pool = filled({"a": 4})
    with pytest.raises(PagePoolExhausted, match="needs 8 more pages, but 7 of 8 are"):
        pool.reserve({"a": 4, "b": 28})
    assert "b" not in pool
    assert (pool.capacity("a"), pool.num_free) == (4, 7)
    pool.reserve({"a": 4, "b": 24})
    assert pool.num_free == 0


def test_lowest_free_page_comes_first_whatever_was_freed_first():
    pool = filled({"a": 8, "b": 4, "c": 4, "d": 4})
    for seq in "bca":
        pool.free(seq)
    pool.reserve({"e": 20})
    assert pages(pool, "d", "e") == [[4], [0, 1, 2, 3, 5]]


def test_fork_shares_full_pages_and_the_last_owner_frees_them():
    pool = filled({"a": 11})
    pool.fork("a", "b")
    pool.fork("a", "c", num_tokens=4)
    assert pool.lengths("abc").tolist() == [11, 8, 4]
    assert pages(pool, *"abc") == [[0, 1, 2], [0, 1], [0]]
    pool.reserve({"a": 2, "b": 1, "c": 1})
    assert pages(pool, *"abc") == [[0, 1, 2, 3], [0, 1, 4], [0, 5]]
    for seq, num_free in (("a", 4), ("c", 5), ("b", 8)):
        pool.free(seq)
        assert pool.num_free == num_free


def test_truncate_gives_back_pages_and_reservation():
    pool = filled({"a": 10})
    pool.reserve({"a": 10})
    for length, num_pages in ((10, 3), (4, 1), (0, 0)):
        pool.truncate("a", length)
        assert (pool.lengths(["a"]), pool.num_free) == (length, 8 - num_pages)
    assert "a" in pool


def test_shared_page_is_not_written_until_it_is_inherited_or_left():
    pool = filled({"a": 8})
    pool.fork("a", "b")
    pool.truncate("a", 5)  # the tokens left of "a" end inside page 1
    message = "'a' must be the only owner .* got page 1 with 2 owners: .* to 4 tokens"
    with pytest.raises(SharedPageError, match=message):
        pool.append("a")
    with pytest.raises(SharedPageError, match=message):
        pool.reserve({"a": 1, "c": 1})
    assert "c" not in pool
    pool.reserve({"a": 0, "b": 1})  # "b" writes into a new page
    pool.free("b")
    pool.append("a", 3)
    pool.fork("a", "c")
    pool.truncate("a", 4)
    pool.reserve({"a": 1})
    assert pages(pool, "a", "c") == [[0, 2], [0, 1]]


def test_arrays():
    pool = filled({"a": 9, "b": 1, "c": 0})
    table = pool.page_table("bac", width=4)
    assert table.tolist() == [[3, -1, -1, -1], [0, 1, 2, -1], [-1, -1, -1, -1]]
    assert [a.tolist() for a in pool.page_list("bac")] == [[0, 1, 4, 4], [3, 0, 1, 2]]
    for seqs, width in (("bac", 3), ("c", 0), ("", 0)):
        arrays = pool.page_table(seqs), pool.lengths(seqs), *pool.page_list(seqs)
        assert arrays[0].shape == (len(seqs), width)
        assert [a.dtype for a in arrays] == [np.int32] * 4


UNKNOWN = "seq must be a sequence of the pool, got 'x': never reserved or forked, or"


@pytest.mark.parametrize(
    ("method", "args", "message"),
    [
        ("__init__", (0, 4), "num_pages must be an integer >= 1, got 0"),
        ("__init__", (8, "4"), "page_size must be an integer >= 1, got '4'"),
        ("reserve", ({"b": -1},), "num_tokens['b'] must be an integer >= 0, got -1"),
        ("append", ("a", 3), "from 0 to 2, as many as are reserved for seq 'a', got 3"),
        ("fork", ("a", "a"), "child must be a new sequence, got the known 'a'"),
        ("fork", ("a", "b", 5), "num_tokens must be a multiple of page_size = 4"),
        ("fork", ("a", "b", 8), "from 0 to 6, the length of parent 'a', got 8"),
        ("truncate", ("a", -1), "length must be an integer from 0 to 6"),
        ("truncate", ("a", 7), "from 0 to 6, the length of seq 'a', got 7"),
        ("page_table", ("a", 1), "width must be an integer >= 2, the most pages of a"),
        *[("fork", ("x", "b"), UNKNOWN), ("truncate", ("x", 0), UNKNOWN)],
        *[(name, "x", UNKNOWN) for name in ("append", "capacity", "free", "lengths")],
        *[(name, "x", UNKNOWN) for name in ("page_table", "page_list")],
    ],
)
def test_messages(method, args, message):
    pool = filled({"a": 6, "x": 6})
    pool.free("x")
    with pytest.raises(ValueError, match=re.escape(message)):
        getattr(pool, method)(*args)


SEQS = st.integers(0, 3)
KNOWN = st.runner().flatmap(lambda self: st.sampled_from([*self.seqs] or [0]))


class PagePoolHistory(RuleBasedStateMachine):
    """Any calls in any order, against a model that changes only if the call succeeds.

    The model is the tokens and pages of each sequence, and a cache: every new token is
    a fresh number, written through the pages of its sequence. As long as each sequence
    reads its own numbers back, no page had two writers.
    """

    @initialize(num_pages=st.integers(4, 8), page_size=st.integers(1, 4))
    def start(self, num_pages, page_size):
        self.pool, self.size, self.seqs = PagePool(num_pages, page_size), page_size, {}
        self.cache, self.fresh = np.full((num_pages, page_size), -1), count()
        self.reserve({0: 2 * page_size})
        self.append(0, 2 * page_size)
        self.fork(0, 1, None)

    def find(self, seq):
        return self.seqs.get(seq, ([], []))

    def owners(self, page):
        return sum(page in listed for _, listed in self.seqs.values())

    def shared(self, seq):
        """Whether the next token of `seq` goes into a page with several owners."""
        tokens, listed = self.find(seq)
        return any(self.owners(page) > 1 for page in listed[len(tokens) // self.size :])

    def succeeds(self, expected, method, *args):
        """Calls the pool, which must raise `expected` unless that is None."""
        with pytest.raises(expected) if expected else nullcontext():
            method(*args)
        return expected is None

    @rule(num_tokens=st.dictionaries(SEQS, st.integers(0, 7), max_size=3))
    def reserve(self, num_tokens):
        free = [p for p in range(self.pool.num_pages) if not self.owners(p)]
        needed, after = 0, {}
        for seq, n in num_tokens.items():
            tokens, listed = self.find(seq)
            new = max(0, -(-(len(tokens) + n) // self.size) - len(listed))
            after[seq] = tokens, listed + free[needed : needed + new]
            needed += new
        expected = PagePoolExhausted if needed > len(free) else None
        if any(n and self.shared(seq) for seq, n in num_tokens.items()):
            expected = SharedPageError
        if self.succeeds(expected, self.pool.reserve, num_tokens):
            self.seqs |= after

    @rule(seq=KNOWN, n=st.none() | st.integers(0, 7))
    def append(self, seq, n):
        tokens, listed = self.find(seq)
        room = len(listed) * self.size - len(tokens)
        n = room if n is None else n
        expected = SharedPageError if n and self.shared(seq) else None
        expected = expected if seq in self.seqs and n <= room else ValueError
        if self.succeeds(expected, self.pool.append, seq, n):
            for token in islice(self.fresh, n):
                row, slot = divmod(len(tokens), self.size)
                self.cache[listed[row], slot] = token
                tokens.append(token)

    @rule(parent=KNOWN, child=SEQS, n=st.none() | st.integers(0, 7))
    def fork(self, parent, child, n):
        tokens, listed = self.find(parent)
        num_pages, rest = divmod(len(tokens) if n is None else n, self.size)
        known = parent in self.seqs and child not in self.seqs
        fits = n is None or (rest == 0 and n <= len(tokens))
        expected = None if known and fits else ValueError
        if self.succeeds(expected, self.pool.fork, parent, child, n):
            self.seqs[child] = tokens[: num_pages * self.size], listed[:num_pages]

    @rule(seq=KNOWN, drop=st.sampled_from([1, 2, 3, 5, 0, -1]))
    def truncate(self, seq, drop):
        tokens, listed = self.find(seq)
        length = len(tokens) - drop
        fits = seq in self.seqs and 0 <= length <= len(tokens)
        if self.succeeds(None if fits else ValueError, self.pool.truncate, seq, length):
            del tokens[length:], listed[-(-length // self.size) :]

    @rule(seq=KNOWN)
    def free(self, seq):
        if self.succeeds(None if seq in self.seqs else ValueError, self.pool.free, seq):
            del self.seqs[seq]

    @invariant()
    def pool_is_the_model(self):
        pool = self.pool
        for seq, (tokens, listed) in self.seqs.items():
            assert pages(pool, seq) == pool.page_table([seq]).tolist() == [listed]
            assert pool.lengths([seq]) == len(tokens)
            assert pool.capacity(seq) == len(listed) * self.size
            assert self.cache[listed].flatten()[: len(tokens)].tolist() == tokens
            num_written = -(-len(tokens) // self.size)
            assert all(self.owners(page) == 1 for page in listed[num_written:])
        owners = [self.owners(page) for page in range(pool.num_pages)]
        assert (pool._num_owners, pool.num_free) == (owners, owners.count(0))
        assert [seq in pool for seq in range(4)] == [s in self.seqs for s in range(4)]


TestPagePoolHistory = PagePoolHistory.TestCase
TestPagePoolHistory.settings = settings(max_examples=200, deadline=None, database=None)
