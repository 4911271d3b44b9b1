"""Fit a trained model's norms to data from elsewhere, without labels."""

import warnings
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from normwise.errors import NormError, describe
from normwise.surgery.calibrating import (
    Forward,
    check_repeatable,
    copied,
    counted,
    recalibrate,
    remembering_sites,
    run_batch,
)
from normwise.surgery.sites import bare_sites
from normwise.surgery.swapping import Where, is_meant

Method = Literal["adabn", "blend", "tent"]
# Predictions that fall to half the variety they had are on their way to a single class.
_COLLAPSE = 0.5
_SOUND = 0.8
_MEMORY = 0.9


def adapt(
    model: torch.nn.Module,
    loader: Iterable[Any],
    method: Method = "adabn",
    where: Where = None,
    *,
    source_weight: float = 0.5,
    learning_rate: float = 1e-3,
    epochs: int = 1,
    forward: Forward | None = None,
    progress: bool | None = None,
) -> torch.nn.Module:
    """A new model, whose norms fit unlabelled data of another domain.

        adapted = nw.adapt(model, loader)                     statistics of the new data
        adapted = nw.adapt(model, loader, "blend", source_weight=0.9)
        adapted = nw.adapt(model, loader, "tent")

    "adabn"  running statistics are computed over the new data, as `recalibrate` does
    "blend"  source_weight * old + (1 - source_weight) * new, of means and of variances:
             for little data
    "tent"   as adabn; then weight and bias of the norms are trained to make the
             model's predictions more certain: the entropy of softmax(outputs) is
             minimised with Adam. Training ends before the predictions collapse: when
             their average over samples has lost half its entropy, the last sound
             weights are taken, and a warning says so

    The model that is given stays as it is. Labels in the batches are not looked at.

    loader         batches, as in `recalibrate`
    where          which norms, as in `swap`; all if left out
    source_weight  between 0 and 1, for "blend"
    learning_rate, epochs  for "tent"; the model has to return (N, classes, …)

    Raises
        NormError  for a method that is not known, what `recalibrate` refuses, and for
                   "tent" if outputs are no scores of classes or no norm has weights.

    Source: Li, Wang, Shi, Liu and Hou 2016, arXiv:1603.04779 (AdaBN); Schneider, Rusak,
    Eck, Bringmann, Brendel and Bethge 2020, arXiv:2006.16971 (blend); Wang, Shelhamer,
    Liu, Olshausen and Darrell 2021, arXiv:2006.10726 (Tent), where statistics are the
    batch's own also in evaluation; here they are the new data's. The guard is ours.
    """
    if method not in ("adabn", "blend", "tent"):
        raise NormError(f"method={method!r} is not known; write 'adabn', 'blend' or 'tent'")
    if not 0 <= source_weight <= 1:
        raise NormError(f"source_weight={source_weight!r} must lie between 0 and 1")
    check_repeatable(loader, method == "tent")
    remembers = any(s.module._buffers.get("running_var") is not None for s in bare_sites(model))
    options: dict[str, Any] = {"forward": forward, "progress": progress}
    if method != "tent" or remembers:
        adapted = recalibrate(model, loader, where, **options)
    else:
        adapted = copied(model)
    if method == "blend":
        _blend(model, adapted, where, source_weight)
    if method == "tent":
        run = forward or run_batch
        _sharpen(adapted, loader, where, run, learning_rate, epochs, progress)
        if remembers:
            recalibrate(adapted, loader, where, inplace=True, **options)
    return adapted


def _blend(
    model: torch.nn.Module, adapted: torch.nn.Module, where: Where, source_weight: float
) -> None:
    for site in remembering_sites(model, where, "adapt"):
        new = adapted.get_submodule(site.path)
        for name in ("running_mean", "running_var"):
            old, here = site.module._buffers.get(name), new._buffers.get(name)
            if old is not None and here is not None:
                here.lerp_(old.to(here.dtype), source_weight)


def _sharpen(
    model: torch.nn.Module,
    loader: Iterable[Any],
    where: Where,
    run: Forward,
    learning_rate: float,
    epochs: int,
    progress: bool | None,
) -> None:
    """Minimise the entropy of the predictions, as long as they stay diverse."""
    sites = [site for site in bare_sites(model) if is_meant(site, where)]
    affine = [
        parameter
        for site in sites
        for name, parameter in site.module.named_parameters(recurse=False)
        if name in ("weight", "bias", "gamma", "beta")
    ]
    if not affine:
        raise NormError("tent trains weight and bias of the norms, and none that is meant has any")
    flags = [(p, p.requires_grad) for p in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        for parameter in affine:
            parameter.requires_grad_(True)
        for module, _ in modes:
            module.training = False
        usual = _diversity(model, loader, run)
        for site in sites:
            site.module.training = not getattr(site.module, "frozen", False)
        _descend(model, affine, loader, run, learning_rate, epochs, progress, usual)
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
            parameter.grad = None
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


def _descend(
    model: torch.nn.Module,
    affine: list[torch.nn.Parameter],
    loader: Iterable[Any],
    run: Forward,
    learning_rate: float,
    epochs: int,
    progress: bool | None,
    usual: Tensor,
) -> None:
    optimizer = torch.optim.Adam(affine, lr=learning_rate)
    average, sound, step = usual, [p.detach().clone() for p in affine], 0
    for epoch in range(epochs):
        for batch in counted(loader, f"epoch {epoch + 1} of {epochs}", progress):
            logits = _scores(run(model, batch))
            entropy = _entropy(logits.softmax(1)).mean()
            average = _MEMORY * average + (1 - _MEMORY) * _average(logits.detach())
            variety = float(_entropy(average[None]) / _entropy(usual[None]).clamp(min=1e-12))
            if variety >= _SOUND:
                sound = [p.detach().clone() for p in affine]
            if variety < _COLLAPSE or not bool(entropy.isfinite()):
                with torch.no_grad():
                    for parameter, value in zip(affine, sound, strict=True):
                        parameter.copy_(value)
                warnings.warn(
                    f"tent stopped at step {step}: the predictions were collapsing to few classes",
                    stacklevel=4,
                )
                return
            optimizer.zero_grad()
            entropy.backward()
            optimizer.step()
            step += 1


@torch.no_grad()
def _diversity(model: torch.nn.Module, loader: Iterable[Any], run: Forward) -> Tensor:
    """The average prediction over all samples."""
    total, count = torch.zeros(()), 0
    for batch in loader:
        logits = _scores(run(model, batch))
        total = total.to(logits.device) + _average(logits) * len(logits)
        count += len(logits)
    return total / max(count, 1)


def _scores(output: Any) -> Tensor:
    if isinstance(output, Tensor) and output.dim() >= 2 and output.shape[1] > 1:
        return output.float()
    raise NormError(
        "tent needs a model that returns scores of classes, (N, classes, …) with two classes at "
        f"least; it returned {describe(output)}"
    )


def _average(logits: Tensor) -> Tensor:
    return logits.softmax(1).transpose(1, -1).reshape(-1, logits.shape[1]).mean(0)


def _entropy(probabilities: Tensor) -> Tensor:
    """Of each distribution along dimension 1, in nats."""
    terms: Tensor = torch.special.entr(probabilities)
    return terms.sum(1)
