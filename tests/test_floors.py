"""Imports only go down, and `import cerebsim` stays light."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "cerebsim"

# The floor plan. A module may import from floors below it and, without going in a circle, from
# its own. A new module is put on a floor here. `learning` and `checkpoint` lie under `model`,
# because Cerebellum.fit, .save and .load are methods.
FLOORS = (
    ("errors", "config", "graphs", "published"),
    ("labels", "files", "wiring", "reference", "native", "native_cuda", "_cpu", "_cuda"),
    ("backends",),
    ("ops",),
    ("layers", "checkpoint"),
    (
        "learning",
        "losses",
        "attackable",
        "ascent",
        "attacks",
        "square",
        "autoattack",
        "suites",
        "mnist",
        "folder",
        "data",
        "results",
    ),
    ("model",),
    ("adversarial", "analysis", "baselines", "evaluation", "trials", "transfer", "plots", "doctor"),
    (
        "jobs",
        "tables",
        "masking",
        "masking_binary",
        "masking_case",
        "masking_figures",
        "masking_gradient",
        "masking_losses",
        "masking_others",
        "masking_report",
        "masking_search",
        "study_report",
    ),
    ("paper", "scan", "study"),
    ("cli_make",),
    ("cli_examine", "cli_transfer", "cli_masking", "cli_study"),
    ("cli",),
    ("__init__", "__main__"),
)
FLOOR = {module: number for number, modules in enumerate(FLOORS) for module in modules}

# What `import cerebsim` must not bring in; each is imported where it is used.
HEAVY = (
    "triton",
    "matplotlib",
    "pandas",
    "sklearn",
    "torchvision",
    "tyro",
    "PIL",
    "scipy",
    "pyautoattack",
)


def imports(source: str) -> set[str]:
    """The modules of cerebsim that a module's source imports, also inside its functions."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            paths = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            prefix = "cerebsim" if node.level else ""
            base = ".".join(part for part in (prefix, node.module) if part)
            # `from cerebsim import x`: x is a module, or a name of the package itself.
            paths = [f"{base}.{a.name}" for a in node.names] if base == "cerebsim" else [base]
        else:
            continue
        for path in paths:
            package, _, rest = path.partition(".")
            if package == "cerebsim":
                module = rest.partition(".")[0]
                found.add(module if module in FLOOR or is_module(module) else "__init__")
    return found


def is_module(name: str) -> bool:
    return (PACKAGE / f"{name}.py").exists() or (PACKAGE / name).is_dir()


def faults(module: str, imported: set[str]) -> list[str]:
    """Every import of a module that does not go down, as a sentence."""
    if module not in FLOOR:
        return [f"cerebsim/{module}.py is on no floor: put it on one in {Path(__file__).name}"]
    said = []
    for name in sorted(imported):
        if name not in FLOOR:
            said.append(f"{module} imports {name}, which is on no floor")
        elif FLOOR[name] > FLOOR[module]:
            said.append(f"{module} (floor {FLOOR[module]}) imports {name} (floor {FLOOR[name]})")
    return said


def modules() -> dict[str, set[str]]:
    return {file.stem: imports(file.read_text()) for file in sorted(PACKAGE.glob("*.py"))}


def test_imports_only_go_down():
    wrong = [fault for module, imported in modules().items() for fault in faults(module, imported)]
    assert not wrong, "\n".join(wrong)


def test_imports_do_not_go_in_circles():
    # CycleError names the circle.
    assert set(TopologicalSorter(modules()).static_order()) >= modules().keys()


@pytest.mark.parametrize(
    "source, found",
    [
        ("from .model import Cerebellum", {"model"}),
        ("from . import ops, __version__", {"ops", "__init__"}),
        ("import cerebsim.paper as p", {"paper"}),
        ("from cerebsim import attacks", {"attacks"}),
        ("from cerebsim.cli import main", {"cli"}),
        ("def f():\n    if x:\n        from .cli import main", {"cli"}),
        ("import torch\nfrom torch import nn\nimport cerebsimilar", set()),
    ],
)
def test_the_walk_finds_every_form_of_import(source, found):
    assert imports(source) == found


def test_an_import_that_goes_up_is_a_fault():
    assert faults("ops", {"model", "backends"}) == ["ops (floor 3) imports model (floor 6)"]
    assert faults("helpers", set()) and faults("ops", {"helpers"})


def test_import_is_light():
    """Only what cerebsim adds to `import torch` counts."""
    program = f"""
import sys, torch
before = set(sys.modules)
import cerebsim
added = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(*sorted(added & set({HEAVY!r})))
print(torch.cuda.is_initialized())
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    heavy, initialised = run.stdout.splitlines()
    assert heavy == "", f"import cerebsim imports {heavy}"
    assert initialised == "False"
