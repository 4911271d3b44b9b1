"""From a task and its candidates to a result: schedule, run, judge, report."""

import io
import json
import math
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import torch

from normwise.catalogue import catalogue, parse_candidate
from normwise.compare.cost import measure_costs
from normwise.compare.engines import Engine, choose_engine
from normwise.compare.interrupts import answering_interrupts, interrupts_held
from normwise.compare.ledger import Ledger, disk_explained, existing
from normwise.compare.loggers import Logs, Run
from normwise.compare.progress import Progress, plan_of
from normwise.compare.randomness import own_randomness
from normwise.compare.schedule import Grid, Schedule, Trial
from normwise.compare.sharing import Driver, Shared, discard
from normwise.compare.shown import ShownComparison, copy_run
from normwise.compare.task import Task
from normwise.compare.trial import AS_IS, Outcome, candidate_model, run_trial, threads
from normwise.errors import NormError
from normwise.machine import describe_machine
from normwise.surgery import find, plan
from normwise.version import __version__

if TYPE_CHECKING:
    from normwise.compare.study import Study

SEEDS = 12
FIRST_SEED = 0


class Comparison(ShownComparison):
    """What came of trying candidates on a task.

    A notebook shows it; `plot_scores`, `plot_differences`, `plot_curves`, `plot_costs` and
    `plot_race` are the plots of its report, and `frame` is a pandas DataFrame.

    results   the figures, as in results.json
    best      the recommended candidate
    table     the figures as text, 80 columns wide
    folder    where the ledger, results.json and report.html are
    """

    def __init__(self, results: dict[str, Any], folder: Path, task: Task | None = None) -> None:
        self.results = results
        self.folder = folder
        self._task = task

    @classmethod
    def load(cls, folder: Path | str, task: Task | None = None) -> "Comparison":
        """Read a comparison back from its ledger; `task` is needed for `model` alone.

        Raises
            NormError  if there is no ledger in the folder, or none that was finished once,
                       or it is another task's.
        """
        from normwise.compare.results import gather_results  # SciPy loads when it is needed

        folder = Path(folder)
        with existing(folder) as ledger:
            if task is not None:
                ledger.claim(task.fingerprint(), "load it with the task it was run with")
            return cls(gather_results(ledger), folder, task)

    @property
    def best(self) -> str:
        name: str = self.results["recommendation"]["candidate"]
        return name

    @property
    def table(self) -> str:
        from normwise.compare.report.table import render_table

        return render_table(self.results)

    def model(self, candidate: str | None = None, seed: int = FIRST_SEED) -> torch.nn.Module:
        """The model with a candidate's norms, trained with a seed; `best` if left out.

        A model that was not kept is trained again.

        Raises
            NormError  if the candidate or seed is not among those compared, or its trial failed.
        """
        candidate = self.best if candidate is None else candidate
        known = [row["name"] for row in self.results["candidates"]]
        if candidate not in known:
            raise NormError(f"{candidate!r} was not compared; these were: {', '.join(known)}")
        if seed not in self.results["seeds"]:
            asked = ", ".join(map(str, self.results["seeds"]))
            raise NormError(f"seed {seed} was not tried; these were: {asked}")
        if self._task is None:
            raise NormError("to build a model, load the comparison with its task: load(run, task)")
        path = _weights_path(self.folder, candidate, seed)
        if path.is_file():
            weights = torch.load(path, map_location=self._task.device)
        else:
            outcome = run_trial(self._task, candidate, seed, keep_weights=True)
            if outcome.weights is None:
                raise NormError(f"{candidate!r} has no trained model: {outcome.reason}")
            weights = outcome.weights
        model = candidate_model(self._task, candidate, seed)
        model.load_state_dict(weights)
        return model.eval()

    def write(self) -> None:
        """Write results.json and report.html into the folder."""
        from normwise.compare.report import write_report

        text = json.dumps(self.results, indent=2, allow_nan=False)
        part = self.folder / f"results.json.{os.getpid()}.part"  # another driver may write, too
        with disk_explained(self.folder):
            part.write_text(text + "\n", encoding="utf-8")
            part.replace(self.folder / "results.json")
            write_report(self.results, self.folder / "report.html")

    def save(self, path: Path | str) -> Path:
        """Copy the run, its ledger and its models to another folder, for `load`; returns it.

        Raises
            NormError  if there is something in that folder, or it cannot be written.
        """
        copy_run(self.folder, Path(path))
        return Path(path)

    def __repr__(self) -> str:
        return f"{self.table}\n{self.results['recommendation']['why']}"


@overload
def compare(
    task: Task, candidates: Sequence[str] | None = None, *, vary: None = None, **options: Any
) -> Comparison: ...


@overload
def compare(
    task: Task | Sequence[Task],
    candidates: Sequence[str] | None = None,
    *,
    vary: Mapping[str, Sequence[Any]] | None = None,
    **options: Any,
) -> "Study": ...


