"""What a comparison or a study came to, on a terminal."""

import json
from typing import TYPE_CHECKING

from normwise.cli.terminal import terminal
from normwise.compare import Comparison, Study

if TYPE_CHECKING:
    from rich.console import Console


def show(shown: Comparison | Study, *, as_json: bool) -> None:
    """Print tables, a sentence and the files' names; with as_json the results alone."""
    if as_json:
        print(json.dumps(shown.results, indent=2))
        return
    from rich.text import Text

    console = terminal()
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
