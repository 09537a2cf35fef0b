"""Count the bytes that tensors hold while code runs, at every operation: real tensors, or fake ones without memory."""

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of all storages alive, and the most there were.

    The same quantity that `torch.cuda.max_memory_allocated` gives on a GPU, but on any device, and exact: rounding by
    an allocator is not in it. Tensors made before the block count once an operation returns them or `hold` is told.

    Attributes:
        now: bytes alive.
        peak: the most bytes that were alive at once since the block began or `reset` was called.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now: int = 0
        self.peak: int = 0
        self._known: set[int] = set()

    def hold(self, *tensors: torch.Tensor) -> None:
        """Count tensors that were made before."""
        for tensor in tensors:
            self._count(tensor.untyped_storage())

    def reset(self) -> None:
        """Start the peak anew at what is alive."""
        self.peak = self.now

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count the storages of what it returns."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: Any) -> None:
        # Storages live as long as any view of them: their Python object is kept by torch until then.
        key, size = storage._cdata, int(storage.nbytes())
        if key in self._known or size == 0:
            return
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size
