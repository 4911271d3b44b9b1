"""Several comparisons that belong together: values of an option, tasks, or runs."""

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normwise.compare.comparison import Comparison, checked_candidates, compare
from normwise.compare.ledger import disk_explained
from normwise.compare.shown import check_new, figure_of, frame_of, rows_of
from normwise.compare.task import Task
from normwise.errors import NormError
from normwise.version import __version__

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

    from normwise.compare.report.study.reading import StudyResults

RESULTS = "results.json"
_LEFT_OUT = ("curves", "changes")  # of each candidate: they are in its own comparison


class Study:
    """What came of several comparisons, side by side.

    by           what tells them apart: "task", "run", or the option that was varied
    comparisons  each `Comparison` by its label: a value, a task's name, a run's folder
    results      the figures, as in results.json
    best         the candidate with the best mean rank
    table        the figures as text, 80 columns wide
    folder       where results.json and report.html are, of the study itself
    """

    def __init__(
        self, by: str, comparisons: Mapping[str, Comparison], folder: Path | str, command: str = ""
    ) -> None:
        if not comparisons:
            raise NormError("a study takes at least one comparison")
        self.by = by
        self.comparisons = dict(comparisons)
        self.folder = Path(folder)
        self.results = _gather(by, self.comparisons, self.folder, command)

    @classmethod
    def load(cls, folder: Path | str) -> "Study":
        """Read a study back from the ledgers of its comparisons.

        Raises
            NormError  if the folder holds no study, or a comparison of it is gone.
        """
        folder = Path(folder)
        held = _manifest(folder)
        if held is None:
            raise NormError(f"{folder} holds no study; name the folder of one")
        comparisons = {
            entry["label"]: Comparison.load(folder / entry["folder"])
            for entry in held["comparisons"]
        }
        return cls(held["by"], comparisons, folder, held["command"])

    @property
    def best(self) -> str:
        ranks = self._read().ranks
        if not ranks:
            raise NormError("no candidate has a score in every comparison, so none is best")
        return min(ranks, key=lambda name: ranks[name])

    @property
    def table(self) -> str:
        from normwise.compare.report.study.table import render_study_table

        return render_study_table(self.results)

    @property
    def advice(self) -> str:
        """Which candidate is recommended where, in one sentence."""
        from normwise.compare.report.study.words import advice

        return advice(self._read())

    def write(self) -> None:
        """Write results.json and report.html into the folder."""
        from normwise.compare.report.study.page import write_study

        part = self.folder / f"{RESULTS}.part"
        with disk_explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(self.results, indent=2, allow_nan=False) + "\n", "utf-8")
            part.replace(self.folder / RESULTS)
            write_study(self.results, self.folder / "report.html")

    def frame(self) -> "pandas.DataFrame":
        """The figures with a row for each candidate of each comparison, as a pandas DataFrame.

        Raises
            NormError  if pandas is not installed.
        """
        return frame_of(
            {self.by: label, **row}
            for label, comparison in self.comparisons.items()
            for row in rows_of(comparison.results)
        )

    def plot_scores(self) -> "Figure":
        """Mean scores, or errors, against what differs: a line for each norm."""
        from normwise.compare.report.study.sweep import sweep

        return figure_of(sweep(self._read()), "the comparisons share no metric, or there is one")

    def plot_differences(self) -> "Figure":
        """The paired differences from the baseline, a panel for each candidate."""
        from normwise.compare.report.study.panels import differences

        return figure_of(differences(self._read()), "the comparisons share no metric, or no pairs")

    def plot_ranks(self) -> "Figure":
        """Mean ranks over the tasks, and which of them differ."""
        from normwise.compare.report.study.ranks import critical_differences

        reason = "ranks are tested over several tasks that share their candidates"
        return figure_of(critical_differences(self._read()), reason)

    def save(self, path: Path | str) -> Path:
        """Copy the study and all of its comparisons to another folder; returns it.

        Raises
            NormError  if there is something in that folder, or it cannot be written.
        """
        target = Path(path)
        check_new(target)
        saved = {
            label: Comparison(comparison.results, comparison.save(target / _safe(label)))
            for label, comparison in self.comparisons.items()
        }
        Study(self.by, saved, target, self.results["command"]).write()
        return target

    def _repr_html_(self) -> str:
        from normwise.compare.report.notebook import study_card

        return study_card(self._read())

    def _read(self) -> "StudyResults":
        from normwise.compare.report.study.reading import read_study

        return read_study(self.results)

    def __getitem__(self, label: object) -> Comparison:
        return self.comparisons[str(label)]

    def __repr__(self) -> str:
        return f"{self.table}\n{self.advice}"


