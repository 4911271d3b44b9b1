"""Running statistics measured anew, over data, without training."""

import copy
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from normwise import layers
from normwise.axes import SCHEMES
from normwise.errors import NormError, describe
from normwise.layers.materialize import unchanged
from normwise.layers.padding import padding
from normwise.surgery.replacing import process_groups
from normwise.surgery.sites import Site, bare_sites, is_frozen
from normwise.surgery.swapping import Where, is_meant, nothing_to_do
from normwise.surgery.tally import Tally, row_name, watched

Forward = Callable[[torch.nn.Module, Any], Any]
Passes = Literal["one", "each"]


def recalibrate(
    model: torch.nn.Module,
    loader: Iterable[Any],
    where: Where = None,
    *,
    passes: Passes = "one",
    forward: Forward | None = None,
    progress: bool | None = None,
    inplace: bool = False,
) -> torch.nn.Module:
    """The model with the running statistics of its norms computed over the data.

        model = nw.recalibrate(model, loader)

        mean[c] = sum of x[n, c, t] / count          over every real position of all batches
        var[c]  = sum of (x[n, c, t] - mean[c])² / (count - 1)

    For averaged weights, weights from elsewhere, statistics of a momentum that was too
    small or of data that has changed. Every element counts once, whatever the batches'
    sizes, in float64. Padding does not count in normwise layers, given lengths. Nothing
    else learns: dropout is off, and there are no gradients. Norms of each sample that
    remember, as instance norm can, take the average over samples. Frozen ones stay.

    loader    batches: x, (x, y), (x, y, lengths) or a mapping of arguments
    where     which norms, as in `swap`; all if left out
    passes    "one": a single pass, in which a norm sees what those before it make of
              the batch by the batch's own statistics, as in training.
              "each": a pass for each norm, in which those before it use the statistics
              that they have just got, as in evaluation: exact, and as many times as slow
    forward   called with (model, batch) instead, where a batch is something else
    progress  whether batches are counted on the terminal; where there is one, if left out

    Returns the model; num_batches_tracked is the number of batches seen.

    Raises
        NormError  if no norm that is meant remembers anything, the loader has no batch,
                   no layer saw a batch, or statistics are not finite. The model is then as
                   it was, as it is when the loader or the model raises.

    Source: Wu and Johnson 2021, arXiv:2105.07576, section 3, compute the population's
    statistics by averaging those of batches; here every element counts alike.
    """
    if passes not in ("one", "each"):
        raise NormError(f"passes={passes!r} is not known; write 'one' or 'each'")
    sites = remembering_sites(model, where, "recalibrate")
    run = forward or run_batch
    check_repeatable(loader, passes == "each")
    if not inplace:
        model = copied(model)
        sites = [s for s in bare_sites(model) if s.paths in {site.paths for site in sites}]
    with restored_on_error(model):
        if passes == "one":
            _measure(model, sites, loader, run, progress)
        else:
            for i, site in enumerate(_in_order(model, sites, loader, run)):
                words = f"norm {i + 1} of {len(sites)}"
                _measure(model, [site], loader, run, progress, words=words, alone=True)
    return model


def check_repeatable(loader: Iterable[Any], repeats: bool) -> None:
    """Refuse what can be gone through once where that will be done again."""
    if repeats and iter(loader) is loader:
        raise NormError(
            f"{type(loader).__name__} can be gone through once, and this takes several passes; "
            "give a list of batches or a DataLoader"
        )


def remembering_sites(model: torch.nn.Module, where: Where, what: str) -> list[Site]:
    """The norms with running statistics that are not frozen.

    Raises
        NormError  if there is none among those that are meant.
    """
    every = bare_sites(model)
    sites, reasons = [], []
    for site in every:
        if not is_meant(site, where):
            continue
        if site.module._buffers.get("running_var") is None:
            reasons.append(f"{site.name}: it remembers nothing")
        elif not isinstance(site.module, layers.Norm) and row_name(site) not in SCHEMES:
            reasons.append(f"{site.name}: what it averages over is not known")
        elif is_frozen(site.module):
            reasons.append(f"{site.name}: it is frozen")
        elif site.state == "lazy":
            reasons.append(f"{site.name}: it is lazy")
        else:
            sites.append(site)
    if not every:
        raise NormError(f"{type(model).__name__} has no normalization layer to {what}")
    if not sites:
        raise nothing_to_do(what, "; ".join(reasons) or f"where={where!r} matches no norm", every)
    return sites


