"""The ledger: what was put in comes out, and what is no ledger of ours is left alone."""

import json
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import pytest

from normwise.compare.ledger import FILE_NAME, Cost, Ledger
from normwise.compare.sharing import Driver, discard
from normwise.compare.trial import Outcome
from normwise.errors import NormError

OUTCOMES = [
    Outcome("as-is", 0, 0.1 + 0.2, None, [{"epoch": 1, "loss": 0.1, "score": 1 / 3}], 1.5),
    Outcome("group:8", 0, None, "diverged: the loss was nan in epoch 1", [], 0.25, kind="failed"),
    Outcome("group:8", 7, -1e-300, None, [], 0.0, worker="host:12", lost=["out of memory"]),
    Outcome("rms", 0, None, "stopped in epoch 2", [], 0.25, kind="stopped", worker="host:13"),
]
COST = Cost(0.001, 12.5, 3.25, 306)
TASK = {"model": "a1", "epochs": "20"}


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path) as opened:
        yield opened


def test_what_was_put_in_comes_out(tmp_path):
    with Ledger(tmp_path / "deep" / "down") as ledger:
        for outcome in OUTCOMES:
            ledger.add(outcome)
        ledger.add_cost("as-is", COST)
        ledger.add_cost("none", Cost(parameters=4))
        ledger.write("asked", {"seeds": [0, 1]})
    with Ledger(tmp_path / "deep" / "down") as ledger:
        assert ledger.outcomes() == OUTCOMES
        assert ledger.costs() == {"as-is": COST, "none": Cost(parameters=4)}
        assert ledger.read("asked") == {"seeds": [0, 1]}
        assert ledger.read("never written") is None


def test_what_is_written_again_replaces(ledger):
    for seeds in (1, 2):
        ledger.write("seeds", seeds)
        ledger.add_cost("none", Cost(parameters=seeds))
    assert ledger.read("seeds") == 2
    assert ledger.costs() == {"none": Cost(parameters=2)}


# As the first release of the schema wrote it.
SCHEMA_1 = """
CREATE TABLE run (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE trials (
    candidate TEXT NOT NULL, seed INTEGER NOT NULL, score REAL, reason TEXT,
    curve TEXT NOT NULL, seconds REAL NOT NULL,
    finished TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%S', 'now')),
    PRIMARY KEY (candidate, seed), CHECK ((score IS NULL) <> (reason IS NULL))
);
CREATE TABLE costs (
    candidate TEXT PRIMARY KEY, train_s_per_step REAL, inference_us_per_sample REAL,
    peak_memory_mb REAL, parameters INTEGER
);
PRAGMA user_version = 1;
INSERT INTO run VALUES ('fingerprint', '{"model": "a1", "epochs": "20"}');
INSERT INTO trials VALUES ('rms', 0, 0.30000000000000004, NULL,
    '[{"epoch": 1, "score": 0.25}]', 90.5, '2026-01-31 00:01:00');
INSERT INTO trials VALUES ('none', 0, NULL, 'diverged', '[]', 0.25, '2026-01-31 00:02:00');
INSERT INTO costs VALUES ('rms', 0.001, 12.5, 3.25, 306);
"""


@pytest.fixture
def first_version(tmp_path):
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
        connection.executescript(SCHEMA_1)
    return tmp_path


def test_a_ledger_of_the_first_version_is_brought_up_to_date(first_version, tmp_path):
    for _ in range(2):
        with Ledger(first_version) as ledger:
            ledger.claim(TASK)
            assert ledger.outcomes() == [
                Outcome("rms", 0, 0.1 + 0.2, None, [{"epoch": 1, "score": 0.25}], 90.5),
                Outcome("none", 0, None, "diverged", [], 0.25, kind="failed"),
            ]
            assert ledger.costs() == {"rms": COST}
            assert ledger.read_rows("SELECT started, finished FROM trials") == [
                ("2026-01-30 23:59:29", "2026-01-31 00:01:00"),
                ("2026-01-31 00:01:59", "2026-01-31 00:02:00"),
            ]
    with Ledger(tmp_path / "new") as ledger:
        tables = "SELECT name, sql FROM sqlite_master WHERE type = 'table' ORDER BY name"
        new = ledger.read_rows(tables)
    with Ledger(first_version) as ledger:
        assert ledger.read_rows(tables) == new


