"""Plans for the GPU kernels: which are launched, in what order, with what."""

import warnings
from typing import Any, ClassVar

import torch
import triton
from torch import Tensor

from normwise.axes import Fitted
from normwise.errors import one_line
from normwise.ops.form import Form, Operand
from normwise.ops.operands import Four, Operands
from normwise.ops.plan import Plan, Stored, batch_of, like
from normwise.ops.triton import kernels, launch
from normwise.ops.triton.launch import Launch, choose, device_of
from normwise.running import Remembered, Running

INTERPRETED = not isinstance(kernels.forward, triton.JITFunction)
_FEATURES = 512  # that `remember` takes at a time


def run(kernel: Any, programs: int, device: torch.device, *arguments: Any, **constants: Any) -> Any:
    """Launch a kernel on the device that its tensors are on."""
    if device.type != "cuda" or torch.cuda.current_device() == device.index:
        return kernel[(programs,)](*arguments, **constants)
    with torch.cuda.device(device):
        return kernel[(programs,)](*arguments, **constants)


def failure() -> str | None:
    """What goes wrong with the least of kernels, in words; None if nothing does. Warns of it."""
    if INTERPRETED:
        return None
    try:
        to = torch.empty(1, device="cuda")
        run(kernels.probe, 1, to.device, to)
    except Exception as error:  # whatever a compiler, a driver or their absence raises
        why = f"Triton does not work here: {one_line(error)}"
        warnings.warn(
            f"normwise runs without its GPU kernels, by torch's own or plain formulas: {why}",
            RuntimeWarning,
            stacklevel=2,
        )
        return why
    return None


