"""The one table of tolerances, each with its reason. What is not here is compared bit for bit.

Backends are compared with the reference in float64, relative to the largest value of the result
(`assert_close_to_largest`), since a sum of terms of both signs has no relative accuracy of its own.
"""

import torch
from torch import Tensor

# design.md: every backend equals the reference computed in float64. float32 rounds at 6e-8; sums
# of 64 to some 1,000 terms that are summed in 16 lanes and 16 chunks lose one digit, rarely two.
BACKEND = 1e-5

# The same algebra written twice in float64 (reference against autograd and torch.optim, a fused
# gradient against autograd): rounding at 1e-16, grown by 50 steps that divide by sqrt(s).
FLOAT64 = 1e-9

# A float32 model against autograd through the same kernels: only the order of the sum over cells
# differs.
FLOAT32 = 1e-5

# The GPU kernels sum in float32 and bring a result once to the dtype of x: half a unit in the
# last place, relative to the value itself, on top of BACKEND. A whole unit for bfloat16, since
# Triton's interpreter cuts where a GPU rounds.
ROUNDED_ONCE = {torch.float32: 0, torch.bfloat16: 2**-7, torch.float16: 2**-11}

# Wichura's PPND16 promises 16 digits; scipy's own inverse has the same error.
INVERSE_NORMAL = 1e-14

# Learning in float32, 50 steps of a rule that is smooth in the gradient (the plain delta rule, or
# RMSprop with a large eps), relative to how far W moved: rounding of 50 dW, and 1 - 0.99 in
# float32, which is off by 1e-6.
SMOOTH_LEARNING = 2e-5

# RMSprop with eps = 1e-8 turns a gradient into its sign, so where a gradient is zero but for
# rounding a weight may go the other way: single weights differ by several learning rates, by the
# rule's nature and not by a bug. So the outputs are compared, and the mean over W in learning
# rates (one step moves a weight by up to 10 learning rates, 50 by about 100).
RMSPROP_OUTPUTS = 1e-3
RMSPROP_MEAN_IN_RATES = 1e-3


def assert_close_to_largest(got: Tensor, expected: Tensor, tolerance: float) -> None:
    """Raises unless |got - expected| <= tolerance * max |expected|, computed in float64."""
    got, expected = got.detach().double(), expected.detach().double()
    assert got.shape == expected.shape
    if got.numel() == 0:
        return
    worst = float((got - expected).abs().max())
    largest = float(expected.abs().max())
    assert worst <= tolerance * largest, f"differs by {worst:g}, the largest value is {largest:g}"
