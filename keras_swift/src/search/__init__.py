"""The search for a sampler, by Bayesian optimisation with KerasTuner.

`search` is the public function, and `settings` says among which samplers it looks, and how.
`session` takes a search up and runs what is left of it, `stages` has its three stages, `start` what
the trials share, `store` the files, and `processes` how several processes share them. `cube`,
`oracle` and `gaussian_process` propose candidates, `tuner` runs the trials, `judge` judges them,
`choice` picks those to confirm, and `result`, `report` and `plot` report.
"""