def test_two_processes_bring_a_ledger_up_to_date_once(first_version):
    with ThreadPoolExecutor(8) as pool:
        barrier = threading.Barrier(8)
        found = pool.map(lambda _: (barrier.wait() and None) or read(first_version), range(8))
        assert [len(outcomes) for outcomes in found] == [2] * 8


def test_a_migration_that_is_cut_short_changes_nothing(first_version):
    with closing(sqlite3.connect(first_version / FILE_NAME)) as connection, connection:
        connection.execute("CREATE TABLE trials_1 (in_the_way TEXT)")
    before = (first_version / FILE_NAME).read_bytes()
    with pytest.raises(NormError, match="there is already another table"), Ledger(first_version):
        pass
    assert (first_version / FILE_NAME).read_bytes() == before


def test_a_trial_that_is_there_stays_as_it_is(ledger):
    first, second = (Outcome("rms", 0, score, None) for score in (0.5, 0.6))
    ledger.add(first)
    ledger.add(second)
    assert ledger.outcomes() == [first]


def test_a_trial_is_in_the_file_at_once(ledger):
    ledger.add(OUTCOMES[0])
    with Ledger(ledger.path.parent) as other:
        assert other.outcomes() == OUTCOMES[:1]


def test_a_claim_holds(tmp_path):
    for _ in range(2):
        with Ledger(tmp_path) as ledger:
            ledger.claim(TASK)
            assert ledger.read("fingerprint") == TASK


@pytest.mark.parametrize(
    ("other", "different"),
    [
        ({"model": "b2", "epochs": "20"}, "model (a1 there, b2 now)"),
        ({"model": "b2", "epochs": "5"}, "model (a1 there, b2 now), epochs (20 there, 5 now)"),
        ({"model": "a1"}, "epochs (20 there, – now)"),
        ({**TASK, "loss": "mse"}, "loss (– there, mse now)"),
    ],
)
def test_another_tasks_ledger_is_told_and_left(tmp_path, other, different):
    with Ledger(tmp_path) as ledger:
        ledger.claim(TASK)
        ledger.add(OUTCOMES[0])
    before = (tmp_path / FILE_NAME).read_bytes()
    with Ledger(tmp_path) as ledger, pytest.raises(NormError) as told:
        ledger.claim(other)
    assert str(told.value) == (
        f"{tmp_path} holds the trials of another task; what differs: {different}; "
        "use another --out, or --fresh to start again there"
    )
    assert (tmp_path / FILE_NAME).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def a_ledger(path):
    with Ledger(path.parent) as ledger:
        ledger.claim(TASK)
        for seed in range(60):
            ledger.add(Outcome("rms", seed, 0.5, None, OUTCOMES[0].curve))


def damaged_inside(path):
    a_ledger(path)
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)


def another_database(path):
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE photos (name TEXT); INSERT INTO photos VALUES ('a')")


def without_tables(path):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 2")