def compare(  # type: ignore[misc]  # **options above are the ones named here
    task: Task | Sequence[Task],
    candidates: Sequence[str] | None = None,
    *,
    vary: Mapping[str, Sequence[Any]] | None = None,
    seeds: int = SEEDS,
    out: Path | str | None = None,
    workers: int | None = None,
    engine: str | None = None,
    trial_timeout: float | None = None,
    address: str | None = None,
    gpus_per_trial: float | None = None,
    log: Sequence[str] = (),
    fresh: bool = False,
    race: bool = True,
    equivalent_within: float | None = None,
    budget_s: float | None = None,
    max_trials: int | None = None,
    keep_models: Literal["first", "all"] = "first",
    compiled: bool = False,
    progress: bool = True,
    command: str = "normwise.compare(...)",
) -> "Comparison | Study":
    """Try candidates on a task with paired seeds, and say which to take and how sure that is.

    Finished trials are in ``<out>/ledger.sqlite`` the moment they end: stopped
    anywhere, the same call goes on and repeats nothing. The model as it is, and
    no norm at all, are always among the candidates.

    Several tasks, or one at several values of an option, are as many comparisons, each
    in a folder of its own, and a `Study` of them all.

    candidates  catalogue names, as in "group:8"; those that fit the model if left out
    vary        an option of the task and its values, as in {"batch_size": [2, 4, 8]}
    seeds       how many trials each candidate gets at most, with seeds 0, 1, …
    out         folder for ledger, results.json and report.html; runs/<task name> if left out
    workers     how many trials run at a time; one if left out, on Ray all there is room for
    engine      "here", in this process; "processes" of this machine; or "ray", a cluster.
                If left out, processes where more than one worker or a time limit is asked for
    trial_timeout  seconds after which a trial is ended and tried again, twice at most
    address     of the Ray cluster; gpus_per_trial says what a trial takes of a GPU there
    log         "tensorboard", "mlflow" or "wandb", or several of them
    fresh       forget what the ledger holds
    race        stop giving seeds to a candidate once it has lost or its verdict is in;
                False: the full grid, candidates × seeds
    equivalent_within  a difference this small, in the metric's unit, does not
                matter; the seeds' own noise if left out
    budget_s    seconds after which a race begins no further trial
    max_trials  a race begins a seed only if all of it fits within so many trials
    keep_models  the trained models of the "first" seed are kept for `Comparison.model`,
                or those of "all"
    compiled    time every candidate as torch.compile makes it, too; that takes a minute
    progress    show what is going on, where the output is a terminal

    Raises
        NormError  before any trial, if a candidate does not fit or the folder holds
                   another task's ledger; or if the metric fails.
    """
    asked = dict(locals())  # first, while nothing else is there
    if vary is not None or not isinstance(task, Task):
        from normwise.compare.study import compare_several  # which stands on this module

        return compare_several(**asked)
    # SciPy loads when it is needed.
    from normwise.compare.race import Race, history
    from normwise.compare.results import gather_results

    if not isinstance(seeds, int) or seeds < 1:
        raise NormError(f"seeds must be a whole number above 0, received {seeds!r}")
    for option, given in (("candidates", candidates), ("log", log)):
        if isinstance(given, str):
            raise NormError(f"{option} must be a list, as in [{given!r}]")
    chosen = choose_engine(
        engine,
        workers=workers,
        trial_timeout=trial_timeout,
        address=address,
        gpus_per_trial=gpus_per_trial,
    )
    folder = Path("runs") / (task.name or "task") if out is None else Path(out)
    names, changes = checked_candidates(task, candidates)
    _check_budget(race, equivalent_within, budget_s, max_trials, names)
    fingerprint = task.fingerprint()
    if fresh:
        discard(folder)
        shutil.rmtree(folder / "models", ignore_errors=True)
    with Ledger(folder) as ledger:
        ledger.claim(fingerprint)
        done = ledger.outcomes()
        kept = None if keep_models == "all" else FIRST_SEED
        schedule: Grid | Race
        if race:
            schedule = Race(
                history(
                    done,
                    names,
                    AS_IS,
                    task.higher_is_better,
                    seeds=seeds,
                    equivalent_within=equivalent_within,
                ),
                keep_weights=kept,
                budget_s=budget_s,
                max_trials=max_trials,
            )
        else:
            schedule = Grid(names, seeds, done, keep_weights=kept)
        plan = plan_of(task, names, seeds)
        ledger.write("plan", plan)
        logs = Logs(log, Run(plan["name"], task.settings(), task.metric_name, folder), ledger)
        with (
            answering_interrupts(),
            Driver(ledger) as driver,
            Progress(plan, done, enabled=progress) as shown,
        ):
            run_schedule(task, schedule, chosen, driver, ledger, done, shown, logs)
            shown.say("timing the candidates side by side")
            _keep_costs(task, names, driver, ledger, compiled)
        ledger.write(
            "asked",
            {
                "normwise": __version__,
                "torch": str(torch.__version__),
                "task": {"name": task.name or "task", "settings": task.settings()},
                "metric": {
                    "name": task.metric_name,
                    "higher_is_better": task.higher_is_better,
                },
                "candidates": names,
                "changes": changes,
                "seeds": list(range(seeds)),
                "equivalent_within": equivalent_within,
                "race": {"ended": schedule.ended} if isinstance(schedule, Race) else None,
                "command": command,
                "machine": describe_machine(task.device, task.threads, workers or 1),
                "finished": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
            },
        )
        comparison = Comparison(gather_results(ledger), folder, task)
        comparison.write()
        logs.finish(comparison.results)
    return comparison