class TritonPlan(Plan):
    """A plan for the GPU kernels."""

    plans: ClassVar[dict[tuple[Any, ...], Plan]] = {}

    def _prepare(self, walk: Form, x: Tensor, weight: torch.dtype, given: bool) -> None:
        device = device_of(x.get_device())
        self._walk = walk
        self._given = given
        itemsize = x.element_size()
        self._ahead = choose(walk, itemsize, device, most=launch.FORWARD)
        operands = 3 if self.formula.activation is not None else 2  # x, gradient, residual
        self._back = {
            shares: choose(
                walk, itemsize, device,
                most=launch.BACKWARD, operands=operands, shares_weights=shares,
            )
            for shares in (False, True)
        }  # fmt: skip
        o, _, k, _, _ = walk.sizes
        self._statistics = o * k
        self._weight_along = _along(walk.weight)
        self._at = {
            "at_weight": _five(walk.weight),
            "at_mask": _five(walk.mask),
            "at_statistic": (walk.statistic.o, walk.statistic.k),
        }
        self._constants = {
            "EPS": self.formula.eps,
            "ACTIVATION": self.formula.activation,
            "WEIGHT": self._weight_along,
            "MASK": _along(walk.mask),
        }

    def describe(self) -> str:
        o, a, k, p, q = self._walk.sizes
        ahead = self._ahead
        if ahead.across:
            walk = f"{o * k} statistics across {a * p} rows"
        else:
            walk = f"{o * k} statistics of {a * p} x {q} neighbours"
        tile = f"tiles of {ahead.statistics} x {ahead.rows} x {ahead.neighbours}"
        if ahead.whole:
            way = "one pass"
        elif self._given:
            way = "given statistics"
        else:
            way = "streamed" if ahead.lag else "two passes"
            way += f", {ahead.parts} tiles each"
        words = f"{walk}; {way}, {tile}, {ahead.programs} programs"
        return words + "; x is copied to be contiguous" * self.copies

    def forward(self, of: Operands, keeps: bool) -> tuple[Tensor, Tensor | None]:
        y, of = self._laid_out(of)
        x, weight, bias, residual, mask, mean, var = of
        mask = _bytes(mask)
        ahead = self._ahead
        split = not ahead.whole and not self._given
        moments = None
        if keeps or split:
            moments = torch.empty(self.moments, dtype=self.wide, device=x.device)
        tile = self._tile(ahead)
        if ahead.whole and not self._given:
            run(
                kernels.forward, ahead.programs, x.device,
                x, y, weight, bias, residual, mask, moments, self._statistics, self.elements,
                **tile, **self._at, **self._constants, CENTRES=self.formula.scheme.centres,
            )  # fmt: skip
            return y, moments
        if split and ahead.lag:
            assert moments is not None
            run(
                kernels.stream, ahead.streaming, x.device,
                x, y, weight, bias, residual, mask, moments, self._parts(ahead, 4, x.device),
                self._queue(ahead, x.device), self._statistics, self._statistics * ahead.parts,
                ahead.row_tiles, ahead.tiles, ahead.blocks, ahead.lag, **tile, **self._at,
                **self._constants, CENTRES=self.formula.scheme.centres, BLOCK=_merged(ahead),
            )  # fmt: skip
            return y, moments if keeps else None
        if moments is not None:
            self._measure(x, mask, moments)
        run(
            kernels.apply, ahead.programs, x.device,
            x, y, weight, bias, residual, mask, moments, mean, var, self._statistics,
            ahead.row_tiles, ahead.tiles, **tile, **self._at, **self._constants,
        )  # fmt: skip
        return y, moments if keeps else None

    def measure(self, x: Tensor, mask: Tensor | None) -> Tensor:
        moments = torch.empty(self.moments, dtype=self.wide, device=x.device)
        self._measure(x.contiguous() if self.copies else x, _bytes(mask), moments)
        return moments

    def _measure(self, x: Tensor, mask: Tensor | None, moments: Tensor) -> None:
        """The moments, from those of parts."""
        ahead = self._ahead
        parts, stride = self._parts(ahead, 4, x.device), self._statistics * ahead.parts
        tile = self._tile(ahead)
        del tile["at_y"]
        run(
            kernels.measure, ahead.programs, x.device,
            x, mask, parts, stride, ahead.row_tiles, ahead.tiles, **tile,
            at_mask=self._at["at_mask"], CENTRES=self.formula.scheme.centres,
            MASK=self._constants["MASK"],
        )  # fmt: skip
        del tile["at_x"]
        run(
            kernels.merge, ahead.blocks, x.device,
            parts, stride, moments, self._statistics, ahead.parts, **tile,
            at_statistic=self._at["at_statistic"], COUNTS=mask is not None, BLOCK=_merged(ahead),
        )  # fmt: skip

    def _parts(self, by: Launch, figures: int, device: torch.device) -> Tensor:
        """Where each part leaves its figures."""
        sizes = (figures, self._statistics, by.parts)
        return torch.empty(sizes, dtype=self.wide, device=device)

    def _queue(self, by: Launch, device: torch.device) -> Tensor:
        """Who takes what, see kernels/queue.py."""
        return torch.zeros(1 + by.blocks, dtype=torch.int32, device=device)

    def backward(
        self, gradient: Tensor, of: Operands, moments: Tensor | None, wanted: tuple[bool, ...]
    ) -> Four:
        dx, of = self._laid_out(of)
        x, weight, bias, residual, mask, mean, var = of
        gradient, mask = like(dx, gradient), _bytes(mask)
        dresidual = torch.empty_like(dx) if wanted[3] else None
        of_weights = (wanted[1] and weight is not None) or (wanted[2] and bias is not None)
        back = self._back[of_weights and not self._weight_along & 1]
        partial = self._partial(back, x.device) if of_weights else None
        tensors = (gradient, x, weight, bias, residual, mask, moments, mean, var)

        if back.whole or self._given:
            self._back_by(back, tensors, dx, dresidual, None, partial, own=not self._given)
        elif back.lag and (wanted[0] or dresidual is not None):
            self._stream_back(back, tensors, dx, dresidual, partial)
        else:
            sums = self._parts(back, 2, x.device)
            self._back_by(back, tensors, None, None, sums, partial, own=False)
            if wanted[0] or dresidual is not None:
                total = sums.sum(2)
                back = self._back[False]
                self._back_by(back, tensors, dx, dresidual, total, None, own=False)
        dweight, dbias = None, None
        if partial is not None:
            found = self._gather(partial)
            if wanted[1] and weight is not None:
                dweight = found[0].to(weight.dtype).view(weight.shape)
            if wanted[2] and bias is not None:
                dbias = found[1].to(bias.dtype).view(bias.shape)
        return dx if wanted[0] else None, dweight, dbias, dresidual

    def _back_by(
        self,
        back: Launch,
        tensors: tuple[Tensor | None, ...],
        dx: Tensor | None,
        dresidual: Tensor | None,
        sums: Tensor | None,
        partial: Tensor | None,
        *,
        own: bool,
    ) -> None:
        slots = (1, 1, 1) if partial is None else tuple(partial.shape[1:])
        x = tensors[1]
        assert x is not None  # others may be
        run(
            kernels.backward, back.programs, x.device,
            *tensors, dx, dresidual, sums, partial, self._statistics, self.elements,
            slots[0] * slots[1] * slots[2], slots[1], slots[2], back.row_tiles, back.tiles,
            back.blocks, back.groups, **self._tile(back), **self._at, **self._constants,
            OWN=own, CENTRES=self.formula.scheme.centres,
        )  # fmt: skip

    def _stream_back(
        self,
        back: Launch,
        tensors: tuple[Tensor | None, ...],
        dx: Tensor,
        dresidual: Tensor | None,
        partial: Tensor | None,
    ) -> None:
        slots = (1, 1, 1) if partial is None else tuple(partial.shape[1:])
        *read, _, _ = tensors
        run(
            kernels.stream_backward, back.streaming, dx.device,
            *read, dx, dresidual, self._parts(back, 2, dx.device),
            torch.empty((2, self._statistics), dtype=self.wide, device=dx.device),
            self._queue(back, dx.device), partial, self._statistics, self.elements,
            slots[0] * slots[1] * slots[2], slots[1], slots[2], back.row_tiles, back.tiles,
            back.blocks, back.lag, **self._tile(back), **self._at, **self._constants,
            CENTRES=self.formula.scheme.centres, BLOCK=_merged(back),
        )  # fmt: skip

    def _partial(self, back: Launch, device: torch.device) -> Tensor:
        """Where sums for the gradients of weight and bias go: of each program, or statistic."""
        along, (_, a, _, p, q) = self._weight_along, self._walk.sizes
        slots = (
            self._statistics if along & 1 else back.groups,
            a * p if along & 2 else back.row_tiles,
            q if along & 4 else back.tiles,
        )
        return torch.empty((2, *slots), dtype=self.wide, device=device)

    def _gather(self, partial: Tensor) -> Tensor:
        """The gradients of weight and bias, flat, from what programs left: one reduction."""
        along, (o, a, k, p, _) = self._weight_along, self._walk.sizes
        _, slots, rows, neighbours = partial.shape
        shape = (
            *((o, k) if along & 1 else (slots, 1)),
            *((a, p) if along & 2 else (rows, 1)),
            neighbours,
        )
        weight = self._walk.weight
        strides = (weight.o, weight.k, weight.a, weight.p, weight.q)
        summed = [i + 1 for i, stride in enumerate(strides) if not stride]
        kept = [i for i, stride in enumerate(strides) if stride]
        found = partial.view(2, *shape).sum(summed)
        order = sorted(range(len(kept)), key=lambda i: -strides[kept[i]])
        return found.permute(0, *(i + 1 for i in order)).reshape(2, -1)

    def _tile(self, by: Launch) -> dict[str, Any]:
        """What every kernel is told of the tile and of where x and y have it."""
        o, a, k, p, q = self._walk.sizes
        vector = by.vector
        return {
            "sizes": (o, a, k // vector, p, q) if by.across else (o, a, k, p, q // vector),
            "at_x": _in(self._walk.x, vector),
            "at_y": _in(self._walk.y, vector),
            "S": by.statistics,
            "R": by.rows,
            "Q": by.neighbours,
            "VECTOR": vector,
            "ACROSS": by.across,
            "WIDE": by.wide,
            "num_warps": by.warps,
        }


def _merged(by: Launch) -> int:
    """How many parts of a block's statistics are merged at a time."""
    return min(max(16, 1 << (by.parts - 1).bit_length()), max(launch.SHARE // by.statistics, 16))


def _along(operand: Operand) -> int:
    """Along what an operand differs: 1 statistics, 2 rows, 4 neighbours."""
    along_rows = operand.a or operand.p
    return bool(operand.o or operand.k) + 2 * bool(along_rows) + 4 * bool(operand.q)


def _five(operand: Operand) -> tuple[int, int, int, int, int]:
    return operand.o, operand.a, operand.k, operand.p, operand.q


def _in(operand: Operand, vector: int) -> tuple[int, int, int, int]:
    """The distances along o, a, k and p, in units; that of neighbours is not read."""
    return operand.o // vector, operand.a // vector, operand.k // vector, operand.p // vector


def _bytes(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask.view(torch.uint8)


def remember(policy: Running, remembered: Remembered, stored: Stored, fitted: Fitted) -> bool:
    """`policy.update` by one launch; False where it cannot be done so."""
    batch = batch_of(policy, remembered, stored, fitted)
    moments = stored.tensor
    if batch is None or moments is None or policy.on_nonfinite == "raise":
        return False  # whoever raises waits for the device
    mean, var, batches = remembered
    run(
        kernels.remember, 1, moments.device,
        moments, mean, var, batches, *batch, 0 if stored.counted else stored.elements,
        float(policy.momentum), COUNTED=stored.counted, CUMULATIVE=policy.average == "cumulative",
        FROM_FIRST=policy.start == "first-batch", SKIPS=policy.on_nonfinite == "skip",
        BLOCK=_FEATURES,
    )  # fmt: skip
    torch.autograd.graph.increment_version([b for b in remembered if b is not None])
    return True
