"""The search for a sampler, by Bayesian optimisation with KerasTuner.

`search` is the public function, `run` runs one search from start to end, `start` holds what its
trials share, `held_out` judges them, `space`, `oracle` and `gaussian_process` propose candidates,
`tuner` trains them, `fingerprint` identifies data and models, `result` and `plot` report.
"""
