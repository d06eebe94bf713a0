"""Algorithm 1 of the paper as a `PyDataset`, for users who call `model.fit` themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import keras

from keras_swift.src import backends
from keras_swift.src._types import ArrayTree, Score, Seed
from keras_swift.src.fitting.arguments import TrainingData
from keras_swift.src.importance.batch import Batch, LazyItem
from keras_swift.src.importance.easing import Easing
from keras_swift.src.importance.prepare import make_feed
from keras_swift.src.importance.running import OwnFitCallback
from keras_swift.src.importance.settings import FRESH_FLOOR, ImportanceSettings
from keras_swift.src.rules import check, check_if_given, check_seed
from keras_swift.src.scoring.compiled import needs_targets
from keras_swift.src.scoring.scorer import Scorer
from keras_swift.src.validation import check_model

# A batch `(x, y, weights)`.
Item = tuple[ArrayTree, ArrayTree, ArrayTree]


class ImportanceDataset(keras.utils.PyDataset):
    """Batches drawn by how much they would change the model.

    Each item is a batch `(x, y, weights)`. While the gate is open, `B`
    examples are taken from a permutation of the data, scored by the model in
    one forward pass, and `b` of them drawn in proportion to the scores, some
    of them several times; the weights keep the weighted mean over the batch an unbiased
    estimate of the mean over the data. While the gate is shut, an item is the
    next uniform batch with weights of 1, and one batch in 16 to 64 is scored
    to decide whether it opens.

    `ImportanceTraining` builds and feeds this for you. Use it directly to call
    `model.fit` yourself:

        dataset = ImportanceDataset(model, x, y, batch_size=128, seed=0)
        model.fit(dataset, callbacks=[dataset.callback()])

    Only `ImportanceTraining` can take scores from the training step, so here
    they are always fresh and cost a forward pass. The callback is required
    on JAX; on every backend it adds `tau`, `gain`, `importance` and
    `presample` to the history. Keras' plain `metrics` ignore weights, so in
    direct use they describe the harder examples that were drawn: compile with
    `weighted_metrics`, or use `ImportanceTraining`, which weights them.

    Items are made in step with training: item *i* of an epoch is drawn when
    the model requests it, whatever its index, and scored with the model's
    current weights. There are three exceptions: uniform batches of arrays
    are drawn up to seven steps early, several at a time; on JAX, Keras
    fetches one batch ahead (on an accelerator; before Keras 3.15 on a CPU
    too), so the model's weights are one step old; with
    `steps_per_execution=k` they are those at the start of each k steps.
    Indexing the dataset outside an epoch shows its first examples with
    importance weights of 1, and changes no state.

    Args:
        model: a compiled `keras.Model`.
        x: inputs: a NumPy array or tensor, or a list, tuple or dict of them,
            first axis `n`; `h5py` and memory-mapped arrays are read row by
            row, never whole. Or a source of batches `(x, y)` or
            `(x, y, sample_weight)`: a `PyDataset`, `tf.data.Dataset`, PyTorch
            `DataLoader`, grain dataset or generator. For those, a presample is
            the next `presample` batches, rounded, at least two.
        y: targets, likewise. Defaults to `None`, for sources of batches.
        sample_weight: weights of the examples in the loss, shape `(n,)`, or
            `(n, steps)` for one weight per time step. They multiply the score
            and the weight. Defaults to `None`, 1 for all.
        batch_size: int, `b`; a source of batches has its own. Defaults to
            `None`: 32, or `ceil(n / steps_per_epoch)` if that is given.
        presample: float above 1, the presample ratio `B / b`, for the paper's
            rule; or `"auto"`: the ratio `r` of 2, 3 and 5 with the highest
            expected benefit, while the variance gain `k` exceeds the cost of
            a step, `k > 1 + f r`, where scoring an example costs `f = 1/3` of
            training on it. Defaults to `None`: `"auto"`, or 3.0 if a
            `tau_threshold` is given.
        tau_threshold: float, 0 or more: the gate opens while the running
            mean of `tau` is above it; 0 keeps it open. Defaults to `None`:
            with a number for `presample`, the paper's `(B + 3b) / (3b)`.
        score: `"gradient_norm"` (the upper bound of the gradient norm),
            `"loss"`, or a callable `(y_true, y_pred) -> (n,)` in
            `keras.ops`. Defaults to `"gradient_norm"`.
        floor: float in [0, 1), the uniform share mixed into the
            probabilities; it bounds the weights by `1 / floor`. Defaults to
            0.1.
        seed: int, `np.random.Generator` or `None` (fresh entropy, the
            default). A seed fixes the permutations and the draws.
        shuffle: bool, whether the data is permuted (for a `PyDataset`, the
            order of its batches; other sources keep theirs). Defaults to
            `True`.
        class_weight: dict from class number to weight, as in `model.fit`.
            Defaults to `None`.
        steps_per_epoch: int, the number of items. Defaults to `None`,
            `ceil(n / b)`, or the number of batches of the source.
        on_draw: callable that gets every `Batch` before it is trained on.
            Defaults to `None`.
        score_inputs: function of the inputs of a presample, NumPy arrays as
            in `x`, that returns the inputs to score instead: cheaper ones,
            such as every second pixel for a model that pools over the whole
            image. Training gets the original inputs, and weights are exact
            for the scores that were computed. Defaults to `None`, the
            original inputs.
        ease_off: bool, whether batches become uniform while the validation
            loss of `model.fit` has not fallen for two validations. Defaults
            to `None`: if `presample` is `"auto"`.

    Raises:
        TypeError: if the data is neither arrays nor a source of batches.
        ValueError: for a value outside the ranges above, a model that is not
            compiled, data of different lengths or labels outside the classes.

    Reference:
        Katharopoulos and Fleuret, "Not All Samples Are Created Equal: Deep
        Learning with Importance Sampling", ICML 2018, Algorithm 1.
    """

    def __init__(
        self,
        model: keras.Model,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        batch_size: int | None = None,
        presample: float | Literal["auto"] | None = None,
        tau_threshold: float | None = None,
        *,
        score: Score = "gradient_norm",
        floor: float = FRESH_FLOOR,
        seed: Seed = None,
        shuffle: bool = True,
        class_weight: dict[int, float] | None = None,
        steps_per_epoch: int | None = None,
        on_draw: Callable[[Batch], None] | None = None,
        score_inputs: Callable[[ArrayTree], ArrayTree] | None = None,
        ease_off: bool | None = None,
    ) -> None:
        # Keras fetches ahead of training when it feeds a `PyDataset` to
        # TensorFlow. With workers it does not, but fetches items in them:
        # `__getitem__` then returns a lazy item that is drawn in step.
        super().__init__(workers=2 if backends.active().PULLS_AHEAD else 1)
        check_model(model)
        check(floor=floor)
        check_if_given(on_draw=on_draw)
        check_seed(seed)
        settings = ImportanceSettings(
            presample=presample,
            tau_threshold=tau_threshold,
            score=score,
            floor=floor,
            score_inputs=score_inputs,
            ease_off=ease_off,
        )
        data = TrainingData.of(
            x,
            y,
            sample_weight,
            batch_size,
            class_weight,
            shuffle,
            steps_per_epoch,
            needs_targets(model, score),
        )
        easing = Easing(settings.eases_off)
        self.feed = make_feed(model, data, settings, Scorer(model, (score,)), seed, easing, on_draw)

    @property
    def num_batches(self) -> int:
        """int, the number of items in an epoch."""
        return self.feed.num_batches

    @property
    def batch_size(self) -> int:
        """int, `b`."""
        return self.feed.reader.batch_size

    def __len__(self) -> int:
        return self.num_batches

    def __getitem__(self, index: int) -> Item | LazyItem:
        return LazyItem(self._item) if backends.active().PULLS_AHEAD else self._item()

    def __iter__(self) -> Iterator[Item]:
        self.on_epoch_begin()
        try:
            for _ in range(self.num_batches):
                yield self._item()
        finally:
            self.on_epoch_end()

    def callback(self) -> keras.callbacks.Callback:
        """The callback that goes with this dataset in `model.fit`.

        Returns:
            A `keras.callbacks.Callback`. It adds `gain`, `tau`, `importance`
            and `presample` to the history, `gain` also to the logs of every
            epoch and, on JAX, captures the model's values to score with.
        """
        return OwnFitCallback(self.feed)

    def on_epoch_begin(self) -> None:
        self.feed.begin_epoch()

    def on_epoch_end(self) -> None:
        self.feed.end_epoch()

    def _item(self) -> Item:
        feed = self.feed
        within = feed.steps.within_epoch
        batch = feed.next_batch() if within else feed.uniform_specimens(1)[0]
        return batch.x, batch.y, batch.weights
