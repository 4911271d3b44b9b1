"""How the GPU kernels are launched: the tile of a program, and how many programs there are.

Decided from the form, the sizes of numbers and the device alone, so it can be read and tested
where there is no GPU. No figure here has been measured: benchmarks/gpu.py is to.

What a statistic averages over may be more than a program holds. Then its parts are measured by
many, and read again to be normalized, and there are two ways.

    apart     one launch measures, one merges, one normalizes: three passes over memory where a
              copy has two, so 67 % of its speed at best; backward 60 %
    streamed  one launch; each part is normalized as soon as its statistics can be expected,
              `lag` parts after it was measured, while the cache still has it: two passes (three)

The lag is the parts of a statistic, and one part for each program: those that are under way.
Of the 50 MB that an H100's cache has, x of (8, 256, 65536) in 8 groups takes 17 MB, its rows of
8.4 MB and 8.7 MB under way, and backward, with the gradient, 25 MB; (2, 4, 4,000,000) takes 25
and 41 MB. By memory's account alone that is a copy's speed. Against it stand the second read,
from the cache; half of the cache lying further away; and the first lag, which only reads, and
the last, which only writes: a 40th of all parts, but a fifth where there are eight rows. 80 % of
a copy is expected. Nothing of this was measured.

Launches for groups of statistics that fit into the cache would do without waiting, but 64 rows
take 192 of them, some 10 us each on the host, where the copy takes 0.4 ms. Parts that stay on
chip until a barrier for all programs would leave memory idle for some 3 us at each barrier, and
to read a row of 8 MB takes 3.
"""

from dataclasses import dataclass
from functools import cache
from math import gcd

import torch

from normwise.ops.form import Form, Operand

# Elements that a program holds at most, where a statistic is to fit on chip: 64 kB of float32.
# Backward holds two operands and, beside them, sums for the gradients of the weights.
FORWARD, BACKWARD = 16_384, 8_192
# The same of columns with a mask: of 16,384 in half precision, what threads have to keep of each
# element did not fit into registers, and 1.5 kB of each went to memory (Triton 3.7, sm_90).
MASKED_COLUMNS = 8_192
# Elements that a program takes where it need not hold so many.
SHARE = 4_096
SECTOR_BYTES, LINE_BYTES, LOAD_BYTES = 32, 128, 16
WAVES = 4  # programs for each multiprocessor, where they share the work out among them
# Of the second-level cache, what may lie between the first read of a part and the second.
STREAMED = 0.8
_MOST_WARPS = 16
_THREADS = 32
_EACH_BYTES = 64  # of a tile for each thread, as wide as it is computed: 16 numbers of float32
_PADDING = 1 / 16  # of a tile along q may be beyond the end
_FEW = 16  # elements for each sum that is left in memory, at least


@dataclass(frozen=True)
class Device:
    """What a launch depends on, of a GPU; cache_bytes is the second level's."""

    multiprocessors: int
    cache_bytes: int


