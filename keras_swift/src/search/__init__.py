"""The search for a sampler, by Bayesian optimisation with KerasTuner.

`search` is the public function, `run` runs one search from start to end, `start` holds what its
trials share, `judge` judges them, `space`, `oracle` and `gaussian_process` propose candidates,
`tuner` trains them, `result` and `plot` report.
"""
