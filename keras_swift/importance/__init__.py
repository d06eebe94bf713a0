"""Importance training (Katharopoulos and Fleuret 2018): same optimum, less gradient noise per step.

`sampler` is Algorithm 1, `resampling` its equations, `gate` decides between uniform and importance
batches, `dataset` hands batches to `model.fit`, `train_step` separates the weights inside a step,
`training` is the trainer.
"""
