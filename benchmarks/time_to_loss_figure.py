"""The figure of `time_to_loss.py`: test error of each task against well-tuned uniform training."""

import numpy as np

NAMES = {
    "fashion-mlp": "Fashion-MNIST, MLP",
    "fashion-cnn": "Fashion-MNIST, CNN",
    "fashion-10k": "Fashion-MNIST, 10,000 images",
    "mnist-mlp": "MNIST, MLP",
    "cifar10": "CIFAR-10, small CNN",
    "digits": "digits, 1,437 images",
    "wrong-labels": "a fifth of the labels wrong",
    "adam": "Fashion-MNIST, MLP, Adam",
    "rare-class": "a class ten times rarer",
    "fine-tuning": "fine-tuning a CNN",
}
EDGE = 0.2  # A task beyond it is an arrow at the edge, so that it leaves room for the others.
# Okabe and Ito's colours, which colour-blind readers can tell apart.
BETTER, WORSE, LEVEL, OTHER = "#0072B2", "#D55E00", "#555555", "#999999"


def changes(rows, baseline):
    """Mean and standard error of the change in test error, paired by seed; 0.1 is 10 % more.

    Differences are divided by the mean: ratios of the few errors of a small test set would be
    0.5 one time and 1.5 another, whose mean is not that of the errors.
    """
    uniform = {row["seed"]: row["test_error"] for row in baseline}
    mean = np.mean([uniform[row["seed"]] for row in rows if row["seed"] in uniform])
    found = [
        (row["test_error"] - uniform[row["seed"]]) / mean for row in rows if row["seed"] in uniform
    ]
    error = np.std(found, ddof=1) / np.sqrt(len(found)) if len(found) > 1 else 0.0
    return float(np.mean(found)), float(error)


def sentence(found):
    """What the figure shows, of means and standard errors."""
    lower = [-mean for mean, error in found if mean + error < 0]
    higher = [mean for mean, error in found if mean - error > 0]
    text = "no change beyond the noise"
    if lower:
        text = f"{min(lower):.0%} to {max(lower):.0%} fewer errors in {len(lower)} of {len(found)}"
        text += " tasks"
    if higher:
        text += f",\nmore in {len(higher)}, where the network memorises its data"
    return f"Importance training, same number of examples:\n{text}"


def draw(cells, file):
    """Draws the methods' rows of each task, `{(task, epochs, ...): {method: rows}}`."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    cells = {cell: methods for cell, methods in cells.items() if {"uniform", "ours"} <= {*methods}}
    # The settings of a task were chosen for its whole length, not for half of it.
    longest = {task: max(cell[1] for cell in cells if cell[0] == task) for task, *_ in cells}
    cells = {cell: methods for cell, methods in cells.items() if cell[1] == longest[cell[0]]}
    ours = {cell: changes(found["ours"], found["uniform"]) for cell, found in cells.items()}
    order = sorted(ours, key=lambda cell: ours[cell][0])
    # Narrow, with large letters, so that it can be read on a telephone.
    figure = Figure(figsize=(4.8, 0.42 * len(order) + 1.6), layout="constrained")
    axes = figure.subplots()
    for place, cell in enumerate(order):
        mean, error = ours[cell]
        color = BETTER if mean + error < 0 else WORSE if mean - error > 0 else LEVEL
        inside = mean < EDGE
        look = {"color": color, "marker": "o" if inside else ">", "markersize": 7, "linewidth": 2}
        axes.errorbar(min(mean, EDGE), place, xerr=error if inside else 0.0, **look)
        end = max(min(mean, EDGE) + error * inside, 0.0)
        axes.annotate(f"{mean:+.0%}", (end, place), (8, 0), textcoords="offset points", va="center")
        if "infobatch" in cells[cell]:
            other = changes(cells[cell]["infobatch"], cells[cell]["uniform"])[0]
            axes.plot(other, place, marker="|", color=OTHER, markersize=14, markeredgewidth=3)
    axes.axvline(0.0, color="black", linewidth=0.8)
    axes.set_yticks(
        range(len(order)),
        [f"{NAMES.get(task, task)},\n{epochs} epochs" for task, epochs, *_ in order],
    )
    axes.invert_yaxis()
    axes.set_xlim(-EDGE, EDGE + 0.07)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    if any("infobatch" in cells[cell] for cell in order):
        axes.plot(
            [], [], "|", color=OTHER, markersize=10, markeredgewidth=3, label="InfoBatch's\nrule"
        )
        axes.legend(fontsize="small", loc="upper right", frameon=False)
    axes.set_xlabel("test errors, against\nuniform training at its best rate")
    figure.suptitle(sentence(list(ours.values())), fontsize="large")
    figure.savefig(file, dpi=160)
    print(f"\nwrote {file}")
