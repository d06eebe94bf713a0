"""Decides which examples a Keras model is trained on."""

from keras_swift.src._keras import check_backend

check_backend()

from keras_swift.src.fitting.backup import BackupAndRestore  # noqa: E402
from keras_swift.src.importance.batch import Batch  # noqa: E402
from keras_swift.src.importance.dataset import ImportanceDataset  # noqa: E402
from keras_swift.src.importance.plot import plot_training  # noqa: E402
from keras_swift.src.importance.trainer import ImportanceTraining  # noqa: E402
from keras_swift.src.records.memory import ExampleMemory  # noqa: E402
from keras_swift.src.search.result import SearchResult  # noqa: E402
from keras_swift.src.search.search import search  # noqa: E402
from keras_swift.src.search.settings import SamplerSpace  # noqa: E402
from keras_swift.src.search.trial import SearchTrial  # noqa: E402
from keras_swift.src.suspects.mixture import WrongShare  # noqa: E402
from keras_swift.src.suspects.result import Suspects  # noqa: E402
from keras_swift.src.swift.features import compute_features  # noqa: E402
from keras_swift.src.swift.sampler import SwiftSampler  # noqa: E402
from keras_swift.src.swift.suspects import find_suspects  # noqa: E402
from keras_swift.src.swift.trainer import SwiftTraining  # noqa: E402

__version__ = "0.1.0"

__all__ = [
    "BackupAndRestore",
    "Batch",
    "ExampleMemory",
    "ImportanceDataset",
    "ImportanceTraining",
    "SamplerSpace",
    "SearchResult",
    "SearchTrial",
    "Suspects",
    "SwiftSampler",
    "SwiftTraining",
    "WrongShare",
    "compute_features",
    "find_suspects",
    "plot_training",
    "search",
]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
