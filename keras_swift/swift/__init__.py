"""A learned sampler: ten numbers say how often each kind of example is drawn.

Yao, Li and Xiao, NeurIPS 2024.

`sampler` has the ten numbers, `features` what they look at, `datasets` what
`model.fit` gets, `training` the trainer; `search` finds the numbers.
"""