def run_batch(model: torch.nn.Module, batch: Any) -> Any:
    """The model's output for a batch of a loader: x, (x, y), (x, y, lengths) or a mapping."""
    device = next((p.device for p in model.parameters()), None)
    batch = _moved(batch, device)
    if isinstance(batch, Mapping):
        return model(**batch)
    if isinstance(batch, Tensor):
        return model(batch)
    if not isinstance(batch, tuple | list) or not batch or not isinstance(batch[0], Tensor):
        raise NormError(
            "a batch must be x, (x, y), (x, y, lengths) or a mapping of arguments, received "
            f"{describe(batch)}; give forward=lambda model, batch: …"
        )
    x, *rest = batch
    lengths = rest[1] if len(rest) == 2 else None
    with nullcontext() if lengths is None else padding(lengths):
        return model(x)


@contextmanager
def restored_on_error(model: torch.nn.Module) -> Iterator[None]:
    """Put modes back as they were, and if the block raises buffers, too."""
    before = [(buffer, buffer.clone()) for buffer in model.buffers() if not is_lazy(buffer)]
    training = [(module, module.training) for module in model.modules()]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for tensor, value in before:
                tensor.copy_(value)
        raise
    finally:
        for module, mode in training:
            module.training = mode


def _measure(
    model: torch.nn.Module,
    sites: list[Site],
    loader: Iterable[Any],
    run: Forward,
    progress: bool | None,
    *,
    words: str = "batches",
    alone: bool = False,
) -> None:
    """One pass over the data, after which the norms remember what they saw."""
    tallies = [Tally(site) for site in sites]
    with unchanged(model), torch.no_grad(), watched(tallies):
        for site in () if alone else sites:
            site.module.training = True  # by the batch's own statistics
        for batch in counted(loader, words, progress):
            run(model, batch)
    if not any(tally.batches for tally in tallies):
        raise NormError("the loader has no batch, or the model calls none of its norms")
    for tally in tallies:
        tally.statistics()  # all are checked before any is written
    with torch.no_grad():
        for tally in tallies:
            tally.write()


def _in_order(
    model: torch.nn.Module, sites: list[Site], loader: Iterable[Any], run: Forward
) -> list[Site]:
    """The norms in the order in which the model calls them for the first batch."""
    order: list[Site] = []

    def hook(site: Site) -> Callable[..., None]:
        return lambda *_: None if site in order else order.append(site)

    handles = [site.module.register_forward_pre_hook(hook(site)) for site in sites]
    try:
        with unchanged(model), torch.no_grad():
            for batch in loader:
                run(model, batch)
                break
    finally:
        for handle in handles:
            handle.remove()
    missing = [site.name for site in sites if site not in order]
    if missing:
        raise NormError(f"no batch reached {', '.join(missing)}; where=… leaves norms out")
    return order


def counted(loader: Iterable[Any], words: str, progress: bool | None) -> Iterator[Any]:
    """The batches, counted on the terminal if that is wished."""
    if not (sys.stderr.isatty() if progress is None else progress):
        yield from loader
        return
    from rich.console import Console
    from rich.progress import track

    total = None
    if isinstance(loader, Sized):
        with suppress(TypeError):  # a DataLoader has a len() that fails over an iterable dataset
            total = len(loader)
    console = Console(stderr=True)
    yield from track(loader, words, total=total, console=console, transient=True)


def copied(model: torch.nn.Module) -> torch.nn.Module:
    """A copy of the model, which shares nothing with it but groups of processes."""
    return copy.deepcopy(model, process_groups(model))


def _moved(batch: Any, device: Any) -> Any:
    if device is None:
        return batch
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: _moved(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        return [_moved(part, device) for part in batch]
    return batch
