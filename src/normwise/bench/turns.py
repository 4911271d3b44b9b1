"""One case timed: ours, torch.nn eager, torch.nn compiled and a copy of the input, in turns."""

import statistics
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from normwise.bench.cases import Case
from normwise.errors import one_line
from normwise.ops import watch
from normwise.timing import take_turns

CLONE, OURS, TORCH, COMPILED = "clone", "ours", "torch", "compiled"
FORWARD, STEP = "forward", "forward + backward"
Row = dict[str, Any]

_LARGE_BYTES = 16e6  # from here a call takes milliseconds, and few rounds are steady
_ROUNDS, _ROUNDS_OF_LARGE = 15, 5
_ROUND_S = 0.02


def contest(case: Case) -> Row:
    """Time a case; whoever fails has a reason in place of a time.

    clone_us                    one x.clone(), in microseconds
    ours, torch, compiled       in units of one x.clone()
    over_torch, over_compiled   ours, in units of these
    kernel                      what ran for ours, and why
    failed                      whose call failed, and why

    Every ratio is the median over rounds of the ratio within a round.
    """
    rounds = _ROUNDS_OF_LARGE if case.input_bytes > _LARGE_BYTES else _ROUNDS
    _have_memory_kept()
    with _quiet(), torch.set_grad_enabled(case.backward):
        calls = contestants(case)
        with watch() as watched:
            failed = {name: why for name, call in calls.items() if (why := _failure(call))}
        fit = {name: call for name, call in calls.items() if name not in failed}
        seconds = take_turns(fit, rounds, _ROUND_S, warm=True)

    def ratio(one: str, other: str) -> float | None:
        if one not in seconds or other not in seconds:
            return None
        pairs = zip(seconds[one], seconds[other], strict=True)
        return statistics.median(mine / theirs for mine, theirs in pairs)

    return {
        "case": case.name,
        "norm": case.kind,
        "pass": STEP if case.backward else FORWARD,
        "shape": list(case.shape),
        "dtype": case.dtype,
        "layout": "channels last" if case.channels_last else "contiguous",
        "input_mb": case.input_bytes / 1e6,
        "clone_us": statistics.median(seconds[CLONE]) * 1e6,
        **{name: ratio(name, CLONE) for name in (OURS, TORCH, COMPILED)},
        "over_torch": ratio(OURS, TORCH),
        "over_compiled": ratio(OURS, COMPILED),
        "kernel": "; ".join(f"{call.kernel}, {call.reason}" for call in watched),
        "failed": failed,
    }


def _have_memory_kept() -> None:
    """Let the C library keep what is freed, as it does in any process that trains for a while.

    glibc gives freed memory back to the system beyond twice the largest block, of up to 32 MB,
    that was freed before. Until there was one, tensors of 8 MB are had anew in some steps and not
    in others, and what that costs is more than the norm of any contestant.
    """
    torch.empty(31 << 20, dtype=torch.uint8)


def _failure(call: Callable[[], object]) -> str | None:
    """Call once; why it fails, if it does. What a layer or a compiler raises is a result."""
    try:
        call()
    except Exception as error:
        return one_line(error)
    return None


def contestants(case: Case) -> dict[str, Callable[[], object]]:
    """The calls to time, by name."""
    ours, torchs = case.layers()
    torch.compiler.reset()  # it gives up on code that was compiled for too many cases
    compiled: Any = torch.compile(torchs, dynamic=False)
    x, cotangent = case.input(0), case.input(1)

    def call(layer: torch.nn.Module) -> Callable[[], object]:
        if not case.backward:
            return lambda: layer(x)
        leaf = x.detach().requires_grad_()
        wanted = [leaf, *layer.parameters()]  # not .backward(): it would add to what is there
        return lambda: torch.autograd.grad(layer(leaf), wanted, cotangent)

    return {CLONE: x.clone, OURS: call(ours), TORCH: call(torchs), COMPILED: call(compiled)}


def compile_beforehand(cases: Iterable[Case], workers: int) -> Iterator[None]:
    """Fill torch.compile's cache on disk, in processes side by side; yields as cases are done.

    What fails here fails again where it is timed, and is told there.
    """
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from multiprocessing import get_context

    threads = torch.get_num_threads()
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        for done in as_completed([pool.submit(_compile, case, threads) for case in cases]):
            done.exception()
            yield


def _compile(case: Case, threads: int) -> None:
    torch.set_num_threads(threads)  # compiled code holds their number
    with _quiet(), torch.set_grad_enabled(case.backward):
        contestants(case)[COMPILED]()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without inductor's notes on the machine."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
