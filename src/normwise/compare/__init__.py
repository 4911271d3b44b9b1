"""Try candidates on a user's own model and data, and say which to take.

task → trial → ledger → verdict → report
"""

from normwise.compare.adapters import lightning_task, trainer_task
from normwise.compare.comparison import Comparison, compare
from normwise.compare.study import Study
from normwise.compare.task import Task, Windows, load_task

__all__ = [
    "Comparison",
    "Study",
    "Task",
    "Windows",
    "compare",
    "lightning_task",
    "load_task",
    "trainer_task",
]
