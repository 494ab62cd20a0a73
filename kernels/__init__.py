"""The Triton backend: the operations of `reference` as kernels, with the same signatures.

Accumulates in float32 whatever the dtype of x, W and mu; results have x's dtype. The dense wiring
("full", indices None) is not served: its product is the BLAS's. Importing this touches no device.
"""

if __name__ != "cerebsim.kernels":
    raise ImportError(
        f"{__name__!r} is the source folder of cerebsim.kernels and not a package of its own. "
        "Install the package (pip install -e .) and import cerebsim.kernels."
    )

from .activity import granule
from .gradient import circuit_backward_x, granule_backward
from .learning import learn_
from .readout import circuit, circuit_backward_W

__all__ = [
    "circuit",
    "circuit_backward_W",
    "circuit_backward_x",
    "granule",
    "granule_backward",
    "learn_",
]
