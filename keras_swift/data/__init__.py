"""What `fit` was given: arrays and streams of batches, and readers that hand out their examples.

`arrays` checks and wraps arrays, `streams` everything that yields batches, `reader` draws uniform
batches and presamples from either, `permutations` has the order. Nothing here knows of a model.
"""