def run_schedule(
    task: Task,
    schedule: Schedule,
    engine: Engine,
    driver: Driver,
    ledger: Ledger,
    done: Sequence[Outcome],
    shown: Progress,
    logs: Logs,
) -> None:
    """Run a schedule's trials, those aside that other drivers of the ledger run.

    done  what the schedule knew of the ledger when it was made
    """
    shared = Shared(schedule, ledger, driver, done, shown.add)

    def watch(trial: Trial, epochs: int) -> None:
        shown.watch(trial, epochs)
        driver.reached(trial, epochs)

    with closing(engine.run(task, shared, watch)) as outcomes:
        for outcome in outcomes:
            with interrupts_held():
                _keep_weights(ledger.path.parent, outcome)
                ledger.add(outcome)
            shared.add(outcome)
            shown.add(outcome)
            logs.update()


def _check_budget(
    race: bool,
    equivalent_within: float | None,
    budget_s: float | None,
    max_trials: int | None,
    names: Sequence[str],
) -> None:
    if equivalent_within is not None and not 0 <= equivalent_within < math.inf:
        raise NormError(
            f"equivalent_within must be a difference of 0 or more, received {equivalent_within!r}"
        )
    if not race and (budget_s, max_trials) != (None, None):
        raise NormError(
            "a full grid has no budget: leave out budget and max_trials, or let it be a race"
        )
    if budget_s is not None and not budget_s > 0:
        raise NormError(f"the budget must be above 0 seconds, received {budget_s!r}")
    if max_trials is not None and max_trials < len(names):
        raise NormError(
            f"max_trials={max_trials} does not suffice for one seed: there are {len(names)} "
            f"candidates, {', '.join(names)}"
        )


def checked_candidates(
    task: Task, candidates: Sequence[str] | None
) -> tuple[list[str], dict[str, list[str]]]:
    """Every candidate's name, and what it changes in the model: known to fit before any trial."""
    model = task.checked_model()
    if candidates is None:
        candidates = [name for name in _usual_candidates(model) if _fits(model, name, task)]
    names = [parse_candidate(name).text for name in ["none", *candidates] if name != AS_IS]
    changes = {
        name: [str(change) for change in plan(model, name, task.where, groups="exact").changes]
        for name in names
    }
    return [AS_IS, *changes], {AS_IS: [], **changes}


def _fits(model: torch.nn.Module, name: str, task: Task) -> bool:
    try:
        plan(model, name, task.where, groups="exact")
    except NormError:
        return False
    return True


def _usual_candidates(model: torch.nn.Module) -> list[str]:
    """The catalogue, with as many groups up to 8 as divide every layer's channels."""
    sizes = [site.num_features for site in find(model) if isinstance(site.num_features, int)]
    groups = math.gcd(8, *sizes)
    return [
        f"{entry.name}:{groups}" if entry.argument == "num_groups" else entry.usage
        for entry in catalogue().values()
        if entry.usual
    ]


def _keep_weights(folder: Path, outcome: Outcome) -> None:
    path = _weights_path(folder, outcome.candidate, outcome.seed)
    if outcome.weights is not None:
        path.parent.mkdir(exist_ok=True)
        content = io.BytesIO()
        torch.save(outcome.weights, content)
        part = path.with_suffix(f".{os.getpid()}.part")
        with disk_explained(folder):
            part.write_bytes(content.getbuffer())
            part.replace(path)
    else:
        path.unlink(missing_ok=True)  # what an earlier run left there is not this trial's


def _weights_path(folder: Path, candidate: str, seed: int) -> Path:
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in candidate)
    return folder / "models" / (f"{safe}.pt" if seed == FIRST_SEED else f"{safe}-{seed}.pt")


def _keep_costs(
    task: Task, names: Sequence[str], driver: Driver, ledger: Ledger, compiled: bool
) -> None:
    """Time all candidates together where one has not been timed, of those that can run.

    They are timed with the weights of the first seed, whose trial must not have failed.
    """
    finished = {
        o.candidate for o in ledger.outcomes() if o.seed == FIRST_SEED and o.score is not None
    }
    ran = [name for name in names if name in finished]

    def are_there() -> bool:
        costs = ledger.costs()
        return all(
            name in costs and (not compiled or costs[name].compiling_was_tried) for name in ran
        )

    with driver.alone(are_there) as anything:
        if anything:
            with threads(task.threads), own_randomness(FIRST_SEED):
                costs = measure_costs(task, ran, compiled=compiled)
            for name, cost in costs.items():
                ledger.add_cost(name, cost)
