"""Compiles every kernel of cerebsim.kernels ahead of time for a GPU that need not be there.

    python tests/triton_aot.py sm_90     (TRITON_INTERPRET unset; TRITON_CACHE_DIR as you like)

The public operations are called on CPU tensors; each launch is compiled, by Triton's own
specialisation of its arguments, and not run. So what is checked here is what a GPU would be given,
and a kernel that no operation launches is missed. Prints one JSON object: `kernels`, what each
takes, and `missing`, the kernels that were not reached.
"""

import json
import re
import subprocess
import sys
import tempfile

import torch
import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from cerebsim import kernels
from cerebsim.config import CircuitConfig
from cerebsim.wiring import Wiring, draw_readout

CELLS, FIBRES, BATCH = 4096, 784, 64
SIXTEEN = r"[.\w:]*\.(?:v4\.b32|v2\.b64)"


class NoGPU:
    """What Triton asks a driver for when it compiles."""

    def __init__(self, target: GPUTarget):
        self.target = target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return self.target


class Compiled:
    """Within it launches compile and run nothing. Keeps each distinct kernel with its case."""

    def __init__(self):
        self.kernels = []
        self.case = ""
        self.run = JITFunction.run

    def __enter__(self):
        def run(kernel, *arguments, grid, warmup, **options):
            built = self.run(kernel, *arguments, grid=grid, warmup=True, **options)
            if all(built is not other for _, _, other in self.kernels):
                self.kernels.append((kernel.__name__, self.case, built))

        JITFunction.run = run
        return self

    def __exit__(self, *_):
        JITFunction.run = self.run


def call_all(compiled: Compiled, case: str, operations: set[str] | None = None, **settings) -> None:
    """Every operation (or those named) as the package calls it."""
    compiled.case = case
    dtype = settings.pop("dtype", torch.float32)
    batch = settings.pop("batch_size", 50)
    config = CircuitConfig(FIBRES, CELLS, **settings)
    J = Wiring.draw(config).operands[1:]
    W = draw_readout(config).to(dtype)
    mu = torch.zeros(CELLS, dtype=dtype)
    x, t = torch.zeros(BATCH, FIBRES, dtype=dtype), W.new_zeros(BATCH, len(W))
    order, rule = torch.arange(BATCH), (0.2, 1e-3, 0.99, 1e-8, 0.99, True)
    calls = {
        "granule": lambda: kernels.granule(x, *J),
        "granule_backward": lambda: kernels.granule_backward(x.new_zeros(BATCH, CELLS), x, *J),
        "circuit": lambda: kernels.circuit(x, *J, W, mu),
        "circuit_backward_x": lambda: kernels.circuit_backward_x(t, x, *J, W),
        "circuit_backward_W": lambda: kernels.circuit_backward_W(t, x, *J, mu),
        "learn_": lambda: kernels.learn_(x, t, order, *J, W, mu, W.clone(), batch, *rule),
    }
    for name in operations or calls:
        calls[name]()


def resources(built) -> dict:
    """What a compiled kernel takes (cuobjdump, of the code that would run; spilled registers would
    stand in its stack) and how many of its loads and stores are of 16 bytes (PTX)."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        ask = [knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        said = subprocess.run(ask, capture_output=True, text=True, check=True).stdout
    usage = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", said))
    return {
        "registers": int(usage["REG"]),
        "spilled": int(usage["STACK"]) + int(usage["LOCAL"]),
        "shared": built.metadata.shared,
        "loads": len(re.findall(r"\bld\.global", built.asm["ptx"])),
        "loads of 16 bytes": len(re.findall(rf"\bld\.global{SIXTEEN}", built.asm["ptx"])),
        "stores": len(re.findall(r"\bst\.global", built.asm["ptx"])),
        "stores of 16 bytes": len(re.findall(rf"\bst\.global{SIXTEEN}", built.asm["ptx"])),
    }


def jitted() -> dict[str, JITFunction]:
    """Every function under @triton.jit in the package, kernels and what they call."""
    modules = [m for name, m in sys.modules.items() if name.startswith(kernels.__name__ + ".")]
    return {
        name: value
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, JITFunction)
    }


def missing(reached: set[str]) -> list[str]:
    """The jitted functions that are neither launched nor called by one that is."""
    functions = jitted()
    while True:
        called = {
            name
            for name in functions
            if any(f"{name}(" in functions[r].src.partition(":")[2] for r in reached)
        }
        if called <= reached:
            return sorted(functions.keys() - reached)
        reached = reached | called


def main(target: str) -> None:
    torch.set_num_threads(1)
    triton.runtime.driver.set_active(NoGPU(GPUTarget("cuda", int(target[3:]), 32)))
    with Compiled() as compiled:
        call_all(compiled, "float32")
        call_all(compiled, "bfloat16", {"circuit", "granule"}, dtype=torch.bfloat16)
        call_all(compiled, "k=50", {"circuit"}, fan_in=50)
        call_all(compiled, "c=100", {"circuit_backward_x", "learn_"}, purkinje_cells=100)
        call_all(compiled, "batch 1", {"learn_"}, batch_size=1)
    report = [
        {"kernel": name, "case": case} | resources(built) for name, case, built in compiled.kernels
    ]
    reached = {name for name, _, _ in compiled.kernels}
    print(json.dumps({"kernels": report, "missing": missing(reached)}, indent=1))


if __name__ == "__main__":
    main(sys.argv[1])
