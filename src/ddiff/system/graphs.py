"""CUDA graphs: work that is captured once and replayed without a launch for each kernel."""

from collections.abc import Callable

import torch

WARM_UP = 3  # runs before a capture: kernels are loaded and compiled, and memory is allocated


def replayed(
    launch: Callable[[int], None], can_be_captured: Callable[[int], bool] = lambda stream: True
) -> Callable[[], None]:
    """Capture `launch` in a CUDA graph and return its replay; without one, return a launch.

    `launch` puts its work on the current stream, whose address it is given. Other threads may call
    CUDA meanwhile ("thread_local"): the one that pins a data loader's memory does.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            launch(side.cuda_stream)
    torch.cuda.current_stream().wait_stream(side)
    if not can_be_captured(side.cuda_stream):
        return lambda: launch(torch.cuda.current_stream().cuda_stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
        launch(side.cuda_stream)
    return graph.replay
