"""What is found in real series, what a norm hides, what a threshold may know, and bad input."""

from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from normwise.data import Series
from normwise.recipes.series.alarms import Alarms, score_rows
from normwise.recipes.series.labelled import Labelled
from normwise.recipes.series.networks import ROBUST

ONCE = ("--seeds", 1, "--candidates", "none")


def found(figures, view, measure="average_precision"):
    return {name: of[view][measure]["mean"] for name, of in figures["detectors"].items()}


def test_a_heartbeat_is_found_and_a_level_shift_is_hidden_by_the_reversible_norm(recipe, tmp_path):
    code, printed, complaints, figures = recipe("anomaly", "--series", "ecg", *ONCE)
    assert (code, complaints) == (0, "")
    beat, shift = found(figures, "anomaly"), found(figures, "shift")
    chance = 352 / 4500
    assert beat["none"] > max(6 * chance, 3 * beat["value"], 3 * beat["step"])
    assert found(figures, "anomaly", "roc_auc")["none"] > 0.93
    assert found(figures, "anomaly", "f1")["none"] > 0.5
    assert shift["none"] > 0.7
    assert shift["as-is"] < 0.45
    assert max(map(len, printed.splitlines())) <= 80
    for name in ("anomaly.png", "shift.png"):
        assert (tmp_path / "runs/anomaly" / name).read_bytes().startswith(b"\x89PNG")


def test_where_the_level_drifts_only_the_reversible_norms_find_what_is_strange(recipe):
    words = ("--series", "yahoo", "--seeds", 1, "--candidates", f"none,{ROBUST}")
    code, _, complaints, figures = recipe("anomaly", *words)
    assert (code, complaints) == (0, "")
    spikes, shift = found(figures, "anomaly"), found(figures, "shift")
    assert min(spikes["as-is"], spikes[ROBUST]) > 0.95
    assert max(spikes["none"], spikes["step"], spikes["value"]) < 0.75
    assert shift["none"] > 0.9 > 0.5 > max(shift["as-is"], shift[ROBUST])


@pytest.mark.skipif(find_spec("river") is None, reason="river needs Python 3.11")
@pytest.mark.parametrize(
    "method", ["reconstruction", pytest.param("forecast", marks=pytest.mark.slow)]
)
def test_failures_of_a_pipeline(recipe, method):
    code, printed, complaints, figures = recipe("anomaly", "--method", method, *ONCE)
    assert (code, complaints) == (0, "")
    assert found(figures, "anomaly")["none"] > 0.8
    assert found(figures, "anomaly", "recall")["none"] > 0.9
    assert figures["anomalies"] == {"tested": 48, "stretches": 4, "training": 0}
    assert f"water, {method}, windows of 8, score of the row;" in printed


@pytest.mark.slow
@pytest.mark.skipif(find_spec("river") is None, reason="river needs Python 3.11")
def test_rows_of_nine_sensors(recipe):
    words = ("--series", "shuttle", "--seeds", 1, "--candidates", "none,layer")
    code, printed, _, figures = recipe("anomaly", *words)
    assert code == 0
    assert found(figures, "anomaly", "roc_auc")["none"] > 0.85
    assert found(figures, "anomaly", "roc_auc")["as-is"] < 0.6  # of one row, nothing is left
    assert "The training part holds 1428 rows that are labelled anomalies;" in printed


def table(path, count=400, strange=(300, 310), size=5.0, header="a,b,odd", label=None):
    """Two waves, one strange for some rows."""
    time = np.arange(count)
    a, b = np.sin(time / 3), np.cos(time / 5)
    odd = (time >= strange[0]) & (time < strange[1])
    a = a + size * odd
    labels = odd.astype(int) if label is None else np.full(count, label)
    lines = [f"{x:.4f},{y:.4f},{z}" for x, y, z in zip(a, b, labels, strict=True)]
    path.write_text("\n".join([header, *lines]) + "\n")


QUICK = ("--csv", "own.csv", "--window", 16, "--epochs", 3, *ONCE)


def test_a_file_of_ones_own_with_labels(recipe, tmp_path):
    table(tmp_path / "own.csv")
    code, printed, complaints, figures = recipe("anomaly", *QUICK, "--label", "odd", "--train", 200)
    assert (code, complaints) == (0, "")
    assert figures["trained_on"] == [0, 200]
    assert figures["anomalies"] == {"tested": 10, "stretches": 1, "training": 0}
    assert found(figures, "anomaly")["none"] > 0.5
    written = (tmp_path / "runs/anomaly/scores.csv").read_text().splitlines()
    assert len(written) == 401
    assert written[0].startswith("time,")
    assert max(map(len, printed.splitlines())) <= 80


def test_without_labels_there_are_scores_a_threshold_and_the_level_shift(recipe, tmp_path):
    table(tmp_path / "own.csv")
    words = ("--target", "a,b", "--train", "0:200", "--method", "forecast")
    code, printed, complaints, figures = recipe("anomaly", *QUICK, *words)
    assert (code, complaints) == (0, "")
    assert figures["anomalies"] is None
    assert figures["detectors"]["none"]["anomaly"] == {}
    assert 0 < figures["detectors"]["none"]["flagged"]["mean"] < 0.5
    assert found(figures, "shift")["none"] > 0.1
    assert printed.splitlines()[0].split() == ["norm", "flagged", "PR", "AUC,", "shift"]
    assert (tmp_path / "runs/anomaly/scores.csv").is_file()


