"""The search for a sampler, by Bayesian optimisation with KerasTuner.

`search` is the public function, and `space` says among which samplers it looks. `session` takes a
search up and runs what is left of it, `stages` has its three stages, `start` what the trials share,
and `store` the files. `cube`, `oracle` and `gaussian_process` propose candidates, `tuner` runs the
trials, `judge` judges them, `choice` picks those to confirm, `result`, `report` and `plot` report.
"""
