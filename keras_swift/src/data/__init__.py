"""The data `fit` was given: arrays and streams of batches, and readers that return their examples.

`arrays` checks and wraps arrays, `streams` everything that yields batches, `reader` draws uniform
batches and presamples from either, `permutations` has the order, `draws` the systematic draw,
`held` holds a data set as arrays, `leaves` handles single arrays, `fingerprint` tells one data set
from another. Nothing here knows the model.
"""
