"""Importance training (Katharopoulos and Fleuret 2018): same optimum, less gradient noise per step.

`trainer` has the trainer, `dataset` the data set for users who call `model.fit` themselves. Both
have `settings` and let `prepare` make a `feed`, which Keras reads. Its batches come from a
`Sampler`, described in `batch`: `presampling` is Algorithm 1, with `gates` between uniform and
importance batches; `remembered` draws by the scores of earlier steps, from the `parts` of arrays or
from a `pool` of a stream, and `step_records` reads these scores back. `easing` makes batches
uniform once importance stops helping, and `gates` measures how much it helps. `epoch_steps` counts
steps and queues batches, `resampling` has the equations, `weighted_step` separates the weights
inside a step, and `running` calls `model.fit`.
"""
