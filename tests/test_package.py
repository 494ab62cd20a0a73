"""What is installed and what is shipped."""

import re
import shutil
import subprocess
import sys
import tarfile
from importlib import metadata
from importlib.resources import files
from pathlib import Path

import pytest

import cerebsim

ROOT = Path(__file__).parents[1]


def test_there_is_one_version():
    pyproject = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    citation = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.M)
    changelog = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    versions = {pyproject[1], citation[1], changelog[1], metadata.version("cerebsim")}
    assert versions == {cerebsim.__version__}


def test_types_are_declared():
    assert files("cerebsim").joinpath("py.typed").is_file()


def test_every_public_name_is_there():
    assert [name for name in cerebsim.__all__ if not hasattr(cerebsim, name)] == []


def test_kernels_is_a_part_of_cerebsim_only():
    def run(program):
        return subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True
        )

    assert run("import cerebsim.kernels").returncode == 0
    refused = run("import kernels")
    assert refused.returncode != 0
    assert "import cerebsim.kernels" in refused.stderr


def test_the_command_is_installed():
    (command,) = metadata.entry_points(group="console_scripts", name="cerebsim")
    assert callable(command.load())


def test_every_package_of_the_source_is_shipped(tmp_path):
    """Builds the source distribution from a copy, with this environment's setuptools."""
    pytest.importorskip("setuptools", reason="the build's own packages are not installed")
    pytest.importorskip("pybind11", reason="the build's own packages are not installed")
    skipped = shutil.ignore_patterns(".*", "build", "runs", "data", "results", "*.egg-info", "*.so")
    shutil.copytree(ROOT, tmp_path / "copy", ignore=skipped)
    subprocess.run(
        [sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", tmp_path],
        cwd=tmp_path / "copy",
        check=True,
    )
    (archive,) = tmp_path.glob("cerebsim-*.tar.gz")
    with tarfile.open(archive) as tar:
        shipped = {name.partition("/")[2] for name in tar.getnames()}
    for folder, pattern in [
        ("cerebsim", "*.py"),
        ("cerebsim", "py.typed"),
        ("kernels", "*.py"),
        ("csrc", "*.h"),
        ("csrc", "*.cpp"),
        ("tests", "*.py"),
        ("bench", "*.py"),
        ("examples", "*.py"),
    ]:
        here = {str(path.relative_to(ROOT)) for path in (ROOT / folder).glob(pattern)}
        assert here, f"no {folder}/{pattern}"
        assert here <= shipped, f"not shipped: {sorted(here - shipped)}"
