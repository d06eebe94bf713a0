"""The search for a sampler, by Bayesian optimisation with KerasTuner.

`search` is the public function, `run` one search from start to end, `start` what its trials begin
with, `objective` what they are judged by, `space`, `oracle` and `gaussian_process` propose
candidates, `tuner` trains them, `result` and `plot` report.
"""
