"""What is true of every file and every public name."""

import ast
import importlib
import importlib.util
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import normwise

ROOT = Path(normwise.__file__).parent

FLOORS = {
    "version": 0,
    "machine": 0,
    "timing": 0,
    "errors": 0,
    "axes": 0,
    "reference": 1,
    "running": 1,
    "checks": 1,
    "demands": 1,
    "data": 1,
    "_native": 1,  # what csrc/ is compiled to
    "ops": 2,
    "functional": 3,
    "layers": 3,
    "catalogue": 4,
    "surgery": 5,
    "doctor": 5,
    "compare": 6,
    "bench": 6,
    "recipes": 7,
    "cli": 8,
    "__init__": 9,
}
# What shares a floor, in the root folder, may lean on each other only where it is said here.
NEIGHBOURS = {
    ("axes", "errors"),
    ("running", "reference"),
    ("checks", "reference"),
    ("doctor", "surgery"),
    ("machine", "version"),
}

# What `import normwise` must not wait for.
HEAVY = {
    *("matplotlib", "scipy", "rich", "jinja2", "triton", "pandas", "cloudpickle", "soundfile"),
    *("ray", "tensorboard", "mlflow", "wandb"),
}

FILES = sorted(ROOT.rglob("*.py"))
# These cannot be imported where Triton is not installed: it has no wheels for some machines.
TRITON = ("normwise.ops.triton.kernels", "normwise.ops.triton.plan")
MODULES = [
    module
    for module in ["normwise", *(m.name for m in pkgutil.walk_packages([str(ROOT)], "normwise."))]
    if not module.startswith(TRITON) or importlib.util.find_spec("triton")
]


def story(module):
    """The file or folder of the root that a module belongs to: normwise.layers.base → layers."""
    _, _, inside = module.partition(".")
    return inside.split(".")[0] or "__init__"


def module_of(file):
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(["normwise", *(part for part in parts if part != "__init__")])


def imports(file):
    """Every module of ours that a file imports, wherever in the file it does."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}:{node.lineno} imports by a relative name"
            if node.module == "normwise":
                yield from (f"normwise.{alias.name}" for alias in node.names)
            else:
                yield node.module


def may_import(importer, imported):
    here, there = story(importer), story(imported)
    lower = FLOORS[there] < FLOORS[here]
    return lower or here == there or (here, there) in NEIGHBOURS


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_a_file_imports_only_from_lower_floors_and_its_own_folder(file):
    importer = module_of(file)
    ours = [m for m in imports(file) if m.split(".")[0] == "normwise"]
    assert [m for m in ours if not may_import(importer, m)] == []


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("normwise.layers.base", "normwise.reference", True),
        ("normwise.layers.base", "normwise.layers.padding", True),
        ("normwise.reference", "normwise.layers.base", False),
        ("normwise.running", "normwise.reference", True),
        ("normwise.reference", "normwise.running", False),
        ("normwise.surgery.swap", "normwise.doctor", False),
        ("normwise.layers", "normwise", False),
        ("normwise", "normwise.cli", True),
    ],
)
def test_the_rule_of_the_floors(importer, imported, allowed):
    assert may_import(importer, imported) is allowed


def test_import_is_light():
    code = (
        "import sys, torch, numpy\n"
        "before = set(sys.modules)\n"
        "import normwise\n"
        "for name in set(sys.modules) - before:\n"
        "    print(name, getattr(sys.modules[name], '__file__', None) or '')\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    loaded = dict(line.split(" ", 1) for line in result.stdout.splitlines())
    assert "normwise.layers" in loaded
    assert {name.split(".")[0] for name in loaded} & HEAVY == set()
    ours = [file for name, file in loaded.items() if name.split(".")[0] == "normwise"]
    assert [file for file in ours if file and not file.endswith(".py")] == []


def public_names():
    """(module, name) of every class and function of ours that a module offers."""
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        for name in getattr(module, "__all__", dir(module)):
            thing = getattr(module, name)
            is_code = inspect.isclass(thing) or inspect.isfunction(thing)
            if is_code and thing.__module__.startswith("normwise") and not name.startswith("_"):
                yield module_name, name


@pytest.mark.parametrize("module_name", MODULES)
def test_every_module_says_what_it_is(module_name):
    assert importlib.import_module(module_name).__doc__


@pytest.mark.parametrize(("module_name", "name"), sorted(public_names()))
def test_every_public_name_has_a_docstring_of_its_own(module_name, name):
    thing = getattr(importlib.import_module(module_name), name)
    documentation = thing.__dict__.get("__doc__") if inspect.isclass(thing) else thing.__doc__
    assert documentation
    assert not documentation.startswith(f"{name}("), "dataclasses write this one themselves"


def test_every_name_in_all_exists():
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        names = getattr(module, "__all__", [])
        assert [name for name in names if not hasattr(module, name)] == []
        assert len(names) == len(set(names))


LAYERS = [
    name
    for name in normwise.layers.__all__
    if inspect.isclass(getattr(normwise, name))
    and issubclass(getattr(normwise, name), torch.nn.Module)
    and name not in ("Lazy", "Normalization", "Reversible")  # what layers are made of, or stand in
]


def described(name):
    """The docstring that tells of the layer: its own, or the one that it refers to by name."""
    documentation = inspect.cleandoc(getattr(normwise, name).__doc__)
    if documentation.startswith("`"):
        return described(documentation.split("`")[1])
    return documentation


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_documents_its_shapes_and_its_source(name):
    lines = [line.strip() for line in described(name).splitlines()]
    assert "Shapes" in lines
    assert any(line.startswith("Source: ") for line in lines)
    assert any(line.startswith("y[") or line == "y = x" for line in lines)


def test_public_names_can_be_reached_from_the_top():
    for name in normwise.layers.__all__:
        assert getattr(normwise, name) is getattr(normwise.layers, name)
