"""A learned sampler: ten numbers decide how often each kind of example is drawn.

Yao, Li and Xiao, NeurIPS 2024.

`sampler` has the ten numbers, `features` its inputs, `datasets` the batches
for `model.fit`, `trainer` the trainer. The `search` beside this package finds the numbers.
"""
