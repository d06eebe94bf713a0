"""The figure of a training run; matplotlib is imported when one is drawn."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from keras_swift.src._plotting import BLUE, GREEN, GREY, ORANGE, import_figure, save
from keras_swift.src.rules import Rule, check_if_given

if TYPE_CHECKING:
    import keras
    from matplotlib.figure import Figure

_HISTORY = Rule("what `ImportanceTraining.fit` returned, or its `history` dict", (Mapping,))


def plot_training(
    history: keras.callbacks.History | Mapping[str, Sequence[float]],
    file: str | os.PathLike[str] | None = None,
) -> Figure:
    """Plots a run of `ImportanceTraining`: the loss and the variance gain.

    The upper panel shows the training loss, and the validation loss if there
    is one, over epochs. The lower panel shows the realised variance gain, the
    factor by which a uniform batch would have to be larger (above 1 if
    importance sampling pays), and, as an area, the share of steps drawn by
    importance. A dotted line marks where epochs drawn by importance are
    followed by uniform ones.

    Args:
        history: the `keras.callbacks.History` of `ImportanceTraining.fit`, or
            its `history` dict.
        file: path to write the figure to, for example `"training.png"`.
            Defaults to `None`, not written.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: if matplotlib is not installed.
        TypeError: if `history` is not a history or a dict, or `file` not a path.
        ValueError: if the history lacks what `ImportanceTraining` adds.
    """
    values: Mapping[str, Sequence[float]] = getattr(history, "history", history)
    _HISTORY.check("history", values)
    check_if_given(file=file)
    missing = [name for name in ("loss", "gain", "importance") if name not in values]
    if missing:
        raise ValueError(
            f"`history` must come from `ImportanceTraining.fit`. Received: one without {missing}, "
            f"with {sorted(values)}."
        )
    epochs = list(range(1, len(values["loss"]) + 1))
    figure = import_figure()(figsize=(7, 5.4), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    above.plot(epochs, values["loss"], marker=".", color=BLUE, label="training")
    if validated := values.get("val_loss"):
        # With `validation_freq=k` there is one value for every k-th epoch.
        every = len(epochs) // len(validated)
        at = epochs[every - 1 :: every][: len(validated)]
        above.plot(at, validated, marker=".", color=ORANGE, label="validation")
    above.set_ylabel("loss")
    # A log axis of less than a decade has ticks that are hard to read.
    if max(values["loss"]) > 10 * min(values["loss"]) > 0:
        above.set_yscale("log")
        above.set_ylabel("loss, on a log scale")
    above.legend()
    above.set_title(_verdict(values), fontsize=10)
    below.plot(epochs, values["gain"], marker=".", color=GREEN, label="realised variance gain")
    below.axhline(1.0, color=GREY, linewidth=0.8, linestyle="--", label="uniform draws")
    below.set_ylabel("variance gain")
    below.set_xlabel("epoch")
    # Room above the curve for its markers.
    below.set_ylim(0, 1.1 * max(1.0, *values["gain"]))
    share = below.twinx()
    share.fill_between(epochs, values["importance"], step="mid", alpha=0.2, color=BLUE, linewidth=0)
    share.plot([], [], color=BLUE, alpha=0.4, linewidth=6, label="share of steps by importance")
    share.set_ylim(0, 1.02)
    share.set_ylabel("share of steps")
    label = "uniform from here on"
    for epoch in _eased_off(values["importance"]):
        # Between the last epoch with draws by importance and this one.
        where, look = epoch - 0.5, {"color": ORANGE, "linewidth": 1.2, "linestyle": ":"}
        above.axvline(where, **look)
        below.axvline(where, label=label, **look)
        # In the legend once: names that begin with "_" are left out.
        label = "_"
    lines = [*below.get_lines(), *share.get_lines()]
    # Outside the panels, where it covers no curve.
    figure.legend(
        handles=[line for line in lines if not line.get_label().startswith("_")],
        loc="outside lower center",
        ncols=2,
    )
    below.locator_params(axis="x", integer=True)
    return save(figure, file)


def _eased_off(importance: Sequence[float]) -> list[int]:
    """The epochs, from 1, without draws by importance after one that had some."""
    pairs = zip(importance, importance[1:], strict=False)
    return [epoch for epoch, (before, now) in enumerate(pairs, 2) if before > 0 == now]


def _verdict(values: Mapping[str, Sequence[float]]) -> str:
    """The figure's message in one sentence."""
    drawn = sum(values["importance"]) / len(values["importance"])
    if not drawn:
        return (
            "Every step was uniform:\ndrawing by importance promised no gain, or could not be tried"
        )
    gain = max(values["gain"])
    return (
        f"{drawn:.0%} of the steps were drawn by importance,\n"
        f"at best with the noise of a batch {gain:.1f} times as large"
    )
