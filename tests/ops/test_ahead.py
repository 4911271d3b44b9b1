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
SPILLED_BYTES = 256  # for a thread; nothing in most kernels
MANY_FUNCTIONS = ("batch norm, float64",)  # erf and exp in float64 take many registers


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
        assert row["spilled"] <= SPILLED_BYTES or row["case"] in MANY_FUNCTIONS, row
        assert row["shared"] <= 48 * 1024, row  # what a program has without asking
        if row["case"] not in NARROW and row["kernel"] not in OWN_WAY:
            assert row["wide_loads"], row
            sums_alone = row["kernel"] == "backward" and not row["writes"]
            assert row["wide_stores"] or row["kernel"] == "measure" or sums_alone, row
        # What a program leaves for others is told after, and read by them after they are told.
        streams = row["kernel"].startswith("stream")
        assert row["orders"] == (["acq_rel", "acquire", "relaxed", "release"] if streams else [])


def test_the_kernels_compile_for_hopper(tmp_path):
    rows = compiled(
        90, tmp_path, "group norm", "layer norm", "instance norm, beyond the cache",
        "running statistics",
    )  # fmt: skip
    assert {row["kernel"] for row in rows} == {
        "forward", "measure", "merge", "apply", "stream", "backward", "stream_backward", "remember"
    }  # fmt: skip
    check(rows)


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90, 100])
def test_every_variant_compiles(capability, tmp_path):
    rows = compiled(capability, tmp_path)
    assert len(rows) > 50  # a stream is one kernel in place of three
    check(rows)
