"""Tasks, and other things, that a Python file of the user's defines."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from normwise.compare.task.task import Task
from normwise.errors import NormError, one_line

TASK_MODULE = "normwise_task_"  # what the name of an imported task file begins with


def load_task(path: Path) -> Task:
    """The ``task`` that a Python file defines.

    Raises
        NormError  if there is no such file, it raises, or it defines no task.
    """
    module = load_module(path, "; a task file is a Python file with task = nw.Task(…)")
    task = getattr(module, "task", None)
    if not isinstance(task, Task):
        found = "no `task`" if task is None else f"a `task` that is a {type(task).__name__}"
        raise NormError(f"{path} has {found}; write task = nw.Task(model=…, train=…, valid=…)")
    task.name = task.name or path.stem
    return task


def load_module(path: Path, hint: str = "") -> ModuleType:
    """The module that a Python file of the user's is; `hint` says what it should have been.

    Raises
        NormError  if there is no such file, or it raises.
    """
    if not path.is_file():
        raise NormError(f"there is no file {path}{hint}")
    spec = importlib.util.spec_from_file_location(f"{TASK_MODULE}{path.stem}", path)
    if spec is None or spec.loader is None:
        raise NormError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    folder = str(path.parent.resolve())
    if folder not in sys.path:  # it stays there: neighbours may be imported later, and by workers
        sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        line = _line_in(module.__file__, error)
        raise NormError(f"{path}{line} raised on import, {one_line(error)}") from error
    return module


def _line_in(file: str | None, error: BaseException) -> str:
    """Where in the user's own file an error came from: ', line 7,'."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return f", line {error.lineno},"
    numbers = []
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == file:
            numbers.append(traceback.tb_lineno)
        traceback = traceback.tb_next
    return f", line {numbers[-1]}," if numbers else ""
