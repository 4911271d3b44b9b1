"""The GPU kernels compile, for GPUs that are not there, and keep what they hold in registers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

SCRIPT = Path(__file__).with_name("ahead.py")
# Odd sizes forbid wide loads, and in float64 two numbers are 16 bytes: `.v2.b64`.
NARROW = ("instance norm, odd", "batch norm, float64")
OWN_WAY = ("merge", "remember")  # read what is small
SPILLED_BYTES = 32  # for a thread; nothing in most kernels
STREAMED = "stream stream_backward"
APART = "measure merge apply backward backward"
WHOLE = "forward backward"
# What a training step of each case launches.
LAUNCHED = {
    "group norm": STREAMED,
    "group norm, short": WHOLE,
    "group norm, channels last": STREAMED,
    "instance norm, long": STREAMED,
    "instance norm, beyond the cache": APART,
    "instance norm": WHOLE,
    "instance norm, masked": "forward stream_backward",
    "instance norm, rows of 64": WHOLE,
    "instance norm, odd": WHOLE,
    "layer norm": WHOLE,
    "layer norm, wide": WHOLE,
    "layer norm, wide and masked": STREAMED,
    "layer norm, wider": WHOLE,
    "layer norm, masked": STREAMED,
    "rms norm, last": WHOLE,
    "rms norm, wide weights": WHOLE,
    "layer norm, last": WHOLE,
    "layer norm, long": "stream backward backward",
    "batch norm": STREAMED,
    "batch norm, masked": STREAMED,
    "batch norm, inference": "apply backward",
    "batch norm, channels last": APART,
    "batch norm, float64": STREAMED,
    "beyond 32 bits": WHOLE,
    "beyond 32 bits, streamed": STREAMED,
    "running statistics": "remember",
}


def compiled(capability: int, folder: Path, *cases: str) -> list[dict]:
    done = subprocess.run(
        [sys.executable, SCRIPT, str(capability), *cases],
        env={**os.environ, "TRITON_CACHE_DIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(rows: list[dict]) -> None:
    for row in rows:
        assert row["spilled"] <= SPILLED_BYTES, row
        assert row["shared"] <= 48 * 1024, row  # what a program has without asking
        if row["case"] not in NARROW and row["kernel"] not in OWN_WAY:
            assert row["wide_loads"], row
            sums_alone = row["kernel"] == "backward" and not row["writes"]
            assert row["wide_stores"] or row["kernel"] == "measure" or sums_alone, row
        # A tile stays with the threads that read it. Sums along it for shared weights, which a
        # program of one statistic leaves at its end, may go through shared memory.
        leaves = row["kernel"] == "backward" and row["tile"][0] == 1
        assert row["moved"] <= 2 * leaves, row
        # What a program leaves for others is told after, and read by them after they are told.
        streams = row["kernel"].startswith("stream")
        assert row["orders"] == (["acq_rel", "acquire", "relaxed", "release"] if streams else [])


def launched(rows: list[dict]) -> dict[str, str]:
    cases = dict.fromkeys(row["case"] for row in rows)
    return {case: " ".join(row["kernel"] for row in rows if row["case"] == case) for case in cases}


def test_the_kernels_compile_for_hopper(tmp_path):
    some = ("group norm", "layer norm", "instance norm, beyond the cache", "running statistics")
    rows = compiled(90, tmp_path, *some)
    assert launched(rows) == {case: LAUNCHED[case] for case in some}
    check(rows)


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90, 100])
def test_every_variant_compiles(capability, tmp_path):
    rows = compiled(capability, tmp_path)
    assert launched(rows) == LAUNCHED
    check(rows)
