"""The search for a sampler, by Bayesian optimisation with KerasTuner.

`search` is the public function, `session` takes a search up and runs what is left of it, `stages`
has its three parts, `start` what they share, and `store` their files. `judge` judges the trials,
`space`, `oracle` and `gaussian_process` propose candidates, `tuner` trains them, `result` and
`plot` report.
"""