def with_a_broken_curve(path):
    a_ledger(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE trials SET curve = '[{' WHERE seed = 7")


DAMAGED = [
    (lambda path: path.write_text("no ledger at all, but a text of some length"), "not a database"),
    (damaged_inside, "malformed"),
    (another_database, "its tables are others"),
    (without_tables, "no such table"),
    (with_a_broken_curve, "Expecting property name"),
]


def read(folder):
    with Ledger(folder) as ledger:
        ledger.claim(TASK)
        return ledger.outcomes()


@pytest.mark.parametrize(("make", "reason"), DAMAGED)
def test_what_is_no_ledger_is_told_and_left(tmp_path, make, reason):
    path = tmp_path / FILE_NAME
    make(path)
    before = path.read_bytes()
    with pytest.raises(NormError) as told:
        read(tmp_path)
    assert str(told.value).startswith(f"{path} is damaged or no ledger (")
    assert reason in str(told.value)
    assert str(told.value).endswith("); move it away to keep it, or use --fresh to start again")
    assert path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_a_later_versions_ledger_is_told(tmp_path):
    a_ledger(tmp_path / FILE_NAME)
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
        connection.execute("PRAGMA user_version = 9")
    with pytest.raises(NormError) as told, Ledger(tmp_path):
        pass
    assert str(told.value) == (
        f"{tmp_path / FILE_NAME} was written by a later version of normwise (ledger 9, this is 2); "
        "use that version, another --out, or --fresh"
    )


def test_a_folder_that_cannot_be_one(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(NormError) as told, Ledger(folder):
            pass
        assert str(told.value).startswith(f"{folder} cannot hold a ledger: ")
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(NormError, match="unable to open"), Ledger(tmp_path):
        pass


@pytest.mark.parametrize("make", [a_ledger, *(make for make, _ in DAMAGED)])
def test_discard_removes_a_ledger_in_any_state(tmp_path, make):
    make(tmp_path / FILE_NAME)
    for suffix in ("-wal", "-shm", "-journal"):
        (tmp_path / f"{FILE_NAME}{suffix}").write_text("left behind")
    (tmp_path / "notes.txt").write_text("mine")
    discard(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_ledger_at_work_is_not_discarded(ledger):
    with Driver(ledger), pytest.raises(NormError) as told:
        discard(ledger.path.parent)
    folder = ledger.path.parent
    assert str(told.value) == (
        f"another process is running the trials in {folder}; stop it first, or use another --out"
    )
    discard(folder)
    assert list(folder.iterdir()) == []


def test_discard_of_nothing(tmp_path):
    discard(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


WRITER = """
import sys
from pathlib import Path
from normwise.compare.ledger import Ledger
from normwise.compare.trial import Outcome

candidate = sys.argv[2]
with Ledger(Path(sys.argv[1])) as ledger:
    ledger.claim({"epochs": "20"})
    for seed in range(30):
        ledger.add(Outcome(candidate, seed, 0.5, None, [{"epoch": 1, "score": 0.5}]))
        ledger.add(Outcome("both", seed, 0.5, None))
"""


def test_two_processes_write_at_once(tmp_path):
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, tmp_path, name], stderr=subprocess.PIPE)
        for name in ("one", "other")
    ]
    assert [writer.communicate()[1] for writer in writers] == [b"", b""]
    with Ledger(tmp_path) as ledger:
        kept = {(outcome.candidate, outcome.seed) for outcome in ledger.outcomes()}
        assert len(ledger.outcomes()) == len(kept)
    assert kept == {(name, seed) for name in ("one", "other", "both") for seed in range(30)}


def test_many_may_open_a_new_ledger_at_once(tmp_path):
    barrier = threading.Barrier(8)

    def open_together(folder):
        barrier.wait()
        return read(folder)

    with ThreadPoolExecutor(8) as pool:
        for attempt in range(10):
            folder = tmp_path / str(attempt)
            assert list(pool.map(open_together, [folder] * 8)) == [[]] * 8


def stop(folder, *outcomes):
    """End a block early, with some trials done."""
    with suppress(KeyboardInterrupt), Ledger(folder) as ledger:
        ledger.claim(TASK)
        for outcome in outcomes:
            ledger.add(outcome)
        raise KeyboardInterrupt


def test_a_new_ledger_without_a_trial_leaves_nothing(tmp_path):
    stop(tmp_path / "deep" / "down")
    assert list(tmp_path.iterdir()) == []


def test_a_ledger_with_a_trial_stays(tmp_path):
    stop(tmp_path, OUTCOMES[1])
    assert read(tmp_path) == [OUTCOMES[1]]


def test_a_ledger_that_was_there_stays(tmp_path):
    assert read(tmp_path) == []
    stop(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_the_file_can_be_read_by_hand(ledger):
    for outcome in OUTCOMES:
        ledger.add(outcome)
    with closing(sqlite3.connect(ledger.path)) as connection:
        rows = connection.execute("SELECT candidate, seed, score, reason, curve FROM trials")
        assert [(*row[:4], json.loads(row[4])) for row in rows] == [
            (o.candidate, o.seed, o.score, o.reason, o.curve) for o in OUTCOMES
        ]


def test_the_page_about_the_ledger_has_every_table_and_column(ledger):
    page = (Path(__file__).parents[2] / "docs" / "ledger.md").read_text(encoding="utf-8")
    tables = ledger.read_rows("SELECT name FROM sqlite_master WHERE type = 'table'")
    for (table,) in tables:
        assert f"\n| `{table}` |" in page
        for _, column, *_ in ledger.read_rows(f"PRAGMA table_info({table})"):
            assert f"`{column}`" in page, f"{table}.{column}"
    assert f"now {ledger.read_rows('PRAGMA user_version')[0][0]}." in page