def compare_several(
    *,
    task: Task | Sequence[Task],
    candidates: Sequence[str] | None,
    vary: Mapping[str, Sequence[Any]] | None,
    out: Path | str | None,
    command: str,
    **options: Any,
) -> Study:
    """Compare one task after the other, each in a folder of its own; the study grows with them.

    The arguments are those of `compare`.

    Raises
        NormError  before any trial, if a candidate does not fit one of the tasks.
    """
    if vary is None:
        by, tasks = "task", named([task] if isinstance(task, Task) else task)
        folder = Path("runs") / _safe("+".join(tasks))
    elif isinstance(task, Task):
        by, tasks = varied(task, vary)
        folder = Path("runs") / _safe(f"{task.name or 'task'}-by-{by}")
    else:
        raise NormError("vary an option of one task, or compare several tasks; not both")
    folder = folder if out is None else Path(out)
    for each in tasks.values():
        checked_candidates(each, candidates)
    done: dict[str, Comparison] = {}
    for label, each in tasks.items():
        own = folder / _safe(label if by == "task" else f"{by}={label}")
        done[label] = compare(each, candidates, out=own, command=command, **options)
        study = Study(by, done, folder, command)
        study.write()
    return study


def varied(task: Task, vary: Mapping[str, Sequence[Any]]) -> tuple[str, dict[str, Task]]:
    """The option, and the task at each of its values, by the value as text.

    Raises
        NormError  if it is not one option with at least two values, each its own.
    """
    if len(vary) != 1:
        raise NormError(
            f"vary one option at a time, as in vary={{'batch_size': [4, 16]}}; "
            f"received {', '.join(vary) or 'none'}"
        )
    ((option, values),) = vary.items()
    labels = [_label(value) for value in values]
    if len(labels) < 2 or len(set(labels)) < len(labels):
        raise NormError(
            f"{option} takes at least two values that differ; "
            f"received {', '.join(labels) or 'none'}"
        )
    tasks = {}
    for label, value in zip(labels, values, strict=True):
        tasks[label] = task.replace(**{option: value})
        tasks[label].name = f"{task.name or 'task'}, {option}={label}"
    return option, tasks


def named(tasks: Iterable[Task]) -> dict[str, Task]:
    """The tasks by their names.

    Raises
        NormError  if there is none, or two share a name.
    """
    by_name: dict[str, Task] = {}
    for task in tasks:
        if not isinstance(task, Task):
            raise NormError(f"compare takes a Task or several, received {type(task).__name__}")
        name = task.name or "task"
        if name in by_name:
            raise NormError(f"two tasks are called {name!r}; give each a name, as in Task(name=…)")
        by_name[name] = task
    if not by_name:
        raise NormError("compare takes a Task or several, and received none")
    return by_name


def side_by_side(runs: Sequence[Path], out: Path | None, command: str) -> Study:
    """The comparisons in several folders, as one study; in runs/a+b if `out` is left out.

    Raises
        NormError  if one of them holds no finished comparison.
    """
    short = [run.resolve().name for run in runs]
    labels = short if len(set(short)) == len(short) else [str(run) for run in runs]
    if len(set(labels)) < len(labels):
        raise NormError(f"name each run once; received {', '.join(labels)}")
    comparisons = {label: Comparison.load(run) for label, run in zip(labels, runs, strict=True)}
    folder = Path("runs") / _safe("+".join(labels)) if out is None else out
    return Study("run", comparisons, folder, command)


def is_study(folder: Path) -> bool:
    """Whether a folder holds a study rather than a comparison."""
    return _manifest(folder) is not None


def _manifest(folder: Path) -> dict[str, Any] | None:
    try:
        held = json.loads((folder / RESULTS).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return held if isinstance(held, dict) and "comparisons" in held else None


def _gather(
    by: str, comparisons: Mapping[str, Comparison], folder: Path, command: str
) -> dict[str, Any]:
    """All figures of a study, as results.json holds them."""
    entries = [
        {
            "label": label,
            "folder": os.path.relpath(comparison.folder, folder),
            **comparison.results,
            "candidates": [
                {key: value for key, value in row.items() if key not in _LEFT_OUT}
                for row in comparison.results["candidates"]
            ],
        }
        for label, comparison in comparisons.items()
    ]
    return {
        "normwise": __version__,
        "by": by,
        "comparisons": entries,
        **_together(by, comparisons),
        "command": command,
        "finished": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def _together(by: str, comparisons: Mapping[str, Comparison]) -> dict[str, Any]:
    """A ranking where the comparisons are tasks, sensitivities where they are values."""
    from normwise.compare.ranks import levels, rank, sensitivity  # NumPy loads when it is needed

    scores = {
        label: {
            name: level * (1 if one.results["metric"]["higher_is_better"] else -1)
            for name, level in levels(one.results).items()
        }
        for label, one in comparisons.items()
    }
    shared = set.intersection(*map(set, scores.values()))
    ranking = rank(scores, True) if by == "task" and len(scores) > 1 < len(shared) else None
    swept = by not in ("task", "run") and len(scores) > 1
    return {
        "ranking": ranking
        and {
            "mean_ranks": ranking.mean_ranks,
            "p": ranking.p,
            "critical_difference": ranking.critical_difference,
            "cliques": [list(clique) for clique in ranking.cliques],
            "pairwise": [{"pair": list(pair), "p": p} for pair, p in ranking.pairwise.items()],
        },
        "sensitivity": sensitivity(scores, True) if swept else None,
    }


def _label(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _safe(name: str) -> str:
    """The name as a folder's: nothing in it leads elsewhere, and it is not too long for one."""
    plain = "".join(c if c.isalnum() or c in "-_.+=" else "_" for c in name)
    return plain.strip(".")[:100] or "_"
