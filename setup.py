"""The native part of cerebsim; everything else is in pyproject.toml.

The sources know nothing of torch, so the build needs only a C++17 compiler and pybind11, and one
wheel serves every torch. No -march=native: the sources pick the instruction set when they load.
"""

import sys
from glob import glob

from pybind11.setup_helpers import Pybind11Extension
from setuptools import setup

if sys.platform == "win32":
    compile_args, link_args = ["/O2"], []
else:
    compile_args = [
        "-O3",
        "-fno-math-errno",
        "-ffp-contract=fast",
        "-ffinite-math-only",
        "-fno-signed-zeros",
        "-pthread",
    ]
    link_args = ["-pthread"]

cpu = Pybind11Extension(
    "cerebsim._cpu",
    sources=[*sorted(glob("csrc/cpu*.cpp")), "csrc/bind_cpu.cpp"],
    depends=glob("csrc/*.h"),
    cxx_std=17,  # the helper also hides the symbols (-fvisibility=hidden)
    extra_compile_args=compile_args,
    extra_link_args=link_args,
)

setup(ext_modules=[cpu])
