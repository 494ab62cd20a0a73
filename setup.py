"""The native part of cerebsim; everything else is in pyproject.toml.

The sources know nothing of torch, so the build needs only a C++17 compiler and pybind11, and one
wheel serves every torch. No -march=native: the sources pick the instruction set when they load.

Where nvcc is found (CUDA_HOME, or the PATH) the CUDA kernels are built too, with the CUDA runtime
linked in, so that the wheel also imports on a machine without a GPU. CEREBSIM_CUDA=0 leaves them
out, CEREBSIM_CUDA=1 insists on them.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from glob import glob
from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension, build_ext
from setuptools import setup
from setuptools.errors import CompileError, LinkError

if sys.platform == "win32":
    compile_args, link_args = ["/O2"], []
else:
    compile_args = [
        "-O3",
        "-fno-math-errno",
        "-ffp-contract=fast",
        "-ffinite-math-only",
        "-fno-signed-zeros",
        "-fno-tree-slp-vectorize",  # vectors are written where they pay; see read_rows in csrc
        "-pthread",
    ]
    link_args = ["-pthread"]

# Machine code for A100 and H100; PTX for what comes after. See cerebsim/native_cuda.py.
NVCC_ARGS = [
    "-O3",
    "-std=c++17",
    "--threads=2",
    "-gencode=arch=compute_80,code=sm_80",
    "-gencode=arch=compute_90,code=[sm_90,compute_90]",
    "-Werror=all-warnings",
    "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wextra",
]


def find_nvcc() -> str | None:
    """nvcc of CUDA_HOME or the PATH, unless CEREBSIM_CUDA=0; said why not, where there is none."""
    asked = os.environ.get("CEREBSIM_CUDA", "")
    if asked not in ("", "0", "1"):
        raise CompileError(f"CEREBSIM_CUDA: got {asked!r}, expected 0, 1 or nothing")
    if asked == "0":
        print("cerebsim: the CUDA kernels are left out, since CEREBSIM_CUDA=0")
        return None
    home = os.environ.get("CUDA_HOME")
    nvcc = shutil.which("nvcc", path=os.path.join(home, "bin") if home else None)
    if nvcc is None or sys.platform == "win32":
        missing = f"nvcc is not in {home}/bin (CUDA_HOME)" if home else "nvcc is not on the PATH"
        if sys.platform == "win32":
            missing = "they are not built on Windows"
        if asked == "1":
            raise CompileError(f"CEREBSIM_CUDA=1, but {missing}: install the CUDA toolkit")
        print(f"cerebsim: the CUDA kernels are left out: {missing}")
        return None
    return nvcc


def find_cudart(nvcc: str) -> str:
    """The folder of libcudart_static.a. nvcc says where its toolkit is, though it be a wrapper."""
    command = [nvcc, "--dryrun", "-x", "cu", os.devnull]
    said = subprocess.run(command, capture_output=True, text=True).stderr
    tops = [line.partition("=")[2] for line in said.splitlines() if line.startswith("#$ TOP=")]
    top = tops[0] if tops else os.path.join(os.path.dirname(nvcc), "..")
    for folder in ("lib64", "lib", "targets/*/lib"):
        for library in sorted(Path(top.strip()).glob(f"{folder}/libcudart_static.a")):
            return str(library.parent)
    raise CompileError(f"no libcudart_static.a in {top}; CEREBSIM_CUDA=0 builds without CUDA")


def has_openmp(compiler) -> bool:
    """Whether a program that uses OpenMP compiles and links."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "openmp.cpp"
        source.write_text("#include <omp.h>\nint main() { return omp_get_max_threads() < 1; }\n")
        try:
            objects = compiler.compile([str(source)], folder, extra_postargs=["-fopenmp"])
            program = str(Path(folder) / "openmp")
            compiler.link_executable(objects, program, extra_postargs=["-fopenmp"])
        except (CompileError, LinkError):
            print("cerebsim: no OpenMP; threads will be started for every call")
            return False
    return True


class BuildExtensions(build_ext):
    """Asks for OpenMP where there is one, as torch's wheels do on Linux, and lets nvcc compile
    csrc/cuda.cu to an object that the C++ compiler links."""

    def build_extension(self, extension):
        if extension is cpu and sys.platform == "linux" and has_openmp(self.compiler):
            extension.extra_compile_args = [*extension.extra_compile_args, "-fopenmp"]
            extension.extra_link_args = [*extension.extra_link_args, "-fopenmp"]
        if extension is cuda:
            folder = Path(self.build_temp)
            folder.mkdir(parents=True, exist_ok=True)
            kernels = str(folder / "cuda.o")
            command = [nvcc, *NVCC_ARGS, "-c", "csrc/cuda.cu", "-o", kernels]
            print(*command)
            if subprocess.run(command).returncode != 0:
                raise CompileError(
                    "nvcc cannot compile csrc/cuda.cu; CEREBSIM_CUDA=0 leaves it out"
                )
            extension.extra_objects.append(kernels)
            extension.library_dirs.append(find_cudart(nvcc))
        super().build_extension(extension)


cpu = Pybind11Extension(
    "cerebsim._cpu",
    sources=[*sorted(glob("csrc/cpu*.cpp")), "csrc/bind_cpu.cpp"],
    depends=glob("csrc/*.h"),
    cxx_std=17,  # the helper also hides the symbols (-fvisibility=hidden)
    extra_compile_args=compile_args,
    extra_link_args=link_args,
)
extensions = [cpu]

nvcc = find_nvcc()
cuda = None
if nvcc is not None:
    cuda = Pybind11Extension(
        "cerebsim._cuda",
        sources=["csrc/bind_cuda.cpp"],
        depends=[*glob("csrc/*.h"), "csrc/cuda.cu"],
        cxx_std=17,
        extra_compile_args=["-O2"],
        libraries=["cudart_static", "rt", "dl"],
        extra_link_args=link_args,
        optional=os.environ.get("CEREBSIM_CUDA") != "1",  # a broken nvcc costs CUDA, not cerebsim
    )
    extensions.append(cuda)

setup(ext_modules=extensions, cmdclass={"build_ext": BuildExtensions})
