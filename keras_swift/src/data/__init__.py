"""The data `fit` was given: arrays and streams of batches, and readers that return their examples.

`arrays` checks and wraps arrays, `streams` everything that yields batches: `read` checks a batch,
`items` reads those of a `PyDataset`, `read_ahead` reads in a thread. `reader` says how either is
read, and reads arrays; `stream_reader` reads streams. `permutations` has the order, `draws` the
systematic draw, `held` holds a data set as arrays, `leaves` handles single arrays, also on a disk,
`fingerprint` tells one data set from another. Nothing here knows the model.
"""
