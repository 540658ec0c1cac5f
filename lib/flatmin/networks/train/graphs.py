"""Steps of training as CUDA graphs: hundreds of small kernels started at once, runs side by side."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

__all__ = ["branches", "recorded"]

#: steps taken before the recording, as torch asks for
_WARM = 3


def recorded(step: Callable[[Tensor], None], stack, positions: Tensor) -> Callable[[Tensor], None]:
    """``step(positions)``, which moves the parameters of ``stack``, as a CUDA graph where one can be made.

    Elsewhere, and where the graph does not do what the step does, it is the step itself. ``positions`` are
    those of any batch; the parameters are left as they are.
    """
    if positions.device.type != "cuda":
        return step
    before, fixed = stack.thetas(), positions.clone()
    try:
        graph = _graph(lambda: step(fixed))
    except Exception:  # whatever a model may do that cannot be recorded: one kernel after the other is right
        torch.cuda.synchronize()
        stack.load(before)
        return step

    def replay(positions):
        fixed.copy_(positions)
        graph.replay()

    moved = []
    for way in (step, replay):
        stack.load(before)
        way(positions)
        moved.append(stack.thetas() - before)
    stack.load(before)
    # sums in another order: some hundred roundings of the largest entry at most
    allowed = (
        1e3 * torch.finfo(before.dtype).eps * max(float(moved[0].abs().max()), float(before.abs().max()))
    )
    return replay if torch.allclose(*moved, rtol=0, atol=allowed, equal_nan=True) else step


def _graph(call: Callable[[], None]) -> torch.cuda.CUDAGraph:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        call()
    return graph


def branches(count: int) -> Iterator[contextlib.AbstractContextManager]:
    """A context for the work of each of ``count`` runs: branches of the graph that is recorded, if one is."""
    if count == 1 or not (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()):
        yield from (contextlib.nullcontext() for _ in range(count))
        return
    trunk, streams = torch.cuda.current_stream(), [torch.cuda.Stream() for _ in range(count)]
    for stream in streams:
        stream.wait_stream(trunk)
    yield from map(torch.cuda.stream, streams)
    for stream in streams:
        trunk.wait_stream(stream)
