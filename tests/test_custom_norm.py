"""The example with a normalization of one's own."""

import runpy
from pathlib import Path

import torch

import normwise as nw

EXAMPLE = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "custom_norm.py"))


def test_a_norm_of_ones_own_learns_to_tell_speakers(capsys):
    model, score = EXAMPLE["main"]()
    assert score > 0.85  # of nine speakers, one in nine is chance
    assert nw.receipt(model).candidate == "pair_norm"
    norms = [module for module in model.modules() if isinstance(module, nw.Norm)]
    assert len(norms) == 4
    assert all(norm.running_mean.shape == (32,) for norm in norms)
    printed = capsys.readouterr().out
    assert "blocks.0.norm: BatchNorm1d(64) → Norm('[n] (g [c]) [...]')" in printed
    assert f"{score:.1%} of 370 utterances told apart" in printed


def test_pairs_of_channels_share_their_statistics():
    x = torch.randn(5, 6, 7, generator=torch.Generator().manual_seed(0))
    y = EXAMPLE["pair_norm"](6, 1)(x)
    pairs = x.reshape(5, 3, 2, 7)
    mean = pairs.mean((0, 2, 3), keepdim=True)
    var = pairs.var((0, 2, 3), keepdim=True, correction=0)
    torch.testing.assert_close(y, ((pairs - mean) / (var + 1e-5).sqrt()).reshape(x.shape))