def test_a_threshold_knows_the_training_part_alone():
    """Not even the first rows after it, which share windows with its last ones."""
    found = []
    for size in (0.0, 50.0):
        values = torch.sin(torch.arange(100.0) / 3)[None]
        values[:, 60:70] += size
        tested = np.arange(100) >= 60
        data = Labelled("", Series(values, ("a",), np.arange(100.0)), slice(0, 60), tested)
        scorer = partial(score_rows, torch.zeros_like, history=8, horizon=0, whole=True)
        found.append(Alarms.of("", scorer, data, 0.9))
    assert found[0].threshold == found[1].threshold
    assert found[1].score[59] > 100 > found[0].score[59]


def test_the_score_of_a_row_is_the_mean_over_its_windows():
    values = torch.tensor([[0.0, 0.0, 3.0, 0.0, 0.0]])
    series = Series(values, ("a",), np.arange(5.0))
    alone = score_rows(torch.zeros_like, series, history=2, horizon=0)
    assert alone.tolist() == [0, 0, 9, 0, 0]
    whole = score_rows(torch.zeros_like, series, history=2, horizon=0, whole=True)
    assert whole.tolist() == [0, 2.25, 4.5, 2.25, 0]
    ahead = score_rows(lambda x: x[..., -1:], series, history=2, horizon=1)
    assert np.isnan(ahead[:2]).all()
    assert ahead[2:].tolist() == [9, 9, 0]


def test_a_level_shift_lies_in_what_is_normal_and_not_learned():
    anomalous, tested = np.zeros(100, dtype=bool), np.ones(100, dtype=bool)
    anomalous[40:50] = True
    tested[:30] = False
    series = Series(torch.zeros(2, 100), ("a", "b"), np.arange(100.0))
    data = Labelled("", series, slice(0, 30), tested, anomalous)
    shifted = data.shifted(2.0, length=10)
    assert np.flatnonzero(shifted.anomalous).tolist() == list(range(70, 80))
    assert (shifted.series.values[:, 70:80] == 2).all()
    assert shifted.series.values.sum() == 2 * 2 * 10
    assert not shifted.tested[40:50].any()
    assert data.series.values.sum() == 0, "what was given is as it was"
    assert data.shifted(2.0, length=90).anomalous.sum() == 25, "half of the stretch at most"
    assert Labelled("", series, slice(0, 30), tested & anomalous, anomalous).shifted(2, 10) is None


@pytest.mark.parametrize(
    ("content", "words", "sentence"),
    [
        (None, (), "there is no file own.csv"),
        ("a,odd\n1,0\n,0\n", (), "own.csv, row 3, column a is empty; fill gaps with"),
        ("a,odd\n1,0\nhigh,0\n", (), "own.csv, row 3, column a: 'high' is no number"),
        ({"label": 2}, ("--label", "odd"), "own.csv, column odd: anomalies are labelled 1 "
         "and other rows 0; there is 2"),
        ({"label": 0}, ("--label", "odd"), "own: the 240 rows outside of the training part are all "
         "normal, so there is nothing to measure;"),
        ({"label": 1}, ("--label", "odd"), "own: the 240 rows outside of the training part are all "
         "anomalies"),
        ({}, ("--label", "strange"), "own.csv has no column 'strange' of labels; it has a, b, odd"),
        ({}, ("--label", "odd", "--target", "odd"), "own.csv has no column beside 'odd'"),
        ({}, ("--target", "a", "--train", "10"), "a series of 10 steps holds no window "
         "of 16; give a longer one"),
        ({}, ("--train", "400"), "the training part 400 of 400 rows is empty, or leaves none"),
        ({}, ("--train", "9:3"), "the training part 9:3 of 400 rows is empty, or leaves none"),
        ({}, ("--train", "half"), "the training part 'half' is none; write a share, as 0.4,"),
        ({"label": 1}, ("--target", "odd"), "odd does not vary in the training part, so there is"),
        ({}, ("--quantile", "1.5"), "quantile=1.5 must lie between 0 and 1"),
    ],
)  # fmt: skip
def test_bad_input_gets_a_sentence_and_writes_nothing(recipe, tmp_path, content, words, sentence):
    if isinstance(content, str):
        (tmp_path / "own.csv").write_text(content)
    elif content is not None:
        table(tmp_path / "own.csv", **content)
    code, printed, complaints, figures = recipe("anomaly", *QUICK, *words)
    assert complaints.startswith(f"normwise: {sentence}")
    assert (code, printed, figures) == (2, "", None)
    assert complaints.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_series_that_is_not_there_says_what_to_fetch(monkeypatch, recipe):
    monkeypatch.setattr("normwise.data.series.find_spec", lambda package: None)
    code, _, complaints, _ = recipe("anomaly", "--series", "ucr")
    assert code == 2
    assert complaints == (
        "normwise: the package aeon is not installed, and the data is in it: "
        'pip install --no-deps "aeon==1.6.0", or give --csv\n'
    )
