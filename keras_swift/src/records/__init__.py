"""What training computed for each example, remembered from step to step and read as columns.

`memory` stores the numbers by example, `step` and `outputs` read them off a training step,
`columns` turns them into features, `identity` says which example is which, `known_reader` reads a
stream by it.
"""
