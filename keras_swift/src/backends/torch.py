"""PyTorch: scoring calls the model directly, without recording gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, cast

import keras
import torch

from keras_swift.src._keras import mask_of
from keras_swift.src._types import Array, ArrayTree, FloatArray, Tensor
from keras_swift.src.backends.base import (
    Backend,
    Inputs,
    Numbers,
    Scoring,
    Tap,
    TensorScoring,
    Values,
    overridden,
    several_processes,
)
from keras_swift.src.data.leaves import all_leaves


class TorchBackend(Backend):
    """PyTorch."""

    def compile_scoring(self, function: TensorScoring, model: keras.Model) -> Scoring:
        def score(values: Values | None, *inputs: ArrayTree) -> dict[str, FloatArray]:
            inputs = keras.tree.map_structure(keras.ops.convert_to_tensor, inputs)
            # `no_grad`, not `inference_mode`: the loss is differentiated with respect
            # to the model's output, which is impossible for inference tensors.
            with torch.no_grad():
                outputs = function(values or self.current_values(model, None), *inputs)
            scores: dict[str, FloatArray] = keras.tree.map_structure(
                keras.ops.convert_to_numpy, outputs
            )
            return scores

        return score

    def check_devices(self, model: keras.Model) -> None:
        distributed = torch.distributed
        if distributed.is_available() and distributed.is_initialized():
            if distributed.get_world_size() > 1:
                raise several_processes(
                    f"torch.distributed with {distributed.get_world_size()} processes",
                    # Seen with Keras 3.15: `DistributedDataParallel` has no `fit` of its own.
                    "Keras' `fit` trains a copy of the model in each of them there, and these "
                    "drift apart.",
                )

    def gradient(
        self, function: Callable[[Tensor], tuple[Tensor, Any]], tensor: Tensor
    ) -> tuple[tuple[Tensor, Any], Tensor]:
        with torch.enable_grad():
            tensor = tensor.detach().requires_grad_(True)
            value, rest = function(tensor)
            if not value.requires_grad:
                return (value, rest), torch.zeros_like(tensor)
            (slope,) = torch.autograd.grad(value, tensor, allow_unused=True)
        if slope is None:
            slope = torch.zeros_like(tensor)
        return (value.detach(), rest), slope

    def random_state(self) -> list[Array]:
        # Dropout layers without a seed draw from PyTorch's global generators.
        states = [torch.get_rng_state()]
        if torch.cuda.is_available():
            states += torch.cuda.get_rng_state_all()
        return [state.numpy() for state in states]

    def restore_random_state(self, state: list[Array]) -> None:
        first, *others = [torch.from_numpy(array.copy()) for array in state]
        torch.set_rng_state(first)
        if others and len(others) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(others)

    def seed_random_state(self, seed: int) -> None:
        torch.manual_seed(seed)

    def step(self, model: keras.Model, data: Any) -> tuple[dict[str, Tensor], list[Tensor] | None]:
        before = [(variable.value, variable.value.grad) for variable in model.trainable_variables]
        try:
            return super().step(model, data)
        finally:
            for tensor, gradient in before:
                tensor.grad = gradient

    def known_value(self, condition: Tensor) -> bool | None:
        return bool(condition)

    def free_memory(self, model: keras.Model) -> int | None:
        """int, free bytes on the model's device; `None` on the CPU, or if not known."""
        devices = [variable.value.device for variable in model.variables[:1]]
        if not devices or devices[0].type != "cuda":
            return None
        return torch.cuda.mem_get_info(devices[0])[0]

    def make_tap(self, columns: int, rows: int) -> Tap:
        return _TorchTap(columns)

    @contextlib.contextmanager
    def tapped(
        self, model: keras.Model, tap: Tap, inputs: Inputs, numbers: Numbers
    ) -> Iterator[None]:
        own = model.compute_loss

        def compute_loss(
            x: Any = None, y: Any = None, y_pred: Any = None, *rest: Any, **named: Any
        ) -> Any:
            loss = own(x, y, y_pred, *rest, **named)
            # Recorded only after the loss has succeeded.
            found = inputs(y, y_pred)
            if found is not None:
                cast(_TorchTap, tap).defer(found, numbers)
            return loss

        with overridden(model, compute_loss=compute_loss):
            yield


class _TorchTap(Tap):
    """Keeps tensors on their device, and computes and moves them to the host together.

    Without a compiler, each of the many small operations on a step's outputs costs as much for
    several steps as for one, so the numbers of several steps are computed together.
    """

    # The most steps whose numbers are computed together, and the most values in their inputs: with
    # more, calling an operation costs little beside computing it, and inputs would fill the memory.
    STEPS, VALUES = 64, 2**20

    def __init__(self, columns: int) -> None:
        super().__init__(columns)
        self._waiting: list[list[torch.Tensor]] = []
        self._values = 0
        self._form: Any = None
        self._compute: Callable[[list[torch.Tensor]], Tensor] | None = None

    # Not compiled: a growing list would cause a new trace at every step.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def defer(self, inputs: tuple[ArrayTree, ...], numbers: Callable[..., Tensor]) -> None:
        """Called in a step; computes its numbers from `inputs`, now or with those of others."""
        leaves = all_leaves(inputs)
        there = [leaf for leaf in leaves if leaf is not None]
        # Only arrays with a row for each example can be joined with those of other steps.
        rows = {
            len(leaf) if isinstance(leaf, torch.Tensor) and leaf.ndim else None for leaf in there
        }
        masked = any(mask_of(leaf) is not None for leaf in there)
        plain = len(rows) == 1 and None not in rows and not masked
        values = sum(leaf.numel() for leaf in there) if plain else self.VALUES
        if values >= self.VALUES:
            self._compute_waiting()
            self.write(numbers(*inputs))
            return
        form = [None if leaf is None else (leaf.shape[1:], leaf.dtype) for leaf in leaves]
        if form != self._form or self._values + values > self.VALUES:
            self._compute_waiting()
            # Only the structure: the outputs themselves would keep the step's graph alive.
            like = keras.tree.map_structure(lambda leaf: None if leaf is None else 0, inputs)

            def compute(joined: list[torch.Tensor]) -> Tensor:
                rest = iter(joined)
                found = [None if leaf is None else next(rest) for leaf in form]
                return numbers(*keras.tree.pack_sequence_as(like, found))

            self._form, self._compute = form, compute
        # The next step may write into the same memory: targets may be views of the host's arrays.
        self._waiting.append([leaf.detach().clone() for leaf in there])
        self._values += values
        if len(self._waiting) == self.STEPS:
            self._compute_waiting()

    def _compute_waiting(self) -> None:
        if self._waiting and self._compute is not None:
            joined = [torch.cat(parts) for parts in zip(*self._waiting, strict=True)]
            self._waiting, self._values = [], 0
            with torch.no_grad():
                self.write(self._compute(joined))

    # Not compiled, as above.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def write(self, values: Tensor) -> None:
        self._rows.append(values.detach())

    def clear(self) -> None:
        # Not by `read`, which would compute what waits.
        self._rows, self._waiting, self._values = [], [], 0

    def read(self) -> FloatArray:
        self._compute_waiting()
        if self._rows:
            self._rows = [torch.cat(self._rows).cpu()]
        return super().read()
