"""How the GPU kernels are launched: decisions alone, no kernel."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from normwise.axes import SCHEMES, Scheme, trailing
from normwise.ops.form import Form, form
from normwise.ops.plan import Formula, statistic_shape
from normwise.ops.triton import launch
from normwise.ops.triton.launch import BACKWARD, FORWARD, Device, Launch, choose

HOPPER = Device(132, 50 << 20)
LAST = Scheme(trailing(1))


def form_of(
    scheme: Scheme, shape: tuple[int, ...], mask: tuple[int, ...] | None = None, **sizes: int
) -> Form:
    x = torch.empty(shape, device="meta")
    statistic = statistic_shape(Formula(scheme, sizes, 1e-5, None), x.shape)
    fitted = scheme.pattern.fit(len(shape))
    found = form(fitted, shape, x.stride(), x.stride(), statistic, mask, sizes)
    assert found is not None
    return found


def launched(scheme: Scheme, shape: tuple[int, ...], itemsize: int = 4, **options: Any) -> Launch:
    sizes = {name: options.pop(name) for name in ("g", "mask") if name in options}
    most = options.pop("most", FORWARD)
    return choose(form_of(scheme, shape, **sizes), itemsize, HOPPER, most=most, **options)


def test_few_long_statistics_are_split_until_all_multiprocessors_work():
    group = launched(SCHEMES["group"], (8, 256, 65536), g=8)
    assert (group.rows, group.neighbours, group.parts) == (1, 4096, 512)
    assert group.programs == 64 * 512
    instance = launched(SCHEMES["instance"], (2, 4, 4_000_000))
    assert not instance.whole
    assert instance.programs == 8 * math.ceil(4_000_000 / 4096) > 20 * HOPPER.multiprocessors
    small = launched(SCHEMES["instance"], (1, 2, 100_000))
    assert small.programs >= HOPPER.multiprocessors, "smaller tiles rather than idle ones"


@pytest.mark.parametrize("most", [FORWARD, BACKWARD], ids=["forward", "backward"])
@pytest.mark.parametrize(
    ("name", "shape", "sizes"),
    [
        ("group", (8, 256, 65536), {"g": 8}),
        ("instance", (2, 4, 4_000_000), {}),
        ("batch", (64, 128, 8192), {}),
    ],
)
def test_what_is_read_twice_is_read_from_the_cache_the_second_time(name, shape, sizes, most):
    operands = 1 if most == FORWARD else 2
    by = launched(SCHEMES[name], shape, most=most, operands=operands, **sizes)
    assert by.streaming == launch.WAVES // operands * HOPPER.multiprocessors
    assert by.lag * by.held * 4 * operands <= launch.STREAMED * HOPPER.cache_bytes


def test_what_the_cache_does_not_hold_takes_launches_apart():
    assert not launched(SCHEMES["instance"], (2, 4, 40_000_000)).lag
    assert not launched(LAST, (4096, 65536), most=BACKWARD, operands=2, shares_weights=True).lag
    short = launched(SCHEMES["instance"], (1, 2, 100_000))
    assert short.lag, "x is in the cache as a whole"


@pytest.mark.parametrize("size", [64, 100, 128, 256, 500, 512])
@pytest.mark.parametrize("itemsize", [2, 4])
def test_short_statistics_share_a_program(size, itemsize):
    rows = launched(LAST, (1 << 18, size), itemsize)
    assert rows.whole
    assert rows.statistics > 1
    assert 2048 <= rows.held <= 4096
    assert rows.programs >= 4 * HOPPER.multiprocessors


@pytest.mark.parametrize("size", [4096, 8192, 16384])
def test_a_statistic_that_fits_is_read_once(size):
    assert launched(SCHEMES["instance"], (64, 128, size)).whole
    assert launched(SCHEMES["instance"], (64, 128, size), most=BACKWARD).whole == (size <= 8192)
    assert launched(SCHEMES["layer"], (64, size // 16, 4096)).whole


def test_neighbouring_statistics_fill_a_sector_of_memory():
    for itemsize in (2, 4):
        for channels in (32, 128, 512, 1024):
            columns = launched(SCHEMES["layer"], (64, channels, 4096), itemsize)
            assert columns.across
            assert columns.whole
            assert columns.statistics * itemsize >= launch.SECTOR_BYTES
    wide = launched(SCHEMES["layer"], (64, 4096, 4096))
    assert not wide.whole
    assert wide.statistics * 4 >= launch.LINE_BYTES


def test_masked_columns_are_streamed_before_threads_run_out_of_registers():
    shape, mask = (64, 1000, 1000), (64, 1, 1000)
    assert launched(SCHEMES["layer"], shape, 2).held == FORWARD
    assert launched(SCHEMES["layer"], shape, 2, mask=mask).lag
    assert launched(SCHEMES["layer"], (64, 500, 1000), 2, mask=mask).whole


def test_gradients_of_shared_weights_come_from_few_programs():
    columns = launched(SCHEMES["layer"], (64, 128, 4096), most=BACKWARD, shares_weights=True)
    assert columns.groups == launch.WAVES * HOPPER.multiprocessors < columns.blocks


@pytest.mark.parametrize(
    ("sizes", "vector"), [((64, 128, 4096), 4), ((3, 5, 1000), 4), ((3, 5, 102), 2), ((3, 5, 7), 1)]
)
@pytest.mark.parametrize("name", ["instance", "layer"])
def test_loads_are_as_wide_as_every_distance_lets_them(sizes, vector, name):
    assert launched(SCHEMES[name], sizes).vector == vector
    assert launched(SCHEMES[name], (64, 128, 4096), 2).vector == 8


@pytest.mark.parametrize("name", ["instance", "layer", "batch"])
def test_positions_take_64_bits_where_32_are_too_few(name):
    assert not launched(SCHEMES[name], (1 << 11, 128, 4096)).wide
    assert launched(SCHEMES[name], (1 << 12, 128, 4096)).wide
    assert launched(SCHEMES[name], (3, 50_000, 20_000)).wide


@given(
    st.sampled_from(["batch", "instance", "sample", "layer"]),
    st.tuples(*(st.integers(1, 3000) for _ in range(3))),
    st.sampled_from([2, 4, 8]),
    st.sampled_from([FORWARD, BACKWARD, 256]),
    st.booleans(),
)
def test_tiles_cover_everything_and_are_no_larger_than_they_may_be(
    name, shape, itemsize, most, shares
):
    walk = form_of(SCHEMES[name], shape)
    by = choose(walk, itemsize, HOPPER, most=most, shares_weights=shares)
    o, a, k, p, q = walk.sizes
    for size, tile, tiles in (
        (o * k, by.statistics, by.blocks),
        (a * p, by.rows, by.row_tiles),
        (q, by.neighbours, by.tiles),
    ):
        assert tile & (tile - 1) == 0
        assert (tiles - 1) * tile < size <= tiles * tile
    assert by.held <= most
    assert 1 <= by.groups <= by.blocks
    assert 1 <= by.warps <= 16
    assert by.held >= by.warps * 32 or by.warps == 1
    strides = [s for op in (walk.x, walk.y) for s in (op.o, op.a, op.p)]
    assert all(stride % by.vector == 0 for stride in strides)
    assert (k if by.across else q) % by.vector == 0
    assert by.vector * itemsize <= launch.LOAD_BYTES
    assert not by.lag or by.parts > 1
    assert by.lag in (0, by.parts + min(launch.WAVES * 132, by.parts * by.blocks))


@given(st.integers(1, 50), st.integers(2, 50), st.integers(1, 50), st.data())
def test_who_waits_waits_for_what_was_taken_before(blocks, parts, programs, data):
    """As kernels/queue.py has it: then the earliest part that is not done waits for nothing."""
    lag = parts + min(programs, blocks * parts)
    item = data.draw(st.integers(lag, blocks * parts + lag - 1))
    last_of_its_block = (item - lag) // parts * parts + parts - 1
    assert last_of_its_block < item - (lag - parts), "and that many others are under way"
