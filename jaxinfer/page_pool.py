# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""PagePool: which sequence owns which pages of a paged KV cache.

Host bookkeeping only: integers and lists, no device arrays. Every method checks
first and changes afterwards, so a call that raises has changed nothing. The pool
takes no lock: use it from one thread.
"""

import heapq
import operator
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


class PagePoolExhausted(RuntimeError):  # noqa: N818
    """A reservation needs more pages than are free."""


class SharedPageError(ValueError):
    """A new token would be written into a page that has more than one owner."""


@dataclass(slots=True)
class _Seq:
    pages: list[int] = field(default_factory=list)  # written ones first, then reserved
    length: int = 0  # tokens


def _integer(
    name: str, value: Any, low: int, high: int | None = None, reason: str = ""
) -> int:
    """`value` as an int within low..high; `reason` tells where the limit is from."""
    try:
        number = operator.index(value)
    except TypeError:
        number = low - 1
    if number < low or (high is not None and number > high):
        limits = f">= {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} must be an integer {limits}{reason}, got {value!r}")
    return number


class PagePool:
    """Hands out, shares and takes back the pages of a paged KV cache.

    A sequence is named by any hashable key. `reserve` gives it pages ahead of its
    tokens, `append` counts tokens into them, `free` gives the pages back. The lowest
    free page is handed out first (O(log num_pages)): which page comes next depends
    on what is free now, not on the order in which it was freed, so equal occupancy
    gives equal page tables, and the pages in use stay near the front of the cache.
    Any method that is given a sequence the pool does not know, or no longer knows,
    raises a ValueError that names it; only `reserve` and `fork` start sequences.

    Example:
        >>> pool = PagePool(num_pages=8, page_size=4)
        >>> pool.reserve({"a": 6})
        >>> pool.append("a", 6)
        >>> pool.fork("a", "b")  # shares the one full page of "a"
        >>> pool.reserve({"a": 3, "b": 1})
        >>> pool.page_table(["a", "b"]).tolist()
        [[0, 1, 2], [0, 3, -1]]
        >>> pool
        PagePool(num_pages=8, page_size=4, num_free=4, num_seqs=2)

    Args:
        num_pages: pages in the cache, P of `k_pages [P, page_size, K, H]`.
        page_size: tokens per page.

    Raises:
        ValueError: an argument is not an integer >= 1.
    """

    def __init__(self, num_pages: int, page_size: int):
        self._num_pages = _integer("num_pages", num_pages, 1)
        self._page_size = _integer("page_size", page_size, 1)
        self._free = list(range(self._num_pages))  # a heap: ascending order is one
        self._num_owners = [0] * self._num_pages  # 0 exactly for the pages in _free
        self._seqs: dict[Hashable, _Seq] = {}

    @property
    def num_pages(self) -> int:
        """Pages in the pool, free or not."""
        return self._num_pages

    @property
    def page_size(self) -> int:
        """Tokens per page."""
        return self._page_size

    @property
    def num_free(self) -> int:
        """Pages that no sequence owns."""
        return len(self._free)

    def __contains__(self, seq: Hashable) -> bool:
        return seq in self._seqs

    def __repr__(self) -> str:
        return (
            f"PagePool(num_pages={self._num_pages}, page_size={self._page_size}, "
            f"num_free={self.num_free}, num_seqs={len(self._seqs)})"
        )

    def capacity(self, seq: Hashable) -> int:
        """Tokens that the pages of `seq` hold: its length and what is reserved."""
        return len(self._find(seq).pages) * self._page_size

    def reserve(self, num_tokens: Mapping[Any, int]) -> None:
        """Makes room for tokens to come: for all the sequences, or for none.

        Afterwards `capacity(seq)` is at least the length of `seq` + `num_tokens[seq]`.
        Pages reserved earlier count, and none is given back. A key that the pool does
        not know starts a sequence of length 0.

        Args:
            num_tokens: sequence -> tokens to make room for, beyond its length.

        Raises:
            PagePoolExhausted: together they need more pages than are free.
            SharedPageError: the next token of a sequence would go into a shared page.
            ValueError: a number of tokens is not an integer >= 0.
        """
        needed: dict[Hashable, int] = {}
        for key, value in num_tokens.items():
            count = _integer(f"num_tokens[{key!r}]", value, 0)
            seq = self._seqs.get(key, _Seq())
            if count > 0:
                self._check_writable(key, seq)
            num_pages = self._pages_for(seq.length + count)
            needed[key] = max(0, num_pages - len(seq.pages))
        total = sum(needed.values())
        if total > self.num_free:
            raise PagePoolExhausted(
                f"num_tokens needs {total} more pages, but {self.num_free} of "
                f"{self._num_pages} are free: free or truncate sequences, reserve "
                f"fewer tokens, or make a larger pool"
            )
        for key, count in needed.items():
            seq = self._seqs.setdefault(key, _Seq())
            for _ in range(count):
                page = heapq.heappop(self._free)
                self._num_owners[page] = 1
                seq.pages.append(page)

    def append(self, seq: Hashable, num_tokens: int = 1) -> None:
        """Counts `num_tokens` new tokens into the pages reserved for `seq`.

        Raises:
            SharedPageError: the first new token would go into a shared page.
            ValueError: `num_tokens` is not an integer >= 0, or more than is reserved.
        """
        found = self._find(seq)
        room = self.capacity(seq) - found.length
        reason = f", as many as are reserved for seq {seq!r}"
        count = _integer("num_tokens", num_tokens, 0, room, reason)
        if count > 0:
            self._check_writable(seq, found)
        found.length += count

    def fork(
        self, parent: Hashable, child: Hashable, num_tokens: int | None = None
    ) -> None:
        """Starts `child` with the first tokens of `parent`, in the same pages.

        Only full pages are shared, so that neither sequence writes into the other;
        the child computes the rest itself, in pages of its own. Takes no free page.

        Args:
            parent: a sequence of the pool.
            child: a key that the pool does not know yet.
            num_tokens: length of the child, a multiple of `page_size` within the
                length of the parent. None shares all full pages of the parent.

        Raises:
            ValueError: `child` is known already, or `num_tokens` is not as above.
        """
        source = self._find(parent)
        if child in self._seqs:
            raise ValueError(f"child must be a new sequence, got the known {child!r}")
        if num_tokens is None:
            num_tokens = source.length // self._page_size * self._page_size
        reason = f", the length of parent {parent!r}"
        count = _integer("num_tokens", num_tokens, 0, source.length, reason)
        if count % self._page_size:
            raise ValueError(
                f"num_tokens must be a multiple of page_size = {self._page_size} "
                f"(only full pages are shared), got {count}"
            )
        shared = source.pages[: count // self._page_size]
        for page in shared:
            self._num_owners[page] += 1
        self._seqs[child] = _Seq(shared, count)

    def truncate(self, seq: Hashable, length: int) -> None:
        """Drops the tokens of `seq` from `length` on, e.g. rejected speculative ones.

        Pages that hold none of the tokens left are given up, reserved ones included:
        truncating to the present length gives back what was reserved and not used.
        Where `length` falls inside a shared page, the sequence can grow again only
        after the other owners have let go of that page.

        Raises:
            ValueError: `length` is not an integer from 0 to the present length.
        """
        found = self._find(seq)
        reason = f", the length of seq {seq!r}"
        found.length = _integer("length", length, 0, found.length, reason)
        num_kept = self._pages_for(found.length)
        self._release(found.pages[num_kept:])
        del found.pages[num_kept:]

    def free(self, seq: Hashable) -> None:
        """Forgets `seq`; those of its pages that no other sequence owns become free."""
        self._release(self._find(seq).pages)
        del self._seqs[seq]

    def lengths(self, seqs: Iterable[Hashable]) -> np.ndarray:
        """Tokens of each sequence, which is `kv_lens`: int32 [B]."""
        return np.array([self._find(seq).length for seq in seqs], np.int32)

    def page_table(
        self, seqs: Iterable[Hashable], width: int | None = None
    ) -> np.ndarray:
        """The pages of each sequence, reserved ones included, one row per sequence.

        Args:
            seqs: B sequences of the pool.
            width: columns. None means as many as the longest row needs; a fixed
                width keeps the shape, and with it what was compiled for it.

        Returns:
            int32 [B, width]. Entries past the pages of a sequence are -1, never a page
            id: no op reads them, and a token that a decode loop appends beyond what
            was reserved is dropped there, not written into a page of someone else.

        Raises:
            ValueError: a sequence has more pages than `width`.
        """
        rows = [self._find(seq).pages for seq in seqs]
        longest = max(map(len, rows), default=0)
        if width is None:
            width = longest
        width = _integer("width", width, longest, reason=", the most pages of a seq")
        table = np.full((len(rows), width), -1, np.int32)
        for row, pages in zip(table, rows, strict=True):
            row[: len(pages)] = pages
        return table

    def page_list(self, seqs: Iterable[Hashable]) -> tuple[np.ndarray, np.ndarray]:
        """The pages of `page_table` in CSR form, without padding.

        Returns:
            `page_indptr` int32 [B + 1] and `page_indices` int32 [page_indptr[B]]: the
            pages of row i are `page_indices[page_indptr[i]:page_indptr[i + 1]]`.
        """
        rows = [self._find(seq).pages for seq in seqs]
        page_indptr = np.cumsum([0, *map(len, rows)], dtype=np.int32)
        return page_indptr, np.array([p for pages in rows for p in pages], np.int32)

    def _find(self, seq: Hashable) -> _Seq:
        if seq not in self._seqs:
            raise ValueError(
                f"seq must be a sequence of the pool, got {seq!r}: never reserved or "
                f"forked, or already freed"
            )
        return self._seqs[seq]

    def _pages_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self._page_size)

    def _check_writable(self, key: Hashable, seq: _Seq) -> None:
        # Pages are shared full and reserved alone: of all pages that new tokens can
        # reach, only the one that truncate left partly filled can have other owners.
        used = seq.length % self._page_size
        if used == 0:
            return
        page = seq.pages[seq.length // self._page_size]
        if self._num_owners[page] > 1:
            raise SharedPageError(
                f"seq {key!r} must be the only owner of the page it writes to, got "
                f"page {page} with {self._num_owners[page]} owners: truncate it to "
                f"{seq.length - used} tokens, a page boundary, or free the others"
            )

    def _release(self, pages: list[int]) -> None:
        for page in pages:
            self._num_owners[page] -= 1
            if self._num_owners[page] == 0:
                heapq.heappush(self._free, page)
