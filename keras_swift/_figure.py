"""The figure that plots are drawn on. Only `_plotting` imports this file, when one is drawn."""

from __future__ import annotations

import io

from matplotlib.figure import Figure


class NotebookFigure(Figure):
    """A figure that notebooks show as a picture.

    They show those of pyplot anyway, and others only once pyplot has drawn one.
    """

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()
