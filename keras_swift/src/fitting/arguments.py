"""Splits the arguments of `fit` into the examples to train on and those passed on to Keras."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from keras.callbacks import History

from keras_swift.src._types import ArrayTree
from keras_swift.src.data import arrays
from keras_swift.src.data.arrays import ArraySource
from keras_swift.src.data.reader import ArrayReader
from keras_swift.src.data.stream_reader import StreamReader
from keras_swift.src.data.streams import check_stream_arguments, is_stream
from keras_swift.src.rules import check, check_if_given, plain


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """The examples to train on, and how an epoch goes through them.

    Attributes:
        examples: `ArraySource`; or a source of batches for `Stream`.
        batch_size: int, `b`; `None` for a source of batches, which has its own.
        class_weight: dict for a source of batches, or `None`. For arrays,
            class weights are multiplied into the sample weights.
        shuffle: bool, whether the order is random.
        steps_per_epoch: int or `None`.
        needs_targets: bool, whether every example must have a target.
    """

    examples: Any
    batch_size: int | None
    class_weight: dict[int, float] | None
    shuffle: bool
    steps_per_epoch: int | None
    needs_targets: bool

    @classmethod
    def of(
        cls,
        x: Any,
        y: ArrayTree = None,
        sample_weight: ArrayTree = None,
        batch_size: int | None = None,
        class_weight: dict[int, float] | None = None,
        shuffle: Any = True,
        steps_per_epoch: int | None = None,
        needs_targets: bool = True,
    ) -> TrainingData:
        """Checks arguments of `model.fit` and fills in its defaults.

        Args:
            needs_targets: bool, whether there has to be a `y`. Defaults to `True`.

        Raises:
            TypeError: if the data are neither arrays nor a source of batches.
            ValueError: for arguments that do not fit each other.
        """
        check(shuffle=shuffle)
        check_if_given(
            batch_size=batch_size, steps_per_epoch=steps_per_epoch, class_weight=class_weight
        )
        # Keras' "batch" is for files whose rows are expensive to read one by one: these are read in
        # order.
        shuffle = bool(shuffle) and shuffle != "batch"
        if is_stream(x):
            check_stream_arguments(x, y, sample_weight, batch_size, 0.0)
            return cls(x, None, class_weight, shuffle, steps_per_epoch, needs_targets)
        sample_weight = arrays.class_weights(y, class_weight, sample_weight)
        source = ArraySource(x, y, sample_weight, needs_targets)
        if batch_size is None:
            batch_size = -(-source.size // steps_per_epoch) if steps_per_epoch else 32
        return cls(source, batch_size, None, shuffle, steps_per_epoch, needs_targets)

    @property
    def is_stream(self) -> bool:
        """bool, whether the examples arrive in batches, without an index."""
        return not isinstance(self.examples, ArraySource)

    def reader(self, generators: list[np.random.Generator]) -> ArrayReader | StreamReader:
        """The reader of uniform batches and presamples.

        Args:
            generators: two `np.random.Generator`, one for the order of each.
        """
        if self.batch_size is None:
            return StreamReader(
                self.examples,
                self.class_weight,
                generators,
                self.shuffle,
                self.steps_per_epoch,
                self.needs_targets,
            )
        return ArrayReader(self.examples, self.batch_size, generators, self.shuffle)


@dataclasses.dataclass(frozen=True)
class FitArguments:
    """The arguments of a call of `fit`, with the names and the meaning of `keras.Model.fit`."""

    x: Any
    y: Any
    batch_size: int | None
    epochs: int
    verbose: int | Literal["auto"]
    callbacks: Any
    validation_split: float
    validation_data: Any
    shuffle: bool | Literal["batch"]
    class_weight: dict[int, float] | None
    sample_weight: Any
    initial_epoch: int
    steps_per_epoch: int | None
    validation_steps: int | None
    validation_batch_size: int | None
    validation_freq: int | Sequence[int]

    def __post_init__(self) -> None:
        # Keras and PyTorch's `DataLoader` accept only a Python number for some arguments.
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, plain(getattr(self, field.name)))

    def passed_to(self, fit: Callable[..., History]) -> History:
        """Calls `fit`, a method like `keras.Model.fit`, with all arguments."""
        named = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return fit(**named)

    def resolved(self, needs_targets: bool = True) -> tuple[TrainingData, dict[str, Any]]:
        """Splits the arguments, except `callbacks`, into training data and the rest.

        Args:
            needs_targets: bool, whether there has to be a `y`. Defaults to `True`.

        Returns:
            A tuple `(data, rest)`: the training data, and the arguments passed on to `model.fit`,
            among them the validation data that `validation_split` holds out.

        Raises:
            TypeError: if `x` is neither arrays nor a source of batches.
            ValueError: for arguments that do not fit each other.
        """
        x, y, sample_weight = self.x, self.y, self.sample_weight
        validation_data = self.validation_data
        validation_batch_size = self.validation_batch_size
        if is_stream(x):
            check_stream_arguments(x, y, sample_weight, None, self.validation_split)
        else:
            if self.validation_split and validation_data is None:
                (x, y, sample_weight), validation_data = arrays.split(
                    x, y, sample_weight, self.validation_split
                )
            validation_batch_size = validation_batch_size or self.batch_size
        data = TrainingData.of(
            x,
            y,
            sample_weight,
            self.batch_size,
            self.class_weight,
            self.shuffle,
            self.steps_per_epoch,
            needs_targets,
        )
        return data, {
            "epochs": self.epochs,
            "verbose": self.verbose,
            "initial_epoch": self.initial_epoch,
            "validation_data": validation_data,
            "validation_steps": self.validation_steps,
            "validation_batch_size": validation_batch_size,
            "validation_freq": self.validation_freq,
        }
