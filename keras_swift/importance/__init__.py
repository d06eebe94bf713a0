"""Importance training (Katharopoulos and Fleuret 2018): same optimum, less gradient noise a step.

`sampler` is Algorithm 1, `resampling` its equations, `gate` decides between uniform and importance
batches, `dataset` hands batches to `model.fit`, `train_step` keeps the weights apart inside a step,
`training` is the trainer.
"""
