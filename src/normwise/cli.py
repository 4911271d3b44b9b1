"""The command: parse, call, print."""

import argparse
import json
import os
import re
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normwise.catalogue import catalogue, split_candidates
from normwise.compare import Comparison, Study, Task, compare, load_task
from normwise.compare.comparison import SEEDS
from normwise.compare.engines import ENGINES
from normwise.compare.loggers import LOGGERS
from normwise.compare.study import is_study, side_by_side
from normwise.compare.task import load_module
from normwise.compare.watching import watch, write_csv
from normwise.demands import IN_WORDS
from normwise.errors import NormError
from normwise.recipes import function_of, recipes
from normwise.version import __version__

if TYPE_CHECKING:
    import torch
    from rich.console import Console


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code.

    0 done, 1 the doctor found something wrong, 2 bad input (one line says what is
    wrong), 130 stopped by Ctrl-C.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser().parse_args(words)
    options.command_line = shlex.join(["normwise", *words])
    try:
        code = options.call(options)
    except NormError as error:
        print(f"normwise: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nnormwise: stopped; {options.left}", file=sys.stderr)
        return 130
    return code or 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="normwise", description="Find the right normalization layer for a network."
    )
    parser.add_argument("--version", action="version", version=f"normwise {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    parser.set_defaults(left="nothing was written")  # if the command is stopped

    run = commands.add_parser(
        "compare",
        help="try norms on a task and say which to take",
        description="Try normalization layers on a task, every one with the same seeds, and say "
        "which to take and how sure that is. Without a file: speaker recognition on speech that "
        "comes with normwise. With several, or with --vary, a report of all together as well. "
        "Stopped anywhere, the same command goes on.",
    )
    run.add_argument("task", nargs="*", type=Path, help="Python files with task = nw.Task(...)")
    run.add_argument(
        "--vary",
        type=_values,
        metavar="KEY=A,B,…",
        help="an option of the task and its values, as in batch_size=2,8,32 or lr=1e-4,1e-3",
    )
    run.add_argument(
        "--candidates",
        type=split_candidates,
        metavar="A,B,…",
        help="norms to try, as in group:8,rms (see `normwise list`); all that fit if left out",
    )
    run.add_argument(
        "--seeds", type=int, default=SEEDS, metavar="K", help=f"trials for each norm; up to {SEEDS}"
    )
    run.add_argument(
        "--grid", action="store_true", help="all trials for all norms: no race that drops losers"
    )
    run.add_argument("--budget", type=_seconds, metavar="T", help="of the race, as in 90s, 10m, 2h")
    run.add_argument("--max-trials", type=int, metavar="N", help="of the race, all norms together")
    run.add_argument(
        "--equivalent-within",
        type=float,
        metavar="X",
        help="a difference of the metric that does not matter; what another seed does, if left out",
    )
    run.add_argument("--epochs", type=int, metavar="K", help="instead of the task's own")
    run.add_argument("--batch-size", type=int, metavar="N", help="instead of the task's own")
    run.add_argument("--out", type=Path, metavar="DIR", help="default: runs/<task name>")
    run.add_argument(
        "--workers", type=int, metavar="K", help="trials at a time; default: what there is room for"
    )
    run.add_argument("--engine", choices=ENGINES, help="where trials run; default: processes")
    run.add_argument("--address", metavar="A", help="of the Ray cluster, as in 10.0.0.1:6379")
    run.add_argument(
        "--gpus-per-trial", type=float, metavar="X", help="on Ray: 0.25 lets four share a GPU"
    )
    run.add_argument(
        "--trial-timeout", type=float, metavar="S", help="seconds after which a trial is ended"
    )
    run.add_argument(
        "--log", type=_words, default=[], metavar="A,B,…", help=f"of {', '.join(LOGGERS)}"
    )
    run.add_argument(
        "--compiled", action="store_true", help="time what torch.compile makes of them, too"
    )
    run.add_argument("--fresh", action="store_true", help="forget the trials in the folder")
    run.add_argument("--json", action="store_true", help="print results.json, not the table")
    run.set_defaults(call=_compare, left="finished trials are kept, and the same command goes on")

    report = commands.add_parser("report", help="draw the report of a run again")
    report.add_argument(
        "run",
        type=Path,
        nargs="+",
        help="folder of a run; several: side by side",
    )
    report.add_argument("--out", type=Path, metavar="DIR", help="for several; default: runs/A+B")
    report.add_argument("--json", action="store_true", help="print results.json, not the table")
    report.add_argument("--watch", action="store_true", help="show a run that is going on")
    report.add_argument(
        "--csv", nargs="?", const="-", metavar="FILE", help="print, or write, a row for each trial"
    )
    report.set_defaults(call=_report)

    doctor = commands.add_parser(
        "doctor",
        help="say what is wrong with the norms of a model",
        description="Run a model on a sample and say what is wrong with its norms, worst first, "
        "with the calls that cure it. Exit code 1 if something is.",
    )
    doctor.add_argument(
        "model",
        metavar="FILE.py:NAME",
        help="a module, or a function of nothing that returns one",
    )
    doctor.add_argument(
        "--sample",
        required=True,
        metavar="N,C,T|FILE",
        help="shape of a random batch, or a .npy or .pt file with one",
    )
    doctor.add_argument("--lengths", type=_numbers, metavar="A,B,…", help="of the padded series")
    doctor.add_argument("--steps", type=int, metavar="K", help="of the training")
    doctor.add_argument("--json", action="store_true", help="print the findings as JSON")
    doctor.set_defaults(call=_doctor)

    timed = commands.add_parser(
        "bench",
        help="time the layers on this machine",
        description="Time every layer on many inputs, beside torch.nn, torch.nn compiled and a "
        "copy of the input, all taking turns; then the peak memory of training steps.",
    )
    timed.add_argument("--quick", action="store_true", help="one input of 8 MB for each norm")
    timed.add_argument("--only", metavar="PATTERN", help="as in group, *step*bfloat16 or 10x20x100")
    timed.add_argument("--out", type=Path, default=Path("runs/bench"), metavar="DIR")
    timed.add_argument("--json", action="store_true", help="print the figures, not the table")
    timed.set_defaults(call=_bench)

    _add_recipes(commands)

    norms = commands.add_parser("list", help="print the catalogue of norms")
    norms.set_defaults(call=_list)
    return parser


def _add_recipes(commands: Any) -> None:
    every = commands.add_parser(
        "recipe",
        help="whole applications on real data",
        description="Whole applications on real data, each a start to copy from.",
    )
    every.set_defaults(call=_recipes)
    named = every.add_subparsers(metavar="NAME", title="recipes")
    for name, module in recipes().items():
        documentation = (module.__doc__ or "").strip()
        one = named.add_parser(
            name,
            help=documentation.partition("\n")[0],
            description=documentation,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_options(one)
        one.add_argument("--out", type=Path, default=Path("runs") / name, metavar="DIR")
        one.add_argument("--json", action="store_true", help="print the figures, not the table")
        one.set_defaults(
            call=_recipe,
            recipe=name,
            left="finished trials are kept, and the same command goes on",
        )


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _values(text: str) -> dict[str, list[int | float | str]]:
    """batch_size=2,4 → {"batch_size": [2, 4]}."""
    option, equals, values = text.partition("=")
    if not equals or not option:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=A,B,…, as in batch_size=2,8,32")
    return {option.strip().replace("-", "_"): [_value(part) for part in values.split(",")]}


def _value(text: str) -> int | float | str:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text.strip()


def _compare(options: argparse.Namespace) -> None:
    if options.task:
        tasks = [load_task(path) for path in options.task]
    else:
        from normwise.recipes import vowels

        tasks = [vowels.task()]
    tasks = [t.replace(epochs=options.epochs, batch_size=options.batch_size) for t in tasks]
    result = compare(
        tasks[0] if len(tasks) == 1 else tasks,
        options.candidates,
        vary=options.vary,
        seeds=options.seeds,
        out=options.out,
        workers=_workers(options, tasks),
        engine=options.engine,
        trial_timeout=options.trial_timeout,
        address=options.address,
        gpus_per_trial=options.gpus_per_trial,
        log=options.log,
        compiled=options.compiled,
        fresh=options.fresh,
        race=not options.grid,
        equivalent_within=options.equivalent_within,
        budget_s=options.budget,
        max_trials=options.max_trials,
        progress=not options.json,
        command=options.command_line,
    )
    _show(result, as_json=options.json)


def _seconds(text: str) -> float:
    """90s, 10m, 2h or 1h30m → seconds."""
    parts = re.fullmatch(r"(?:([\d.]+)h)?(?:([\d.]+)m)?(?:([\d.]+)s?)?", text)
    if not text or parts is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write 90s, 10m, 2h or 1h30m")
    numbers = [float(part or 0) for part in parts.groups()]
    return numbers[0] * 3600 + numbers[1] * 60 + numbers[2]


def _workers(options: argparse.Namespace, tasks: Sequence[Task]) -> int | None:
    """As asked for; else one trial per core at a time, and on a GPU one at a time."""
    if options.workers is not None or options.engine in ("here", "ray"):
        workers: int | None = options.workers
        return workers
    if any(task.device.type != "cpu" for task in tasks):
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (cores or 1) // max(task.threads for task in tasks))


def _report(options: argparse.Namespace) -> None:
    first = options.run[0]
    if len(options.run) > 1 and (options.watch or options.csv is not None):
        raise NormError("--watch and --csv take one run at a time")
    if options.csv is not None:
        write_csv(first, options.csv)
        return
    if options.watch:
        options.left = "what was watched goes on"
        watch(first)
    shown: Comparison | Study
    if len(options.run) > 1:
        shown = side_by_side(options.run, options.out, options.command_line)
    else:
        shown = Study.load(first) if is_study(first) else Comparison.load(first)
    shown.write()
    _show(shown, as_json=options.json)


def _show(shown: Comparison | Study, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(shown.results, indent=2))
        return
    from rich.console import Console
    from rich.text import Text

    from normwise.compare.report.table import WIDTH

    console = Console(highlight=False)
    console = Console(highlight=False, width=min(console.width, WIDTH))
    if isinstance(shown, Study):
        _show_study(shown, console)
    else:
        _show_comparison(shown, console)
    for name in ("report.html", "results.json", "ledger.sqlite"):
        if (shown.folder / name).exists():
            console.print(Text(str(shown.folder / name), style="dim"), soft_wrap=True)


def _show_comparison(comparison: Comparison, console: "Console") -> None:
    from rich.text import Text

    from normwise.compare.report.table import build_table, footer

    results = comparison.results
    console.print(build_table(results))
    console.print(Text(footer(results), style="dim"))
    console.print("", Text(results["recommendation"]["why"], style="bold"), "", sep="\n")
    for row in results["candidates"]:
        for failure in row["failed"]:
            console.print(Text(f"{row['name']}, seed {failure['seed']}: {failure['reason']}"))
        for retried in row["retried"]:
            if str(retried["seed"]) in row["scores"]:
                why = "; ".join(retried["why"])
                console.print(Text(f"{row['name']}, seed {retried['seed']}: tried again, {why}"))


def _show_study(study: Study, console: "Console") -> None:
    from rich.text import Text

    from normwise.compare.report.study.table import build_tables, legend

    for table in build_tables(study.results):
        console.print(table, "", sep="\n")
    console.print(Text(legend(study.results), style="dim"))
    console.print("", Text(study.advice, style="bold"), "", sep="\n")


def _doctor(options: argparse.Namespace) -> int:
    from normwise.doctor import doctor

    model = _model(options.model)
    findings = doctor(model, _sample(options.sample), lengths=options.lengths, steps=options.steps)
    print(json.dumps(findings.rows(), indent=2) if options.json else findings)
    return 0 if findings.healthy else 1


def _model(spec: str) -> "torch.nn.Module":
    """The module that FILE.py:NAME means, built if it is a function."""
    import torch

    file, _, name = spec.rpartition(":")
    if not file:
        raise NormError(f"model {spec!r} needs a name in it: write {spec}:build")
    found = getattr(load_module(Path(file)), name, None)
    if not isinstance(found, torch.nn.Module) and callable(found):
        found = found()
    if not isinstance(found, torch.nn.Module):
        raise NormError(f"{file} has no {name} that is a module or a function that returns one")
    return found


def _sample(text: str) -> "torch.Tensor":
    """A batch from a file, or random numbers of a shape; the same in every run."""
    import numpy
    import torch

    path = Path(text)
    if path.suffix == ".npy" and path.is_file():
        return torch.from_numpy(numpy.load(path))
    if path.suffix in (".pt", ".pth") and path.is_file():
        loaded = torch.load(path)
        if not isinstance(loaded, torch.Tensor):
            raise NormError(f"{path} holds a {type(loaded).__name__}, and a tensor is wanted")
        return loaded
    try:
        shape = _numbers(text)
    except ValueError:
        raise NormError(
            f"--sample {text!r} is neither a shape, as 8,12,100, nor a .npy or .pt file"
        ) from None
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _bench(options: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.progress import Progress
    from rich.text import Text

    from normwise import bench
    from normwise.bench.table import WIDTH, build_table, summary

    cases = bench.chosen(options.only, quick=options.quick)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("")
        results = bench.measure(
            cases,
            memory=not options.quick,
            on_progress=lambda words, done, total: progress.update(
                task, description=words, completed=done, total=total
            ),
        )
    paths = bench.write(results, options.out)
    if options.json:
        print(json.dumps(results, indent=2))
        return
    console = Console(highlight=False)
    console = Console(highlight=False, width=min(console.width, WIDTH))
    console.print(build_table(results["rows"]))
    console.print("", *map(Text, summary(results)), "", sep="\n")
    for path in paths:
        console.print(Text(str(path), style="dim"), soft_wrap=True)


def _recipes(options: argparse.Namespace) -> None:
    for name, module in recipes().items():
        print(f"{name:10}{(module.__doc__ or '').strip().splitlines()[0]}")
    print("\nnormwise recipe NAME --help tells more.")


def _recipe(options: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    others = ("call", "left", "recipe", "json", "command_line")
    told = {name: value for name, value in vars(options).items() if name not in others}
    outcome = function_of(options.recipe)(**told, command=options.command_line)
    if options.json:
        print(json.dumps(outcome.figures, indent=2))
        return
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for i, heading in enumerate(outcome.columns):
        table.add_column(heading, overflow="fold", justify="right" if i else "left")
    for row in outcome.rows:
        table.add_row(*map(Text, row))
    console = Console(highlight=False)
    console = Console(highlight=False, width=min(console.width, 80))
    with console.capture() as captured:
        console.print(table, "", *map(Text, outcome.notes), "", sep="\n")
    for line in captured.get().splitlines():
        print(line.rstrip())
    for path in outcome.files:
        console.print(Text(str(path), style="dim"), soft_wrap=True)


def _list(options: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    def table(*columns: str) -> Table:
        made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for column in columns:
            made.add_column(column, overflow="fold")
        return made

    norms = table("candidate", "averages", "when", "source")
    costs = table("candidate", "inference", "sees its", "training", "sees its", "keeps")
    for entry in catalogue().values():
        norms.add_row(entry.usage, entry.averages or "nothing", entry.when, entry.source)
        least = entry.demands
        costs.add_row(
            entry.usage,
            f"{least.inference.reads} + {least.inference.writes}",
            least.infers_from,
            f"{least.training.reads} + {least.training.writes}",
            least.trains_on,
            "\n".join(least.keeps) or "nothing",
        )
    console = Console(markup=False, highlight=False)
    console.print(norms, "", costs, "", IN_WORDS, sep="\n", markup=False)


if __name__ == "__main__":
    sys.exit(main())
