"""The search for a sampler, by Bayesian optimisation with KerasTuner.

`search` is the public function, and `space` says among which samplers it looks. `session` takes a
search up and runs what is left of it, `stages` has its three parts, `start` what they share, and
`store` their files. `judge` judges the trials, `cube`, `oracle` and `gaussian_process` propose
candidates, `tuner` trains them, `choice` picks some, `result` and `plot` report.
"""
