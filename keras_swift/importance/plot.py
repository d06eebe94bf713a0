"""Figures of a training run; matplotlib is imported when one is drawn."""

from keras_swift._plotting import import_figure, save


def plot_training(history, file=None):
    """Draws a run of `ImportanceTraining`: loss, and what the sampler did.

    The upper panel has the training loss, and the validation loss if there is
    one, over epochs; the lower one the variance reduction `tau` with the share
    of steps drawn by importance. With `presample="auto"` a third panel has
    what the gate decided by: the predicted gain, the share of noise in the
    loss and the cost of scoring.

    Args:
        history: the `keras.callbacks.History` of `ImportanceTraining.fit`, or
            its `history` dict.
        file: path to write the figure to, for example `"training.png"`.
            Defaults to `None`, not written.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if the history has no `tau`.
    """
    values = getattr(history, "history", history)
    missing = [name for name in ("loss", "tau", "importance") if name not in values]
    if missing:
        raise ValueError(
            f"`history` must come from `ImportanceTraining.fit`. Received: one without {missing}, "
            f"with {sorted(values)}."
        )
    figure_class = import_figure()
    epochs = range(1, len(values["loss"]) + 1)
    measured = "predicted_gain" in values
    figure = figure_class(figsize=(7, 7.5 if measured else 5), layout="constrained")
    above, below, *rest = figure.subplots(3 if measured else 2, 1, sharex=True)
    above.plot(epochs, values["loss"], marker=".", label="training")
    if "val_loss" in values:
        above.plot(
            range(1, len(values["val_loss"]) + 1),
            values["val_loss"],
            marker=".",
            label="validation",
        )
    above.set_ylabel("loss")
    if min(values["loss"]) > 0:
        above.set_yscale("log")
    above.legend()
    below.plot(epochs, values["tau"], marker=".", color="tab:green", label="variance reduction τ")
    below.set_ylabel("τ")
    (rest or [below])[0].set_xlabel("epoch")
    below.set_ylim(bottom=0)
    share = below.twinx()
    share.fill_between(
        epochs, values["importance"], step="mid", alpha=0.25, color="tab:orange", linewidth=0
    )
    share.plot([], [], color="tab:orange", alpha=0.5, linewidth=6, label="steps by importance")
    share.set_ylim(0, 1.02)
    share.set_ylabel("share of steps")
    lines = [*below.get_lines(), *share.get_lines()]
    below.legend(lines, [line.get_label() for line in lines], loc="lower right")
    below.xaxis.get_major_locator().set_params(integer=True)
    if measured:
        _plot_measured(rest[0], epochs, values)
    return save(figure, file)


def _plot_measured(panel, epochs, values):
    for name, label in (
        ("predicted_gain", "predicted gain"),
        ("noise_share", "share of noise in the loss"),
        ("cost_ratio", "scoring over training, f"),
    ):
        panel.plot(epochs, values[name], marker=".", label=label)
    panel.axhline(1.0, color="grey", linewidth=0.8, linestyle="--")
    panel.set_ylim(bottom=0)
    panel.set_ylabel("gate")
    panel.legend(loc="best", fontsize="small")
