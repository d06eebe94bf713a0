"""What a search is asked to look for."""

import keras
import pytest

import keras_swift as ks


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"transform": "rank"}, ValueError, "`transform` must be one of.*Received.*'rank'"),
        ({"segments": 0}, ValueError, "`segments` must be"),
        ({"segments": 2.5}, TypeError, "`segments` must be.*Received: segments=2.5"),
        ({"features": ("lost",)}, ValueError, "among 'loss', 'renormed_entropy'"),
    ],
)
def test_a_space_is_checked_when_it_is_made(arguments, error, message):
    with pytest.raises(error, match=message):
        ks.SamplerSpace(**arguments)


def test_the_arguments_of_before_are_not_taken():
    with pytest.raises(TypeError, match="unexpected keyword argument 'features'"):
        ks.search(keras.Sequential(), None, features=("loss",))
