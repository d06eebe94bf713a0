"""Small models and real data for the whole suite."""

import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# One thread for each process of the suite: more would wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
# Many tests compile the same small model: JAX keeps what it has compiled, for all processes of the
# suite and for the next run.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    os.path.join(
        os.path.dirname(os.path.dirname(os.path.abspath(__file__))), ".pytest_cache", "jax"
    ),
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# What is compiled here runs for milliseconds: optimizing it takes longer than it saves.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import numpy as np
import pytest
from sklearn.datasets import load_digits

# Programs that tests start in processes of their own, some for one backend alone: pytest would
# import them to look for doctests.
collect_ignore_glob = ["*_process.py", "keras_own_tests.py"]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """`any_backend` tests are quick on PyTorch, which traces and compiles nothing."""
    if os.environ.get("KERAS_BACKEND") != "torch":
        for item in items:
            if item.get_closest_marker("any_backend"):
                item.add_marker(pytest.mark.slow)


def pytest_collection_finish():
    """The frameworks hold millions of objects, which the garbage collector need not visit again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@pytest.fixture(scope="session")
def digits():
    """scikit-learn's digits in a fixed random order: `(1797, 64)` in [0, 1], and labels."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    return (x[order] / 16).astype("float32"), y[order].astype("int64")
