"""How findings speak of a norm."""

from typing import Any

from normwise.doctor.examination import Examination, Patient


def patient_of(seen: Examination, path: str) -> Patient:
    """The norm at a path."""
    return next(p for p in seen.patients if p.path == path)


def shape_of(p: Patient) -> str:
    """What it was given: (8,12,100), without spaces for a line to break at."""
    return f"({','.join(map(str, p.inputs[0]))})"


def name_of(p: Patient) -> str:
    """Where a norm is and of what class, with the comma that follows."""
    return f"{p.path or '(the model)'}, {type(p.module).__name__},"


def where_of(found: Any) -> str:
    """The argument that means these paths."""
    paths = [f'"{path}"' for path in found]
    if len(paths) == 1:
        return paths[0]
    return f"[{', '.join(paths)}]" if len(", ".join(paths)) <= 30 else "[…]"
