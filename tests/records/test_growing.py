"""Arrays that grow: rows keep their values, and rows that come back are new."""

import numpy as np

from keras_swift.src.records.growing import GrowingRows


def test_rows_keep_their_values_until_they_are_dropped():
    rows = GrowingRows(0, (2,), -1, np.int32)
    expected = np.zeros((0, 2), np.int32)
    for size in (3, 50, 51, 20, 60, 0, 61):
        rows.resize(size)
        kept = expected[:size]
        new = np.full((size - len(kept), 2), -1)
        np.testing.assert_array_equal(rows.values, np.concatenate([kept, new]))
        rows.values[:] = np.arange(2 * size).reshape(-1, 2)
        expected = rows.values.copy()


def test_room_that_is_there_is_not_written_again():
    rows = GrowingRows(0, (), -1, np.int32)
    rows.resize(1000)
    rows.resize(1001)
    room = rows.values.base
    assert len(room) > 1200
    # Nobody reads these before they are in use; writing them for each batch would take time that
    # grows with the number of examples.
    room[1100:] = 5
    rows.resize(1050)
    assert (room[1100:] == 5).all() and (rows.values[1001:] == -1).all()
