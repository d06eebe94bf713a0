"""Where the sampling probabilities of `SwiftTraining` come from.

They come from the features of a search, from given arrays, or from a trained model that computes
features. This file chooses among these, and its errors say what to pass if none is there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import keras

from keras_swift.src import backends
from keras_swift.src._pages import read_on
from keras_swift.src._types import FloatArray
from keras_swift.src.data import arrays
from keras_swift.src.data.fingerprint import of_arrays
from keras_swift.src.data.stream_reader import StreamReader
from keras_swift.src.records.identity import Identity
from keras_swift.src.swift.chances import ReferenceChances, StreamChances, given_chances
from keras_swift.src.swift.feature_table import (
    RECORDED_NAMES,
    Feature,
    Features,
    is_values,
    named_features,
)
from keras_swift.src.swift.features import FeatureScorer, features_of
from keras_swift.src.swift.ranks import GRADIENT_NORM
from keras_swift.src.swift.sampler import SwiftSampler

if TYPE_CHECKING:
    from keras_swift.src.search.result import SearchResult


@dataclasses.dataclass(frozen=True)
class Probabilities:
    """Computes how often examples are drawn.

    Attributes:
        model: `keras.Model` in training.
        sampler: `SwiftSampler`.
        reference: trained `keras.Model` that features are computed with, or `None`.
        features: the features as given to `SwiftTraining`, or `None`.
        result: `SearchResult` given in place of a sampler, or `None`.
    """

    model: keras.Model
    sampler: SwiftSampler
    reference: keras.Model | None
    features: Features | None
    result: SearchResult | None

    @property
    def search(self) -> SearchResult | None:
        """The search whose features and data are used, if they are."""
        return self.result if self.reference is None and self.features is None else None

    @property
    def records_itself(self) -> bool:
        """Whether the features come from a record of the training itself."""
        nothing_given = self.result is None and self.reference is None and self.features is None
        return nothing_given and all(name in RECORDED_NAMES for name in self.sampler.features)

    @property
    def source(self) -> str:
        """Where the features come from, in words."""
        if self.features is not None:
            return "as given"
        if self.reference is not None:
            return f"computed by {self.reference.name}"
        if self.result is not None:
            return "those of the search"
        return "recorded in training" if self.records_itself else "none"

    def wanted(self) -> dict[str, Feature]:
        """The features that the sampler needs, by name, with the gradient norm for `"cgf"`.

        Raises:
            ValueError: for names that are not known and were not given.
        """
        given = {} if self.features is None else named_features(self.features)
        wanted: dict[str, Feature] = {n: given.get(n, n) for n in self.sampler.features}
        if self.sampler.transform == "cgf":
            wanted[GRADIENT_NORM] = given.get(GRADIENT_NORM, GRADIENT_NORM)
        try:
            return named_features(wanted)
        except ValueError as error:
            raise ValueError(
                f"The sampler was made for the features {list(wanted)}, and some are unknown here. "
                "Pass `features`, a mapping from these names to arrays or callables. " + str(error)
            ) from error

    def of_examples(
        self, source: arrays.ArraySource, batch_size: int, verbose: int | Literal["auto"]
    ) -> FloatArray:
        """The sampling probability of each example of the source."""
        search = self.search
        if search is not None:
            columns = search.features
            size = len(next(iter(columns.values())))
            if size != source.size:
                raise ValueError(
                    "`x` must be the data of the search, whose features the result holds. "
                    f"Received: {source.size} examples; the search had {size}. For other data, "
                    "pass `reference`, a trained model to compute their features with."
                )
            fingerprint = getattr(search, "data_fingerprint", None)
            if fingerprint is not None and fingerprint != of_arrays((source.x, source.y)):
                raise ValueError(
                    "`x` and `y` must be the data of the search, in the same order. Received: "
                    f"{source.size} examples with other contents. For other data, pass "
                    "`reference`, a trained model to compute their features with."
                )
            return self.sampler.probabilities(columns)
        wanted = self.wanted()
        missing = [name for name, feature in wanted.items() if not is_values(feature)]
        if self.reference is None and missing:
            raise ValueError(
                "A `SwiftSampler` needs the features of the data: "
                f"{missing}. Received: reference=None. "
                "Pass `reference`, a trained and compiled model to compute them with; or "
                "`features`; or the result of `keras_swift.search` instead of its sampler. "
                + read_on("guides/learned_sampler.md#using-a-sampler-on-other-data")
            )
        _refuse_recorded(wanted)
        reference = self.model if self.reference is None else self.reference
        columns = features_of(reference, source, wanted, batch_size=batch_size, verbose=verbose)
        return self.of_columns(columns)

    def of_columns(self, columns: dict[str, FloatArray]) -> FloatArray:
        """The probabilities of this process' examples, ranked among those of all processes.

        Args:
            columns: dict from name to float array, shape `(n,)`, the features of its examples.

        Returns:
            A float64 array, shape `(n,)`, that sums to 1.

        Raises:
            ValueError: if the sampler draws no example of some process.
        """
        gathered = backends.active().gather_rows(columns)
        probability = self.sampler.probabilities(gathered.columns)
        masses = [float(probability[part].sum()) for part in gathered.parts]
        if min(masses) == 0.0:
            raise ValueError(
                "Each process must have examples that the sampler draws. Received: parts of which "
                f"it draws the shares {[round(mass, 4) for mass in masses]}. Shuffle the data "
                "before they are dealt out to the processes."
            )
        own: FloatArray = probability[gathered.own]
        own = own / own.sum()
        return own

    def of_stream(self, stream: StreamReader, identity: Identity) -> StreamChances:
        """How often the examples of a stream are drawn, by given features or a reference model."""
        wanted = self.wanted()
        if any(map(is_values, wanted.values())):
            return given_chances(
                self.sampler, wanted, getattr(self.features, "ids", None), identity
            )
        if self.reference is None or self.reference is self.model:
            raise ValueError(
                "`reference` must be a trained model other than the one in training if `x` is a "
                "stream: features are computed from its batches as they are read. "
                f"Received: reference={self.reference and self.reference.name!r}. After a search, "
                "build the model again and give it `result.pretrained_weights`; or pass "
                "`features`, what `compute_features` returns for this stream."
            )
        _refuse_recorded(wanted)
        scorer = FeatureScorer(self.reference, wanted, *stream.first(stream.batch_size)[:2])
        return ReferenceChances(scorer, self.sampler.probabilities, identity)


def _refuse_recorded(wanted: Mapping[str, Feature]) -> None:
    """Raises for features that need a record of training."""
    recorded = [f for f in wanted.values() if isinstance(f, str) and f in RECORDED_NAMES]
    if recorded:
        raise ValueError(
            "The sampler's features must be given if they need a record of training: "
            f"{recorded}. Received: no arrays for them. Pass `features=`, such as "
            "`find_suspects(model, x, y).record` gives to `compute_features(model, x, y, names, "
            "record=...)`; or search with features that need only a trained model, "
            'features=("loss", "renormed_entropy"). Without `reference`, `fit` on arrays records '
            "its own training for a sampler that needs no other features."
        )
