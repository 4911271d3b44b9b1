"""A plugin of pytest, for `make sanitize`: the kernels of build/sanitize in place of the package's.

An editable install finds its own module before whatever a path says, so it is put in by hand.
"""

import importlib.util
import sys
from pathlib import Path

import torch  # noqa: F401  (its threads, before the kernels')

(_path,) = Path("build/sanitize").glob("_native*")
_spec = importlib.util.spec_from_file_location("normwise._native", _path)
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
sys.modules[_spec.name] = _module


def pytest_report_header() -> str:
    """Which kernels are tested."""
    return f"kernels: {_module.__file__}"
