"""Floor 0: CUDA graphs: a sequence of kernels that is noted once and replayed as one launch."""

from collections.abc import Callable

import torch


def captured(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """What repeats `step`: on a GPU its graph, elsewhere the step itself.

    The step must have run before, so that all is compiled and built, and may neither wait for the
    device nor look at values. While it is captured its kernels are noted and not run.
    """
    if device.type != "cuda":
        return step
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream(device)  # torch would keep the first that it ever captured on
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        step()
    return graph.replay
