"""Draws the most suspicious examples."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from keras_swift.src._plotting import BLUE, import_figure, save
from keras_swift.src._types import Array
from keras_swift.src.records.examples import Examples
from keras_swift.src.rules import check_if_given

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from keras_swift.src.suspects.result import Suspects

# Numbers shown of a row that is not an image.
COLUMNS = 12


def plot_suspects(
    suspects: Suspects, examples: Examples, file: str | os.PathLike[str] | None, count: int
) -> Figure:
    """The figure of `Suspects.plot`.

    Args:
        suspects: `Suspects`.
        examples: `Examples`, of which the first input is drawn; a stream is read once.
        file, count: as for `Suspects.plot`.
    """
    check_if_given(file=file)
    captions = suspects.captions(count)
    # An example with several suspects is read once.
    shown, back = np.unique([index for index, _ in captions], return_inverse=True)
    rows = examples.first_input(shown)[back.reshape(-1)]
    image = _is_image(rows)
    across = min(6 if image else 4, len(captions))
    down = -(-len(captions) // across)
    # Never narrower than its title, and wide enough for a caption in two lines.
    size = (1.8, 2.1) if image else (3.2, 1.8)
    size = (max(4.8, size[0] * across), size[1] * down + 0.6)
    figure = import_figure()(figsize=size, layout="constrained")
    figure.suptitle(
        f"The {len(captions)} most doubted\nEstimated share of wrong labels: "
        f"{suspects.wrong_share}",
        fontsize="medium",
    )
    if not image:
        figure.supxlabel("number of the input", fontsize="small")
        figure.supylabel("value", fontsize="small")
    grid = figure.subplots(down, across, squeeze=False).reshape(-1)
    for axes, row, (_, caption) in zip(grid, rows, captions, strict=False):
        if image:
            picture = row[..., 0] if row.ndim == 3 and row.shape[-1] == 1 else row
            low, high = float(picture.min()), float(picture.max())
            # Scaled, because images may have any range.
            axes.imshow((picture - low) / max(high - low, 1e-12), cmap="gray")
            axes.set_axis_off()
        else:
            axes.plot(np.asarray(row, np.float64).reshape(-1)[:COLUMNS], ".-", color=BLUE)
            axes.tick_params(labelsize="x-small")
        axes.set_title(caption.replace(": ", "\n"), fontsize="x-small")
    for axes in grid[len(captions) :]:
        axes.set_axis_off()
    return save(figure, file)


def _is_image(rows: Array) -> bool:
    if rows.ndim == 4:
        return rows.shape[-1] in (1, 3, 4)
    # Grey images without a channel axis; sequences of vectors have the same shape.
    return rows.ndim == 3 and rows.shape[1] == rows.shape[2]
