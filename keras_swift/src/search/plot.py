"""The figure of a search; matplotlib is imported when it is drawn."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from keras_swift.src._plotting import BLUE, GREEN, GREY, ORANGE, import_figure, save
from keras_swift.src.search.report import verdict
from keras_swift.src.swift.ranks import cumulative_rank

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from keras_swift.src.search.result import SearchResult


def plot_search(result: SearchResult, file: str | os.PathLike[str] | None = None) -> Figure:
    """Draws what a search found, in three panels.

    Left, how often each example is drawn in an epoch, over the ranks of the
    sampler's first two features (or of its only one); a uniform draw is 1.
    Middle, the sampler's piecewise-linear function over the transformed
    aggregate, with the share of examples below each point. Right, the
    objective of every trial and the best so far, against uniform, and the
    objectives of the confirmed trials.

    Args:
        result: a `SearchResult`.
        file: path to write the figure to. Defaults to `None`, not written.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    figure = import_figure()(figsize=(12.5, 4.1))
    # Room between the colour bar and its neighbour.
    figure.set_layout_engine("constrained", w_pad=0.1)
    title = f"Chosen: {verdict(result)}"
    if result.best.number:
        name, again = result.objective.replace("_", " "), result.confirmed
        title += f"; {name} {result.gain:+.3f}" + (" from scratch" if again else " in its trial")
    figure.suptitle(title, fontsize="medium")
    left, middle, right = figure.subplots(1, 3)
    _plot_draws(figure, left, result)
    _plot_function(middle, result)
    _plot_progress(right, result)
    return save(figure, file)


def _plot_draws(figure: Figure, axes: Axes, result: SearchResult) -> None:
    sampler = result.sampler
    relative = result.probabilities * len(result.probabilities)
    ranks = [100 * cumulative_rank(result.features[name]) for name in sampler.features[:2]]
    labels = [f"{name.replace('_', ' ')} (percentile)" for name in sampler.features[:2]]
    axes.set_xlabel(labels[0])
    axes.set_xlim(0, 100)
    if len(ranks) == 1:
        order = np.argsort(ranks[0])
        axes.plot(ranks[0][order], relative[order], color=BLUE)
        axes.set_ylabel("draws per epoch (1: uniform)")
        axes.set_ylim(bottom=0)
    else:
        # Thousands of points overlap, so the largest probabilities are drawn last.
        order = np.argsort(relative)
        size = float(np.clip(6000 / len(relative), 2, 16))
        dots = axes.scatter(
            ranks[0][order], ranks[1][order], c=relative[order], s=size, cmap="viridis", vmin=0
        )
        axes.set_ylabel(labels[1])
        axes.set_ylim(0, 100)
        figure.colorbar(dots, ax=axes, label="draws per epoch (1: uniform)")
    axes.set_title("How often each example is drawn")


def _plot_function(axes: Axes, result: SearchResult) -> None:
    sampler = result.sampler
    grid = np.unique(np.concatenate([np.linspace(0, 1, 201), sampler.knots]))
    knots = np.concatenate([[0.0], sampler.knots, [1.0]])
    axes.plot(grid, sampler.piecewise_linear(grid), color=BLUE, label="H")
    axes.plot(knots, sampler.values, "o", color=BLUE, label="knots")
    weighted = ", weighted by gradient norm" if sampler.transform == "cgf" else ""
    axes.set_xlabel(f"place T of an example by its features{weighted}", fontsize="small")
    axes.set_ylabel("relative probability H")
    axes.set_xlim(0, 1)
    # Room for the legend above the function.
    axes.set_ylim(-0.03, 1.42)
    axes.set_yticks(np.arange(0, 1.1, 0.2))
    position = np.sort(sampler.transformed(result.features))
    axes.step(
        position,
        np.arange(1, len(position) + 1) / len(position),
        where="post",
        color=GREY,
        linestyle=":",
        label="share of examples below",
    )
    axes.legend(loc="upper right", fontsize="small")
    axes.set_title("The sampler's function")


def _plot_progress(axes: Axes, result: SearchResult) -> None:
    numbers = np.array([trial.number for trial in result.trials])
    objectives = np.array([trial.objective for trial in result.trials])
    finite = np.isfinite(objectives)
    better = np.fmax if result.direction == "max" else np.fmin
    axes.plot(numbers[finite], objectives[finite], "o", markersize=4, color=BLUE, label="trial")
    if finite.any():
        best = better.accumulate(objectives)
        axes.step(numbers, best, where="post", color=ORANGE, label="best so far")
        axes.axhline(
            result.uniform.objective, color=GREY, linestyle="--", label="uniform (trial 0)"
        )
        again = [t for t in result.confirmed if np.isfinite(t.objective)]
        if again:
            axes.plot(
                [trial.number for trial in again],
                [trial.objective for trial in again],
                "*",
                color=GREEN,
                markersize=9,
                label="trained from scratch",
            )
    axes.set_xlabel("trial")
    direction = "higher" if result.direction == "max" else "lower"
    axes.set_ylabel(f"{result.objective.replace('_', ' ')} ({direction} is better)")
    axes.locator_params(axis="x", integer=True)
    axes.legend(loc="best", fontsize="small")
    axes.set_title("The search")
