import keras
import numpy as np
import pytest
import scipy.sparse

from keras_swift.src.data.arrays import ArraySource, class_weights, split
from keras_swift.src.data.fingerprint import of_arrays


def test_takes_rows_of_every_array():
    x = {"a": np.arange(5), "b": [np.arange(10).reshape(5, 2), np.arange(5.0)]}
    taken, y, weight = ArraySource(x, np.arange(5) * 2).take(np.array([3, 3, 0]))
    assert taken["a"].tolist() == [3, 3, 0]
    assert taken["b"][0].tolist() == [[6, 7], [6, 7], [0, 1]]
    assert y.tolist() == [6, 6, 0]
    assert weight is None


def test_float64_comes_as_floatx_and_integers_as_they_are():
    x, y, _ = ArraySource(np.zeros((2, 3)), np.zeros(2, "int64")).take(np.array([0]))
    assert (x.dtype, y.dtype) == (np.float32, np.int64)


def test_backend_tensors_become_arrays():
    x = keras.ops.convert_to_tensor([[1.0], [2.0]])
    y = keras.ops.convert_to_tensor([0, 1])
    taken, labels, _ = ArraySource(x, y).take(np.array([1]))
    assert (taken.tolist(), labels.tolist()) == ([[2.0]], [1])


def test_memory_mapped_arrays_stay_on_disk(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(12).reshape(6, 2))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    source = ArraySource(mapped, np.arange(6))
    assert source.x is mapped
    assert source.take(np.array([5]))[0].tolist() == [[10, 11]]


def test_rows_strewn_over_the_memory_are_put_together_once(tmp_path):
    x = np.arange(12.0, dtype="float32").reshape(6, 2)
    by_columns = np.asfortranarray(x)
    source = ArraySource({"a": x, "b": by_columns, "c": x[:, ::-1]}, np.arange(6))
    assert source.x["a"] is x
    assert source.x["b"].flags.c_contiguous
    assert np.shares_memory(source.x["c"], x)
    assert source.take(np.array([4, 1]))[0]["b"].tolist() == [[8, 9], [2, 3]]
    np.save(tmp_path / "x.npy", by_columns)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert ArraySource(mapped, np.arange(6)).x is mapped


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        (np.zeros(3), None, ValueError, "`y` must be given.*y=None"),
        (np.zeros((0, 2)), np.zeros(0), ValueError, "at least one example"),
        (np.zeros(3), np.zeros(4), ValueError, r"same length. Received: len\(x\)=3, len\(y\)=4"),
        (
            [np.zeros(3), np.zeros(2)],
            np.zeros(3),
            ValueError,
            r"Received: len\(x\)=\[3, 2\], len\(y\)=3",
        ),
        ((i for i in range(3)), np.zeros(3), TypeError, "`x` must be an array.*generator"),
        (np.zeros(3), np.array([[1], [1, 2], []], object), TypeError, "`y` must hold numbers"),
        (np.float32(3), np.zeros(3), ValueError, "counts the examples. Received: a scalar"),
        ([], np.zeros(3), ValueError, "an empty structure"),
    ],
)
def test_bad_data_are_named(x, y, error, message):
    with pytest.raises(error, match=message):
        ArraySource(x, y)


def test_split_holds_out_the_last_share():
    (x, y, w), (xv, yv, wv) = split({"a": np.arange(10)}, np.arange(10), np.arange(10) * 0.5, 0.25)
    assert x["a"].tolist() == y.tolist() == list(range(7))
    assert xv["a"].tolist() == yv.tolist() == [7, 8, 9]
    assert wv.tolist() == [3.5, 4.0, 4.5]
    assert len(w) == 7


@pytest.mark.parametrize("share", [-0.1, 1.0, 0.9])
def test_split_needs_examples_on_both_sides(share):
    with pytest.raises(ValueError, match="`validation_split` must"):
        split(np.zeros(4), np.zeros(4), None, share)


@pytest.mark.parametrize(
    "y", [np.array([0, 2, 1]), np.array([[0], [2], [1]]), np.eye(3)[[0, 2, 1]]]
)
def test_class_weights_by_number_and_one_hot(y):
    assert class_weights(y, {0: 2.0, 2: 3.0}).tolist() == [2.0, 3.0, 1.0]


def test_class_weights_are_for_one_output():
    with pytest.raises(ValueError, match="single output"):
        class_weights([np.zeros(2), np.zeros(2)], {0: 1.0})


def test_hdf5_rows_are_read_as_asked_for_and_never_whole(tmp_path):
    h5py = pytest.importorskip("h5py")
    numbers = np.arange(40.0).reshape(20, 2)
    with h5py.File(tmp_path / "data.h5", "w") as file:
        data = file.create_dataset("x", data=numbers)
        source = ArraySource(data, file.create_dataset("y", data=np.arange(20)))
        assert not source.is_in_memory
        # Out of order, twice, and in one piece.
        for indices in ([7, 2, 7, 19], [4, 3, 5], [0], list(range(20))):
            x, y, _ = source.take(np.array(indices))
            assert x.tolist() == numbers[indices].tolist()
            assert y.tolist() == indices
        (x, y, _), (held, _, _) = split(data, np.arange(20), None, 0.25)
        assert x.shape == (15, 2) and not isinstance(x, np.ndarray)
        assert isinstance(held, np.ndarray) and held.tolist() == numbers[15:].tolist()
        (inner, _, _), _ = split(x, y, None, 0.2)
        assert len(inner) == 12 and inner[np.array([11, 1])].tolist() == numbers[[11, 1]].tolist()
        assert class_weights(file["y"], {3: 2.0})[2:5].tolist() == [1.0, 2.0, 1.0]
        assert of_arrays(x) == of_arrays(numbers[:15])


def test_pandas_columns_and_series_come_as_in_fit():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1.0, 2.0], "b": [3, 4]}, index=[7, 5])
    x, y, weight = ArraySource(frame, frame["b"], frame["a"]).take(np.array([1, 0]))
    assert x.tolist() == [[2.0, 4.0], [1.0, 3.0]] and x.dtype == np.float32
    # Keras makes a column of a series; of weights it needs one for each example.
    assert (y.tolist(), weight.tolist()) == ([[4], [3]], [2.0, 1.0])
    with pytest.raises(TypeError, match="`x` must hold numbers"):
        ArraySource(pandas.DataFrame({"a": ["u", None]}), np.zeros(2))


def test_sparse_rows_become_dense(tmp_path):
    matrix = scipy.sparse.random(6, 4, 0.5, format="coo", random_state=0)
    source = ArraySource(matrix, np.arange(6))
    taken = source.take(np.array([5, 0, 5]))[0]
    np.testing.assert_allclose(taken, matrix.toarray()[[5, 0, 5]], rtol=1e-6)
    assert taken.dtype == np.float32
    assert of_arrays(source.x) == of_arrays(matrix.toarray())


@pytest.mark.parametrize("shape", [(4, 3, 3, 1), (4, 5, 1), (4, 2, 2, 3), (4, 5, 6)])
def test_class_weights_of_pixels_or_steps_are_refused_as_in_fit(shape):
    of_shape = rf"shape \(n, {str(shape[1:])[1:-1]}\)"
    message = f"one label for each example.*{of_shape}.*`sample_weight`"
    with pytest.raises(ValueError, match=message):
        class_weights(np.ones(shape, "int64"), {1: 2.0})
