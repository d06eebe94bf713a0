"""Makes the feed of a training run: reader, gate and samplers for a model and its data."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np

from keras_swift.src import backends
from keras_swift.src._types import Seed
from keras_swift.src.backends.base import Tap
from keras_swift.src.data.reader import ArrayReader, Examples, Reader
from keras_swift.src.data.stream_reader import StreamReader
from keras_swift.src.fitting.arguments import TrainingData
from keras_swift.src.fitting.journal import Journal
from keras_swift.src.importance.batch import Batch
from keras_swift.src.importance.easing import Easing
from keras_swift.src.importance.epoch_steps import EpochSteps
from keras_swift.src.importance.feed import Feed
from keras_swift.src.importance.gates import COST_RATIO, RATIOS, CostGate, Gate, PublishedGate
from keras_swift.src.importance.parts import ArrayParts, Parts
from keras_swift.src.importance.pool import PooledParts
from keras_swift.src.importance.presampling import ImportanceSampler
from keras_swift.src.importance.recollection import Recollection
from keras_swift.src.importance.remembered import RememberedSampler
from keras_swift.src.importance.settings import ImportanceSettings
from keras_swift.src.records.known_reader import KnownReader
from keras_swift.src.records.memory import ExampleMemory
from keras_swift.src.scoring.compiled import build_for
from keras_swift.src.scoring.scorer import Scorer
from keras_swift.src.validation import check_model, explained


def make_feed(
    model: keras.Model,
    data: TrainingData,
    settings: ImportanceSettings,
    scorer: Scorer,
    seed: Seed,
    easing: Easing,
    on_draw: Callable[[Batch], None] | None = None,
    *,
    step_power: float = 0.0,
    ends_with_a_pass: bool = False,
) -> Feed:
    """Makes a feed that draws by fresh scores.

    It scores one batch, so that a wrong `score` raises before training.

    Args:
        model: a compiled `keras.Model`; built here if necessary.
        data: `TrainingData`.
        settings: `ImportanceSettings`.
        scorer: `Scorer`.
        seed: int, `np.random.Generator` or `None`.
        easing: `Easing`.
        on_draw: callable that gets every `Batch` before it is trained on. Defaults to `None`.
        step_power: float, a batch drawn by importance multiplies the learning rate by this power of
            its variance gain. Defaults to 0.0, which leaves the rate as it is.
        ends_with_a_pass: bool, as for `EpochSteps`. Defaults to `False`.
    """
    check_model(model)
    backends.active().check_devices(model)
    generator = np.random.default_rng(seed)
    process, processes = backends.active().process()
    if processes > 1:
        # Each process draws from its own part of the data.
        generator = generator.spawn(processes)[process]
    generators = generator.spawn(3)
    reader = data.reader(generators[:2])
    if processes > 1:
        _check_one_size(reader)
    first = reader.first(reader.batch_size)
    with explained(*first[:2]):
        check_labels = build_for(model, reader)
    journal = Journal()
    fresh = ImportanceSampler(
        reader,
        scorer,
        _gate(reader, settings),
        settings,
        generators[2],
        check_labels,
        journal,
        easing,
        step_power,
    )
    fresh.score(Examples(first, None))
    steps = EpochSteps(model, reader, data.steps_per_epoch, ends_with_a_pass)
    return Feed(model, reader, fresh, steps, journal, easing, on_draw, step_power > 0)


def remember(
    feed: Feed,
    memory: ExampleMemory,
    known: Recollection,
    tap: Tap,
    settings: ImportanceSettings,
    step_power: float,
) -> None:
    """Makes a feed draw by remembered scores.

    Args:
        feed: `Feed`.
        memory: `ExampleMemory` of all examples of arrays, or of those of a stream that were read.
        known: `Recollection`, what else is known of them.
        tap: `Tap` that will record the training steps.
        settings: `ImportanceSettings`.
        step_power: float, as for `make_feed`.
    """
    fresh, reader = feed.fresh, feed.reader
    floor = settings.floor_of(remembered=True)
    parts: Parts
    if isinstance(reader, ArrayReader):
        parts = ArrayParts(reader, fresh.generator)
    elif isinstance(reader, StreamReader) and known.identity is not None:
        on_read = None if known.stored is None else known.stored.add_batch
        known_reader = KnownReader(reader, known.identity, on_read)
        parts = PooledParts(known_reader, memory, floor, fresh.generator)
    else:
        raise TypeError("A stream is remembered by an `Identity`. Received: identity=None.")
    sampler = RememberedSampler(
        parts, fresh.scorer, memory, floor, fresh.check_labels, step_power, feed.easing, known.gain
    )
    feed.journal.tap = tap
    # How many batches Keras requests before it trains on the first of them.
    in_flight = feed.model.steps_per_execution + backends.active().prefetch_depth() + 1
    sampler.listen(feed.journal, in_flight)
    feed.draw_by(sampler)


def _check_one_size(reader: Reader) -> None:
    """Raises for arrays whose last batch is smaller: other processes would wait for a full one."""
    if reader.source is not None and reader.form.fixed_size is None:
        size = reader.source.size
        raise ValueError(
            "With several processes, each must have a multiple of `batch_size` examples: a "
            "batch drawn by importance is never smaller, and all must be of one size. "
            f"Received: {size} examples, batch_size={reader.batch_size}. "
            f"Leave out {size % reader.batch_size} of them."
        )


def _gate(reader: Reader, settings: ImportanceSettings) -> Gate:
    presample, source = settings.ratio, reader.source
    if isinstance(presample, str):
        # A stream has enough examples for a presample of any size.
        most = np.inf if source is None else source.size / reader.batch_size
        return CostGate(tuple(ratio for ratio in RATIOS if ratio <= most), COST_RATIO)
    size = reader.presample_size(presample)
    return PublishedGate(size, reader.batch_size, settings.tau_threshold)
