"""Every kernel of the GPU backends once, on small odd sizes, for compute-sanitizer to watch.

compute-sanitizer --tool memcheck python tests/sanitized.py. A program and not a test: pytest and
the reference would run thousands of kernels that are not ours.
"""

import torch

from cerebsim import backends, ops
from cerebsim.config import CircuitConfig, LearningConfig
from cerebsim.wiring import Wiring, draw_readout


def every_operation(B: int, d: int, m: int, k: int, c: int) -> None:
    config = CircuitConfig(d, m, c, fan_in=k, threshold=0.1, replacement=True)
    J, W = Wiring.draw(config).to("cuda"), draw_readout(config).cuda()
    x, t, mu = torch.rand(B, d).cuda(), torch.rand(B, c).cuda(), torch.rand(m).cuda()
    leaf = x.clone().requires_grad_()
    ops.granule(leaf, J).sum().backward()
    leaf, learned = x.clone().requires_grad_(), W.clone().requires_grad_()
    ops.circuit(leaf, J, learned, mu).sum().backward()
    rule = ops.Rule.of(LearningConfig(), m, c)
    order = torch.arange(100, device="cuda") % B  # long enough for replays of graphs
    for batch_size in (1, 3):
        ops.learn_(x, t, J, W, mu, torch.zeros_like(W), rule, batch_size, order)
    torch.cuda.synchronize()


def main() -> None:
    for name in ("cuda", "triton"):
        with backends.use_backend(name):
            every_operation(B=7, d=17, m=1000, k=4, c=10)
            every_operation(B=33, d=64, m=63, k=50, c=3)
            every_operation(B=1, d=40_000, m=70, k=2, c=17)
        print(f"{name}: every operation has run")


if __name__ == "__main__":
    main()
