"""What candidates are tried on: a model, data, a loss, a metric, a budget."""

from normwise.compare.task.files import TASK_MODULE, load_module, load_task
from normwise.compare.task.task import Task
from normwise.compare.task.windows import Windows

__all__ = ["TASK_MODULE", "Task", "Windows", "load_module", "load_task"]
