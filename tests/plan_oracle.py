# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""What every plan promises, checked in numpy from the definition of attention.

Written against csrc/work_item.h and docs/design.md, not against the planner: only the
rule for the number of CTAs repeats its arithmetic, because it is part of PlanConfig.
All checks look at whole columns of the plan at once, so that many plans can be checked.
"""

import dataclasses

import numpy as np
import work_item as wi


@dataclasses.dataclass
class Tiles:
    """The items sorted by head, row and key, so that those of a tile are together.

    All arrays have one entry per item. `first` and `last` mark the ends of a tile,
    `tile` numbers them. Lengths and visible keys are of the planned lengths.
    """

    items: np.ndarray
    order: np.ndarray  # place of each item in the plan
    first: np.ndarray
    last: np.ndarray
    tile: np.ndarray
    q_lens: np.ndarray
    kv_lens: np.ndarray
    first_pos: np.ndarray  # position of the tile's first row
    lo: np.ndarray  # keys [lo, hi) that some row of the tile sees
    hi: np.ndarray
    unit_keys: np.ndarray
    unit_cost: np.ndarray
    item_cost: np.ndarray  # of the tile besides its keys
    units: np.ndarray
    real: np.ndarray  # not padding


def check_plan(plan, cu_q_lens, kv_lens):
    """Asserts every property of a plan of these lengths."""
    facts, buffer = plan.facts, np.asarray(plan.buffer)
    starts = np.clip(np.maximum.accumulate(cu_q_lens[1:]), 0, facts.num_tokens)
    starts = np.append(0, starts).astype(np.int64)
    kv_lens = np.clip(kv_lens, 0, facts.max_kv_len).astype(np.int64)
    check_sections(plan, buffer)
    tiles = check_rows(plan, starts, kv_lens)
    check_chunks(tiles)
    check_masks(facts, tiles)
    check_merges(plan, tiles)
    check_balance(plan, tiles)
    return tiles


def check_sections(plan, buffer):
    """Counts within bounds, CTA ranges in order, zero wherever nothing is."""
    layout, header = plan.facts.layout, plan.header
    assert (buffer.dtype, buffer.shape) == (np.int32, (layout["size"],))
    counts = header[[wi.NUM_ITEMS, wi.NUM_MERGES, wi.NUM_PARTS, wi.NUM_CTAS]]
    most = [layout["max_items"], layout["max_merges"], layout["max_parts"]]
    assert (counts >= [1, 0, 0, 1]).all(), counts
    assert (counts <= [*most, plan.facts.num_ctas]).all(), counts
    assert not header[6:].any(), "spare fields of the header"
    indptr, first = plan.cta_indptr, plan.facts.band_ctas[0]
    assert indptr[0] == 0
    assert indptr[-1] == header[wi.NUM_ITEMS]
    num_items = np.diff(indptr)
    assert np.flatnonzero(num_items)[-1] + 1 == header[wi.NUM_CTAS]
    for of_band in (num_items[:first], num_items[first:]):
        used = np.count_nonzero(of_band)
        assert (of_band[:used] > 0).all(), indptr
        assert (of_band[used:] == 0).all(), indptr
    empty_from = [
        layout["cta_indptr"] + len(indptr),
        layout["items"] + header[wi.NUM_ITEMS] * 16,
        layout["merges"] + header[wi.NUM_MERGES] * 8,
        layout["parts"] + header[wi.NUM_PARTS],
    ]
    empty_to = [layout["items"], layout["merges"], layout["parts"], layout["size"]]
    for begin, end in zip(empty_from, empty_to, strict=True):
        assert not buffer[begin:end].any(), "not zero after the end"
    assert not plan.items[:, [wi.PARTIAL_ROW, 15]].any(), "spare field of items"
    assert not plan.merges[:, 6:].any(), "spare fields of merges"


def check_rows(plan, starts, kv_lens):
    """Each row is in exactly one tile per KV head, of the class for its sequence."""
    facts, config = plan.facts, plan.facts.config
    items = plan.items[: plan.header[wi.NUM_ITEMS]]
    # By head and row; the chunk that starts open comes first, then by key.
    order = np.lexsort(
        (items[:, wi.KEY_BEGIN], items[:, wi.ROW_BEGIN], items[:, wi.KV_HEAD_BEGIN])
    )
    items = items[order]
    row_begin, num_rows = items[:, wi.ROW_BEGIN], items[:, wi.NUM_ROWS]
    first = np.ones(len(items), bool)
    first[1:] = (np.diff(items[:, [wi.ROW_BEGIN, wi.KV_HEAD_BEGIN]], axis=0) != 0).any(
        1
    )
    last = np.append(first[1:], True)
    tile = np.cumsum(first) - 1
    same = items[:, [wi.NUM_ROWS, wi.ROW_MODE, wi.SEQ, wi.TILE_CLASS, wi.PAGE_ROW]]
    assert (same == same[first][tile]).all(), "items of one tile differ"

    # Tiles follow one another: rows 0 .. T for every head group, groups 0 .. K.
    heads = int(items[0, wi.NUM_KV_HEADS])
    assert facts.num_kv_heads % heads == 0
    assert facts.num_kv_heads // heads <= facts.num_ctas
    assert (items[:, wi.NUM_KV_HEADS] == heads).all()
    groups = facts.num_kv_heads // heads
    group = items[first, wi.KV_HEAD_BEGIN] // heads
    begin = group * facts.num_tokens + row_begin[first]
    end = begin + num_rows[first]
    assert (items[:, wi.KV_HEAD_BEGIN] % heads == 0).all()
    assert ((num_rows > 0) & (row_begin >= 0)).all()
    assert (begin == np.append(0, end[:-1])).all(), "rows twice or never"
    assert end[-1] == groups * facts.num_tokens, "rows without a tile"

    # Tiles belong to one sequence, or to the padding rows behind the last.
    seq = np.searchsorted(starts[1:], row_begin, side="right")
    real = seq < facts.num_seqs
    assert (items[:, wi.SEQ] == np.where(real, seq, -1)).all()
    assert (items[:, wi.PAGE_ROW] == np.where(real, seq, 0)).all()
    assert (items[:, wi.ROW_MODE] == np.where(real, wi.ONE_SEQ, wi.PADDING)).all()
    ends = np.append(starts[1:], facts.num_tokens)
    assert (row_begin + num_rows <= ends[seq]).all(), "a tile crosses sequences"
    assert not items[:, wi.KEY_BASE].any()

    # The smallest class that holds the sequence, else the largest in full tiles.
    group_size = facts.num_q_heads // facts.num_kv_heads
    classes = np.array([dataclasses.astuple(t) for t in facts.tile_classes])
    tokens = np.maximum(classes[:, 0] // group_size, 1)
    q_lens = np.append(np.diff(starts), 0)[seq]
    holds = np.minimum((q_lens[:, None] > tokens[:-1]).sum(1), len(tokens) - 1)
    tile_class = np.where(real, holds, len(tokens) - 1)
    assert (items[:, wi.TILE_CLASS] == tile_class).all()
    of_seq = np.append(starts, starts[-1])[np.where(real, seq, facts.num_seqs)]
    assert ((row_begin - of_seq) % tokens[tile_class] == 0).all()
    is_end = row_begin + num_rows == ends[seq]
    assert (num_rows[~is_end] == tokens[tile_class][~is_end]).all()
    assert (num_rows <= tokens[tile_class]).all()
    assert num_rows.max() <= facts.layout["slot_tokens"]
    assert heads * group_size <= facts.layout["slot_heads"]

    tile_kv_lens = np.where(real, np.append(kv_lens, 0)[seq], 0)
    # Position of the tile's first row: kv_len - (rows from it to its sequence's end).
    first_pos = tile_kv_lens - (ends[seq] - row_begin)
    lo, _ = visible(facts, first_pos, tile_kv_lens)
    _, hi = visible(facts, first_pos + num_rows - 1, tile_kv_lens)
    unit_keys, unit_cost, item_cost = classes[tile_class, 1:].T
    if config.batch_invariant:
        unit_cost = unit_cost * np.maximum(config.split_keys // unit_keys, 1)
        unit_keys = np.full_like(unit_keys, config.split_keys)
        item_cost = np.zeros_like(item_cost)
    key_begin = np.where(items[:, wi.KEY_BEGIN] == wi.OPEN, lo, items[:, wi.KEY_BEGIN])
    key_end = np.where(items[:, wi.KEY_END] == wi.OPEN, hi, items[:, wi.KEY_END])
    units = np.maximum(-(-key_end // unit_keys) - key_begin // unit_keys, 1)
    return Tiles(
        items, order, first, last, tile, q_lens, tile_kv_lens, first_pos, lo, hi,
        unit_keys, unit_cost, item_cost, units, real,
    )  # fmt: skip


def visible(facts, position, kv_len):
    """The keys [lo, hi) that rows at these positions see."""
    left, right = facts.local_window_size
    right = 0 if facts.is_causal else right
    lo = 0 * position if left is None else np.clip(position - left, 0, kv_len)
    hi = kv_len if right is None else np.minimum(kv_len, position + right + 1)
    return lo, np.maximum(hi, 0)


def check_chunks(tiles):
    """The chunks of a tile follow one another, open at both ends, none for nothing."""
    items, first, last = tiles.items, tiles.first, tiles.last
    key_begin, key_end = items[:, wi.KEY_BEGIN], items[:, wi.KEY_END]
    assert ((key_begin == wi.OPEN) == first).all()
    assert ((key_end == wi.OPEN) == last).all()
    assert (items[:, [wi.KEY_BEGIN, wi.KEY_END]] >= wi.OPEN).all()
    assert (key_begin[1:][~first[1:]] == key_end[:-1][~last[:-1]]).all()
    ascending = ~first & ~last
    assert (key_begin[ascending] < key_end[ascending]).all()
    # Every cut lies between visible keys, at a multiple of what the class allows.
    cut = ~last
    assert (key_end[cut] % tiles.unit_keys[cut] == 0).all()
    assert (key_end[cut] > tiles.lo[cut]).all(), "a chunk before the first visible key"
    assert (key_end[cut] < tiles.hi[cut]).all(), "a chunk after the last visible key"


def check_masks(facts, tiles):
    """Full means: every key of the item is visible to every row, now and later."""
    full = tiles.items[:, wi.MASK_MODE] == wi.FULL
    assert ((tiles.items[:, wi.MASK_MODE] == 1) | full).all()
    items, end = tiles.items[full], tiles.items[full, wi.KEY_END]
    assert (end != wi.OPEN).all()
    for grown in (0, 1, 100, 2**20):
        kv_len, first = tiles.kv_lens[full] + grown, tiles.first_pos[full] + grown
        lo_of_first, hi_of_first = visible(facts, first, kv_len)
        lo_of_last, _ = visible(facts, first + items[:, wi.NUM_ROWS] - 1, kv_len)
        begin = np.where(
            items[:, wi.KEY_BEGIN] == wi.OPEN, lo_of_first, items[:, wi.KEY_BEGIN]
        )
        is_seen = (begin >= lo_of_last) & (end <= hi_of_first)
        assert (is_seen | (begin >= end)).all()


def check_merges(plan, tiles):
    """Exactly the split tiles are merged, their slots in the order of their keys."""
    facts, layout, header = plan.facts, plan.facts.layout, plan.header
    items, whole = tiles.items, tiles.first & tiles.last
    slots = items[~whole, wi.PARTIAL]
    assert (items[whole, wi.PARTIAL] == wi.WRITE_THROUGH).all()
    assert ((slots >= 0) & (slots < layout["num_slots"])).all()
    assert len(np.unique(slots)) == len(slots), "two items share a slot"

    merges = plan.merges[: header[wi.NUM_MERGES]]
    merges = merges[np.lexsort((merges[:, 0], merges[:, 2]))]
    heads = items[tiles.first & ~whole]
    columns = [wi.ROW_BEGIN, wi.NUM_ROWS, wi.KV_HEAD_BEGIN, wi.NUM_KV_HEADS]
    assert merges.shape[0] == heads.shape[0], "merges are not the split tiles"
    assert (merges[:, :4] == heads[:, columns]).all()
    counts = np.bincount(tiles.tile)
    counts = counts[counts > 1]
    begin, end = merges[:, 4], merges[:, 5]
    assert (end - begin == counts).all()
    assert header[wi.NUM_PARTS] == counts.sum()
    index = np.repeat(begin - np.cumsum(counts) + counts, counts) + np.arange(
        len(slots)
    )
    assert (np.sort(index) == np.arange(len(slots))).all(), "parts twice or never"
    assert (plan.parts[index] == slots).all()
    merge = items[:, wi.MERGE]
    assert not merge[whole].any(), "items that are not merged name a merge"
    own = plan.merges[merge[~whole]]
    assert ((index >= own[:, 4]) & (index < own[:, 5])).all(), "parts of another merge"

    config = facts.config
    if not config.batch_invariant:
        assert layout["num_slots"] <= 2 * facts.num_ctas
        return
    largest = facts.tile_classes[-1].rows
    tokens = max(largest * facts.num_kv_heads // facts.num_q_heads, 1)
    num_tiles = facts.num_seqs + facts.num_tokens // tokens + 1
    groups = facts.num_kv_heads // items[0, wi.NUM_KV_HEADS]
    chunks = facts.max_kv_len // config.split_keys + 1
    assert layout["num_slots"] <= num_tiles * groups * chunks
    # Cuts at every multiple of split_keys and nowhere else: the position decides.
    assert (tiles.units == 1).all()


def check_balance(plan, tiles):
    """Tiles of the first class and all others are balanced over CTAs of their own."""
    facts, header = plan.facts, plan.header
    cta = np.searchsorted(plan.cta_indptr, tiles.order, side="right") - 1
    is_long = tiles.items[:, wi.TILE_CLASS] > 0
    assert (is_long == (cta >= facts.band_ctas[0])).all()
    max_loads, wholes = [], [False]
    for band, of_band in enumerate((~is_long, is_long)):
        if not of_band.any():
            continue
        columns = (getattr(tiles, field.name) for field in dataclasses.fields(tiles))
        own = Tiles(*(column[of_band] for column in columns))
        first_cta = band * facts.band_ctas[0]
        max_load, is_whole = check_band(plan, band, own, cta[of_band] - first_cta)
        max_loads.append(max_load)
        wholes.append(is_whole)
    assert header[wi.MAX_LOAD] == max(max_loads)
    assert header[wi.IS_WHOLE] == max(wholes)


def check_band(plan, band, tiles, cta):
    """No CTA has more than the mean and a tile's first unit; as many as it is worth."""
    facts, config = plan.facts, plan.facts.config
    items, first, real = tiles.items, tiles.first, tiles.real
    used, is_decode = int(cta.max()) + 1, band == 0
    # The piece that begins a tile has what the tile costs besides its keys.
    loads = tiles.units * tiles.unit_cost + first * tiles.item_cost
    loads = np.bincount(cta, loads, used)
    whole = np.maximum(-(-tiles.hi // tiles.unit_keys) - tiles.lo // tiles.unit_keys, 1)
    cost = (whole * tiles.unit_cost + tiles.item_cost)[first].sum()
    max_cost = int((tiles.unit_cost + tiles.item_cost).max())
    longest = int((whole * tiles.unit_cost + tiles.item_cost).max())
    is_large = (items[:, wi.TILE_CLASS] == len(facts.tile_classes) - 1).all()
    least = facts.whole_tiles_from * facts.band_ctas[band] * longest
    can_be_whole = least > 0 and not is_decode and is_large
    is_whole = can_be_whole and not config.batch_invariant and cost >= least
    assert not is_whole or (first & tiles.last).all()
    assert loads.sum() == cost, "chunks overlap or leave keys out"
    assert loads.max() <= cost / used + (longest if is_whole else max_cost)

    groups = facts.num_kv_heads // int(items[0, wi.NUM_KV_HEADS])
    inner = groups if is_decode else 1
    check_order(items, tiles.order, cta, plan.cta_indptr, inner)
    assert used % inner == 0
    ranges, cost = used // inner, int(cost) // inner
    group_size = facts.num_q_heads // facts.num_kv_heads
    packed = items[:, wi.NUM_ROWS].astype(np.int64) * group_size
    # Keys per head: those that are seen, and those of the whole units that hold them.
    seen = int((tiles.hi - tiles.lo)[first].clip(0).sum()) // groups
    held = int((whole * tiles.unit_keys)[first].sum()) // groups
    decode_rows = int(packed[real].max(initial=1))
    least_keys = config.min_keys_per_row * decode_rows if is_decode else 0

    num_tiles = int(first.sum()) // groups

    def is_worth(ranges, keys):
        least_cost = ranges * max(max_cost, config.min_cost)
        has_keys = keys >= ranges * least_keys or ranges <= num_tiles
        return cost >= least_cost and has_keys

    most = facts.band_ctas[band] // inner
    assert 1 <= ranges <= most
    assert ranges == 1 or is_worth(ranges, held), "more CTAs than the work is worth"
    assert ranges == most or not is_worth(ranges + 1, seen), (
        "fewer CTAs than it is worth"
    )
    has_keys = seen >= ranges * least_keys
    is_bounded = config.min_keys_per_row >= 40 and not config.batch_invariant
    if has_keys and is_decode and is_bounded:
        # Partial results in float32 are written and read; K and V, in bf16, read once.
        is_split = ~(first & tiles.last)
        partials = (packed * items[:, wi.NUM_KV_HEADS])[is_split].sum() * 4 * 2
        kv = seen * facts.num_kv_heads * 2 * 2
        assert partials <= 0.1 * kv, (
            f"partials {partials} B, K and V {kv} B per element"
        )
    return loads.max(), is_whole


def check_order(items, order, cta, indptr, inner):
    """Of a band. Decode: heads on CTAs side by side. Else outermost, from the end."""
    by_place = np.argsort(order)
    items, cta = items[by_place], cta[by_place]
    if inner > 1:
        place = np.arange(len(items)) - indptr[cta]
        items = items[np.lexsort((cta % inner, place, cta // inner))]
        items = items.reshape(-1, inner, 16)
        of_head = wi.KV_HEAD_BEGIN, wi.PARTIAL, wi.MERGE
        same = [c for c in range(16) if c not in of_head]
        assert (items[:, :, same] == items[:, :1, same]).all()
        heads = np.arange(inner) * items[0, 0, wi.NUM_KV_HEADS]
        assert (items[:, :, wi.KV_HEAD_BEGIN] == heads).all()
        return
    follows = np.diff(items.astype(np.int64), axis=0)
    next_head = follows[:, wi.KV_HEAD_BEGIN] > 0
    assert (follows[:, wi.KV_HEAD_BEGIN] >= 0).all(), "heads are not outermost"
    same_seq = ~next_head & (follows[:, wi.SEQ] == 0) & (items[1:, wi.SEQ] >= 0)
    assert (follows[same_seq, wi.ROW_BEGIN] <= 0).all(), "longest tiles are not first"


def chunks_of(tiles, seq, first_row):
    """The tiles and cuts of one sequence: what batch invariance keeps the same."""
    items = tiles.items[tiles.items[:, wi.SEQ] == seq].copy()
    items[:, wi.ROW_BEGIN] -= first_row
    columns = [
        wi.KV_HEAD_BEGIN,
        wi.ROW_BEGIN,
        wi.NUM_ROWS,
        wi.TILE_CLASS,
        wi.KEY_BEGIN,
        wi.KEY_END,
    ]
    return items[:, columns]