INTERPRETER = Device(1, 50_000_000)  # it runs one program after the other


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel that works on tiles of [statistics, rows, neighbours].

    row_tiles, tiles  how many a statistic is split into, along its rows and neighbours
    blocks, groups    how many blocks of statistics, and how many programs share them out
    vector            elements that every distance is a multiple of, at most 16 bytes
    across            whether statistics are neighbours, and what they average over is not
    wide              whether positions need 64 bits
    lag               parts between measuring one and normalizing it; 0 where launches are apart
    """

    statistics: int
    rows: int
    neighbours: int
    row_tiles: int
    tiles: int
    blocks: int
    groups: int
    warps: int
    vector: int
    across: bool
    wide: bool
    lag: int

    @property
    def parts(self) -> int:
        """How many tiles what a statistic averages over is split into."""
        return self.row_tiles * self.tiles

    @property
    def whole(self) -> bool:
        """Whether a tile holds all that a statistic averages over."""
        return self.parts == 1

    @property
    def programs(self) -> int:
        """How many programs run, where launches are apart."""
        return self.parts * self.groups

    @property
    def streaming(self) -> int:
        """How many run where parts are streamed: each takes one after the other."""
        return self.lag - self.parts

    @property
    def held(self) -> int:
        """Elements of a tile."""
        return self.statistics * self.rows * self.neighbours


def choose(
    form: Form,
    itemsize: int,
    device: Device,
    *,
    most: int,
    operands: int = 1,
    shares_weights: bool = False,
) -> Launch:
    """The launch for tensors of a form.

    most            elements that a program may hold: FORWARD or BACKWARD
    operands        tensors like x that are read twice where a tile does not hold a statistic
    shares_weights  whether gradients of weights that all statistics share are wanted, so that
                    a program is to add up those of many before it writes
    """
    o, a, k, p, q = form.sizes
    kept, rows = o * k, a * p
    across = q == 1 and k > 1
    if across:
        if form.mask != Operand():
            most = min(most, MASKED_COLUMNS)
        statistics, held_rows, neighbours = _columns(k, kept, rows, itemsize, device, most)
    else:
        statistics, held_rows, neighbours = _runs(k, kept, rows, q, itemsize, device, most)
    blocks = _tiles(kept, statistics)
    row_tiles, tiles = _tiles(rows, held_rows), _tiles(q, neighbours)
    held, parts = statistics * held_rows * neighbours, row_tiles * tiles
    at_once = min(max(WAVES // operands, 1) * device.multiprocessors, blocks * parts)
    lag = parts + at_once
    between = min(lag, blocks * parts) * held * itemsize * operands
    # Who streams leaves sums for shared weights of each part: they must be few beside the part.
    few = not shares_weights or (across and statistics >= _FEW)
    if parts == 1 or not few or between > STREAMED * device.cache_bytes:
        lag = 0
    groups = blocks
    if shares_weights and not lag:
        groups = min(blocks, max(1, WAVES * device.multiprocessors // parts))
    return Launch(
        statistics,
        held_rows,
        neighbours,
        row_tiles,
        tiles,
        blocks,
        groups,
        warps=min(max(held * max(itemsize, 4) // (_THREADS * _EACH_BYTES), 1), _MOST_WARPS),
        vector=_vector(form, itemsize, across),
        across=across,
        wide=_is_wide(form, held * parts * blocks),
        lag=lag,
    )


def _columns(
    k: int, kept: int, rows: int, itemsize: int, device: Device, most: int
) -> tuple[int, int, int]:
    """The tile where statistics are neighbours in memory."""
    widest = _power(kept)
    sector = min(SECTOR_BYTES // itemsize, widest)
    if _power(rows) * sector <= most:
        held_rows = _power(rows)
        statistics = min(max(min(SHARE, most) // held_rows, sector), widest)
        while statistics > sector and _tiles(kept, statistics) < WAVES * device.multiprocessors:
            statistics //= 2
        return statistics, held_rows, 1
    statistics = min(2 * LINE_BYTES // itemsize, _power(k))
    share = _share(kept * rows, min(SHARE, most), device)
    return statistics, max(share // statistics, 1), 1


def _runs(
    k: int, kept: int, rows: int, q: int, itemsize: int, device: Device, most: int
) -> tuple[int, int, int]:
    """The tile where a statistic averages over runs of neighbours."""
    held = _power(rows) * _power(q)
    if held <= most:
        statistics = min(max(min(SHARE, most) // held, 1), _power(kept))
        while statistics > 1 and _tiles(kept, statistics) < WAVES * device.multiprocessors:
            statistics //= 2
        return statistics, _power(rows), _power(q)
    share = _share(kept * rows * q, min(SHARE * max(4 // itemsize, 1), most), device)
    statistics = 1
    if q * itemsize < LINE_BYTES:  # short runs of several statistics lie side by side
        statistics = min(_power(k), max(share // 2, 1), _power(LINE_BYTES // (q * itemsize)))
    neighbours = _neighbours(q, share // statistics)
    return statistics, min(_power(rows), max(share // (statistics * neighbours), 1)), neighbours


def _neighbours(q: int, most: int) -> int:
    """Along q: the largest tile of which not much is beyond the end."""
    size = min(_power(q), most)
    shortest = min(size, 64)
    best = size
    while size >= shortest:
        beyond = _tiles(q, size) * size / q - 1
        if beyond <= _PADDING:
            return size
        if beyond < _tiles(q, best) * best / q - 1:
            best = size
        size //= 2
    return best


def _share(elements: int, most: int, device: Device) -> int:
    """Elements for each program, so that there are programs for all multiprocessors."""
    share = most
    while share > 1024 and elements // share < 2 * device.multiprocessors:
        share //= 2
    return share


def _vector(form: Form, itemsize: int, across: bool) -> int:
    """The most elements, up to 16 bytes, that each distance and the run's size are multiples of."""
    vector = gcd(LOAD_BYTES // itemsize, form.sizes[2 if across else 4])
    for operand in (form.x, form.y):
        for stride in (operand.o, operand.a, operand.p, 0 if across else operand.k):
            vector = gcd(vector, stride)
    return vector


def _is_wide(form: Form, positions: int) -> bool:
    operands = (form.x, form.y, form.mask)
    return max(positions, *(_extent(form, operand) for operand in operands)) >= 2**31


def _extent(form: Form, operand: Operand) -> int:
    """How far the last element lies from the first."""
    strides = (operand.o, operand.a, operand.k, operand.p, operand.q)
    return sum((size - 1) * stride for size, stride in zip(form.sizes, strides, strict=True))


def _tiles(size: int, tile: int) -> int:
    return -(-size // tile)


def _power(size: int) -> int:
    """The least power of two that is not below."""
    return 1 << max(size - 1, 0).bit_length()


@cache
def device_of(index: int) -> Device:
    """The properties of a GPU; those of the interpreter where there is none."""
    if index < 0:
        return INTERPRETER
    properties = torch.cuda.get_device_properties(index)
    return Device(properties.multi_processor_count, properties.L2_cache_size)
