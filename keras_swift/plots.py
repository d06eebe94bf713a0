"""Figures of a training run; matplotlib is imported when one is drawn."""


def plot_training(history, file=None):
    """Draws a run of `ImportanceTraining`: loss, and what the sampler did.

    The upper panel has the training loss, and the validation loss if there is
    one, over epochs; the lower one the variance reduction `tau` with the share
    of steps drawn by importance.

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
    figure = figure_class(figsize=(7, 5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
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
    below.set_xlabel("epoch")
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
    return save(figure, file)


def import_figure():
    """`matplotlib.figure.Figure`, which draws without a window and without global state."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Figures need matplotlib. Install it with `pip install 'keras-swift[plot]'`."
        ) from error
    return Figure


def save(figure, file):
    """Writes the figure where a file is given; returns it."""
    if file is not None:
        figure.savefig(file, dpi=120)
    return figure
