"""A learned sampler: ten numbers decide how often each kind of example is drawn.

Yao, Li and Xiao, NeurIPS 2024.

`sampler` has the ten numbers, `features` its inputs, `datasets` and `pooled` the batches for
`model.fit` from arrays and from streams, `trainer` the trainer. The package `search` beside this
one finds the numbers. `suspects` has `find_suspects`, which records a training on uniform batches.
"""
