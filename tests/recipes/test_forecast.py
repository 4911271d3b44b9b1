"""Forecasts: the published figures, what drift does without a reversible norm, and bad input."""

import pytest
import torch

import normwise as nw
from normwise.compare.trial import candidate_model, run_trial
from normwise.recipes import forecast
from normwise.recipes.series import networks

# Test MSE and MAE of a linear model with reversible instance norm, 96 steps to 96, as published.
PUBLISHED = {"ETTh1.csv": (0.386, 0.395), "ETTh2.csv": (0.288, 0.338)}
MONTHS = ("--split", "8640,2880,2880")  # the literature's 12, 4 and 4 months


def check_published(figures, name):
    found = figures["test"]["as-is"]
    for measure, published in zip(("mse", "mae"), PUBLISHED[name], strict=True):
        assert found[measure]["mean"] == pytest.approx(published, rel=0.02)


@pytest.mark.parametrize("transformers", ["ETTh2.csv"], indirect=True)
def test_under_drift_the_reversible_norm_is_as_good_as_published_and_none_is_not(
    recipe, transformers
):
    words = ("--csv", transformers, *MONTHS, "--seeds", 1, "--candidates", "none")
    code, printed, complaints, figures = recipe("forecast", *words)
    assert (code, complaints) == (0, "")
    check_published(figures, "ETTh2.csv")
    none, reversible = (figures["test"][name]["mse"]["mean"] for name in ("none", "as-is"))
    assert none > 1.08 * reversible
    assert max(map(len, printed.splitlines())) <= 80
    assert printed.splitlines()[1].startswith("reversible")


@pytest.mark.slow
@pytest.mark.parametrize("transformers", ["ETTh1.csv"], indirect=True)
def test_where_less_drifts_the_figures_are_those_published(recipe, transformers):
    words = ("--csv", transformers, *MONTHS, "--seeds", 1, "--candidates", "none")
    check_published(recipe("forecast", *words)[3], "ETTh1.csv")


def test_the_temperature_of_the_sea(recipe, tmp_path):
    code, _, complaints, figures = recipe("forecast", "--seeds", 1)
    assert (code, complaints) == (0, "")
    errors = {name: found["mse"]["mean"] for name, found in figures["test"].items()}
    assert set(errors) == {"as-is", "none", "batch", forecast.ROBUST, forecast.LAST}
    assert errors["as-is"] < 0.7 * errors["none"]
    assert errors[forecast.ROBUST] < 0.7 * errors["none"]
    picture = (tmp_path / "runs" / "forecast" / "forecast.png").read_bytes()
    assert picture.startswith(b"\x89PNG")


@pytest.mark.parametrize("backbone", networks.FORECASTERS)
def test_a_backbone_learns_what_comes(backbone):
    time = torch.arange(32 + 8 + 64.0)
    series = torch.stack([(time / 3).sin() + 5, (time / 2).cos() * 3]).unfold(1, 40, 1)
    every = series.transpose(0, 1)
    x, y = every[..., :32], every[..., 32:]
    task = nw.Task(
        model=lambda: networks.forecaster(backbone, 2, 32, 8), train=(x, y), valid=(x, y),
        loss="mse", metric="mse", epochs=60, batch_size=8, learning_rate=5e-3, where="norm",
        device="cpu",
    )  # fmt: skip
    outcome = run_trial(task, "as-is", 0)
    assert outcome.score < 0.1 * y.var()
    assert candidate_model(task, "none", 0)(x).shape == y.shape


@pytest.mark.parametrize(
    ("text", "words", "sentence"),
    [
        (None, (), "there is no file series.csv"),
        ("t,a\n0,1\n1,\n", (), "series.csv, row 3, column a is empty; fill gaps with"),
        ("t,a\n0,1\n1,one\n", (), "series.csv, row 3, column a: 'one' is no number"),
        ("t,a\n0,1\n1,2\n", (), "the split 0.7, 0.1, 0.2 of 2 rows leaves 1, 1, 0 rows"),
        ("t,a\n0,1\n1,2\n", ("--split", "1,1"), "the split needs three parts, as 0.7,0.1,0.2"),
        ("t,a\n0,1\n1,2\n", ("--time", "when"), "series.csv has no column 'when'; it has t, a"),
        (
            "t,a\n" + "".join(f"{t},{t % 7}\n" for t in range(100)),
            (),
            "a series of 70 steps holds no window of 96 + 96",
        ),
        (
            "t,a\n" + "".join(f"{t},7\n" for t in range(100)),
            (),
            "a does not vary in the training part",
        ),
    ],
)
def test_bad_input_gets_a_sentence_and_writes_nothing(recipe, tmp_path, text, words, sentence):
    if text is not None:
        (tmp_path / "series.csv").write_text(text)
    code, printed, complaints, figures = recipe("forecast", "--csv", "series.csv", *words)
    assert (code, printed, figures) == (2, "", None)
    assert complaints.startswith(f"normwise: {sentence}")
    assert complaints.count("\n") == 1
    assert not (tmp_path / "runs").exists()
