"""The plots of a report, in the order in which they are read."""

from normwise.compare.report.curves import curves
from normwise.compare.report.drawing import Plot
from normwise.compare.report.narrowing import race
from normwise.compare.report.pareto import PRICES, costs
from normwise.compare.report.reading import Results
from normwise.compare.report.rows import differences, scores


def draw_plots(results: Results) -> list[Plot]:
    """All plots for which there is something to draw."""
    plots = [
        scores(results),
        differences(results),
        race(results),
        *(curves(results, quantity) for quantity in ("score", "loss")),
        *(costs(results, cost) for cost in PRICES),
    ]
    return [plot for plot in plots if plot]
