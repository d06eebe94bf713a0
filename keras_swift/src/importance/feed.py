"""The items that Keras reads in training: batches with the weights that the step needs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_swift.src.data.reader import ArrayReader
from keras_swift.src.fitting.callbacks import StepBarrier
from keras_swift.src.importance.batch import Batch
from keras_swift.src.importance.batches import Batches


class Feed(keras.utils.PyDataset):
    """Batches with both kinds of weights, for a `WeightedStep`."""

    def __init__(self, batches: Batches, barrier: StepBarrier | None, scales_rate: bool) -> None:
        super().__init__()
        self._batches = batches
        self._barrier = barrier
        self._scales_rate = scales_rate
        self.error: Exception | None = None

    @property
    def num_batches(self) -> int:
        batches = self._batches
        if batches.ends_with_a_pass and not batches.is_open_ended:
            # Keras splits a pass into epochs itself.
            return int(batches.pass_length)
        return batches.num_batches

    @property
    def is_open_ended(self) -> bool:
        """bool, whether `goes_on` tells before each item if there is one."""
        return self._batches.is_open_ended

    @property
    def sparse(self) -> list[bool]:
        """list of bool, whether each leaf of the inputs and targets came as a sparse one."""
        return self._batches.reader.sparse

    @property
    def has_one_shape(self) -> bool:
        """bool, whether all items have one shape, but for their number of examples."""
        return isinstance(self._batches.reader, ArrayReader)

    @property
    def element_spec(self) -> Any:
        """What a `tf.data` source says of its items; `None` for other sources."""
        return self._batches.reader.element_spec

    def goes_on(self) -> bool:
        """Whether the epoch has another item."""
        with self._keeping_errors():
            return self._batches.goes_on()

    @property
    def fixed_size(self) -> int | None:
        """int, how many examples every item has, or `None` if they may differ."""
        return self._batches.fixed_size

    def __getitem__(self, index: int) -> tuple[Any, Any, Any]:
        with self._keeping_errors():
            if not self._batches.within_epoch:
                return self.specimens(1)[0]
            if self._barrier is not None:
                self._barrier.wait(index)
            return self._packed(self._batches.next_batch())

    def arrays_to_gather_from(self) -> tuple[Any, Any] | None:
        """`(x, y)` if `next_batches` may be used in place of items, else `None`."""
        return None if self._barrier is not None else self._batches.arrays_to_gather_from()

    def keep_on_device(self, free: int) -> None:
        """As `Batches.keep_on_device`."""
        self._batches.keep_on_device(free)

    def next_batches(self) -> list[tuple[Any, dict[str, Any]]]:
        """The next block of batches, as `(indices, weights)` pairs of one length."""
        with self._keeping_errors():
            within = self._batches.within_epoch
            drawn = self._batches.next_batches() if within else self._batches.specimens()
            return [(batch.indices, self._packed(batch)[2]) for batch in drawn]

    def specimens(self, count: int) -> list[tuple[Any, Any, Any]]:
        """Items of the shapes and types of training; fewer at the end of a generator."""
        return [self._packed(batch) for batch in self._batches.specimens(count)]

    @contextlib.contextmanager
    def _keeping_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.error = error
            raise

    def _packed(self, batch: Batch) -> tuple[Any, Any, Any]:
        weights = {"importance": batch.importance, "weights": batch.weights}
        if self._scales_rate:
            # One for each example: the parts of a batch must be of one length.
            weights["rate_scale"] = np.full(len(batch.importance), batch.rate_scale, np.float32)
        if batch.sample_weight is not None:
            weights["sample_weight"] = batch.sample_weight
        return batch.x, batch.y, weights
