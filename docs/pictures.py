"""Draw the pictures of README and docs from finished runs: a table, a report, a sweep.

    make compare && make pictures

The screenshot needs Chromium (or Chrome) on the PATH. The sweep is drawn where there is
one: docs/comparing.md has its command.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

import normwise as nw
from normwise.compare.report.table import WIDTH, build_table

IMAGES = Path(__file__).parent / "images"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def draw_table(comparison: nw.Comparison) -> None:
    """The table and the sentence below it, as `normwise compare` prints them."""
    console = Console(width=WIDTH, record=True, file=sys.stderr, force_terminal=True)
    console.print(build_table(comparison.results))
    console.print()
    console.print(Text(comparison.results["recommendation"]["why"], style="bold"))
    console.save_svg(str(IMAGES / "table.svg"), title="normwise compare")


def draw_report(comparison: nw.Comparison, height: int) -> None:
    """The upper part of report.html at 1200 px."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"none of {', '.join(BROWSERS)} is installed, so there is no screenshot")
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                browser,
                *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
                *("--no-first-run", "--disable-background-networking", "--disable-sync"),
                *("--disable-component-update", "--disable-quic"),
                f"--user-data-dir={profile}",
                f"--window-size=1200,{height}",
                f"--screenshot={IMAGES / 'report.png'}",
                (comparison.folder / "report.html").resolve().as_uri(),
            ],
            check=True,
            capture_output=True,
        )


def draw_sweep(study: nw.Study) -> None:
    """Error against batch size, a line for each norm."""
    study.plot_scores().savefig(IMAGES / "batch_size.png", dpi=160)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", default="runs/japanese-vowels")
    parser.add_argument("--sweep", default="runs/japanese-vowels-by-batch_size", type=Path)
    parser.add_argument("--height", type=int, default=2300, help="of the screenshot, in pixels")
    options = parser.parse_args()
    IMAGES.mkdir(exist_ok=True)
    if options.sweep.is_dir():
        draw_sweep(nw.Study.load(options.sweep))
    comparison = nw.Comparison.load(options.run)
    draw_table(comparison)
    draw_report(comparison, options.height)


if __name__ == "__main__":
    main()
