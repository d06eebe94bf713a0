"""Numbers for the examples of a training step, from the outputs that it computes anyway."""

from __future__ import annotations

from keras import ops

from keras_swift.src._types import ArrayTree, Tensor
from keras_swift.src.scoring.label_outputs import label_means, label_output
from keras_swift.src.scoring.scorer import Scorer


class StepScores:
    """Score and loss of each example of a batch, and margin and probability of its label.

    The columns are those of `records.memory.COLUMNS`; the last two exist if all compiled losses are
    those of a classifier (means over several, by their loss weights). If an output carries a mask,
    the unmasked share of the entries of each output follows.

    Args:
        scorer: `Scorer` that has scored a batch; its first quantity is the score.
    """

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        labels = [label_output(output) for output in scorer.outputs]
        # All or none: a mean over only the classifying outputs would mean little.
        self._labels = [] if None in labels else [label for label in labels if label is not None]
        self.has_labels = bool(self._labels)
        self.numbers = 4 if self.has_labels else 2
        self.columns = self.numbers + (len(scorer.outputs) if scorer.has_masks else 0)

    def __call__(self, y: ArrayTree, y_pred: ArrayTree, sample_weight: ArrayTree = None) -> Tensor:
        """The numbers of one batch.

        Args:
            y: structure of targets, as `compute_loss` gets it.
            y_pred: structure of outputs.
            sample_weight: the user's weights, which multiply the score and not the loss. Defaults
                to `None`.

        Returns:
            A float32 tensor, shape `(b, columns)`.
        """
        scorer = self._scorer
        found = scorer.of_outputs(y, y_pred, sample_weight)
        score, loss = found[scorer.score_name], found.get("loss")
        if loss is None:
            # A model that computes its loss itself, scored by a callable.
            loss = float("nan") * ops.ones_like(score)
        elif sample_weight is not None:
            loss = scorer.of_outputs(y, y_pred)["loss"]
        numbers = [score, loss]
        if self.has_labels:
            # Weighted as in the loss: labels of an output with weight 0 are not trained on.
            total = sum(label.output.weight for label in self._labels) or 1.0
            means = [
                (label.output.weight / total, label_means(label, targets, outputs))
                for label, (_, targets, outputs) in zip(
                    self._labels, scorer.compared(y, y_pred), strict=True
                )
            ]
            for column in (1, 0):
                numbers.append(sum(share * mean[column] for share, mean in means))
        columns = ops.stack([ops.cast(number, "float32") for number in numbers], axis=1)
        if self.columns > self.numbers:
            columns = ops.concatenate([columns, ops.cast(found["valid"], "float32")], axis=1)
        return ops.stop_gradient(columns)
