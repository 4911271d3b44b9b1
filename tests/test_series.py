"""Series from files: what is read, what is filled, what is refused and in which words."""

import gzip

import numpy as np
import pytest
import torch

from normwise.data import packaged, read_series
from normwise.errors import NormError

HOURLY = "when,a,b\n2020-01-01T00:00,1,10\n2020-01-01T01:00,2,20\n2020-01-01T02:00,4,40\n"


@pytest.fixture
def file(tmp_path):
    def write(text, name="series.csv"):
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return write


@pytest.mark.parametrize("name", ["series.csv", "series.csv.gz"])
def test_columns_and_times_are_read(file, name):
    series = read_series(file(HOURLY, name), "when", ["b"])
    assert series.names == ("b",)
    assert series.values.tolist() == [[10, 20, 40]]
    assert series.values.dtype == torch.float64
    assert np.array_equal(np.diff(series.times), [3600, 3600])
    assert series.clock()[0] == np.datetime64("2020-01-01T00:00:00")
    first = read_series(file(HOURLY, name), 0)
    assert first.names == ("a", "b")


def test_without_a_time_column_rows_are_at_equal_steps(file):
    series = read_series(file("a,b\n1,2\n3,4\n"))
    assert series.values.tolist() == [[1, 3], [2, 4]]
    assert series.times.tolist() == [0, 1]
    assert not series.dated


def test_gaps_are_filled_with_what_was_before(file):
    text = "t,a,b\n0,1,5\n1,,6\n1,9,9\n4,2,nan\n"
    series = read_series(file(text), "t", fill=True)
    assert series.times.tolist() == [0, 1, 2, 3, 4]
    assert series.values.tolist() == [[1, 1, 1, 1, 2], [5, 6, 6, 6, 6]]


REFUSED = [
    ("t,a\n0,1\n1,x\n", {}, "row 3, column a: 'x' is no number; name the columns that are"),
    ("t,a\n0,1\n1,inf\n", {}, "row 3, column a: 'inf' is not finite"),
    (
        "t,a\n0,1\n1,\n",
        {},
        "row 3, column a is empty; fill gaps with the value before them (--fill, fill=True), or "
        "leave the column out",
    ),
    (
        "t,a\n0,1\n2,1\n5,1\n",
        {},
        "row 4: 5 comes after 2, and other rows are 2 apart; resample the file to equal steps",
    ),
    (
        "t,a\n0,1\n1,1\n2,1\n5,1\n",
        {},
        "row 5: 5 comes after 2, and other rows are 1 apart; fill missing rows with the values "
        "before them (--fill, fill=True)",
    ),
    (
        "t,a\n2020-01-01,1\n2020-01-02,1\n2020-01-03,1\n2020-01-07,1\n",
        {},
        "row 5: 2020-01-07 comes after 2020-01-03, and other rows are 1 days apart; fill missing "
        "rows with the values before them (--fill, fill=True)",
    ),
    (
        "t,a\n1,1\n0,1\n",
        {},
        "row 3: time does not rise, 0 after 1; sort the rows, each time once (of two that follow "
        "each other, --fill takes the first)",
    ),
    (
        "t,a\n1.1.2020,1\n2.1.2020,1\n",
        {},
        "row 2, column t: '1.1.2020' is no time; write 2016-07-01 00:00:00 or numbers, or say "
        "which column holds the times",
    ),
    ("t,a\n0,1\n1,1,1\n", {}, "row 3: 3 fields, and the header has 2"),
    ("t,a\n0,\n1,1\n", {"fill": True}, ": a begins with a gap, and no value before it fills it"),
    ("t,a\n0,1\n1,1\n", {"columns": ["b"]}, "has no column 'b'; it has t, a"),
    ("t\n0\n1\n", {}, "has no column beside 't', so there are no values"),
    ("t,a\n", {}, "has 1 lines; a header and two rows at least are needed"),
]


@pytest.mark.parametrize(("text", "options", "sentence"), REFUSED)
def test_what_is_refused_is_said_in_one_sentence(file, text, options, sentence):
    path = file(text)
    with pytest.raises(NormError) as told:
        read_series(path, **{"time": 0} | options)
    assert str(told.value).startswith(str(path))
    assert str(told.value).endswith(sentence)


def test_files_that_are_none(tmp_path):
    with pytest.raises(NormError, match="there is no file"):
        read_series(tmp_path / "none.csv")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(NormError, match="is no CSV file in UTF-8"):
        read_series(tmp_path / "bytes.csv")


@pytest.fixture
def series(file):
    rows = "".join(f"{t},{t % 3},{t}\n" for t in range(20))
    return read_series(file(f"t,a,b\n{rows}"), "t")


def test_parts_follow_each_other(series):
    for shares in ((0.5, 0.25, 0.25), (10, 5, 5)):
        parts = series.split(shares)
        assert [len(part) for part in parts] == [10, 5, 5]
        assert parts[1].times.tolist() == [10, 11, 12, 13, 14]


@pytest.mark.parametrize(
    ("shares", "sentence"),
    [
        ((0.7, 0.7), "the split 0.7, 0.7 is neither shares that come to 1 at most, as "),
        ((15, 6), "the split 15, 6 of 20 rows leaves 15, 6 rows for its parts; "),
        ((0.99, 0.01), "the split 0.99, 0.01 of 20 rows leaves 20, 0 rows for its parts; "),
    ],
)
def test_splits_that_leave_nothing(series, shares, sentence):
    with pytest.raises(NormError) as told:
        series.split(shares)
    assert str(told.value).startswith(sentence)


def test_standardized_by_a_part(series):
    train, rest = series.split((0.5, 0.5))
    values = train.standardized(by=train).values
    assert values.mean(1).abs().max() < 1e-12
    assert torch.allclose(values.std(1, correction=0), torch.ones(2, dtype=torch.float64))
    assert rest.standardized(by=train).values[1].mean() > 2
    with pytest.raises(NormError, match="a, b does not vary in the training part"):
        series.standardized(by=series.part(0, 1))


def test_means_of_several_rows(series):
    averaged = series.averaged(6)
    assert averaged.values.tolist() == [[1, 1, 1], [2.5, 8.5, 14.5]]
    assert averaged.times.tolist() == [0, 6, 12]


def test_data_of_a_package_is_found_or_asked_for():
    assert packaged("normwise", "data/README.md", "").is_file()
    with pytest.raises(NormError) as told:
        packaged("no_such_package", "data.csv", "pip install it")
    assert str(told.value) == (
        "the package no_such_package is not installed, and the data is in it: pip install it"
    )
