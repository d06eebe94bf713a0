"""Importance training (Katharopoulos and Fleuret 2018): same optimum, less gradient noise per step.

`sampler` is Algorithm 1, `remembered` draws by the scores of earlier steps, `resampling` has the
equations, `gate` decides between uniform and importance batches, `batches` combines these for a
model and its data, `feed` and `dataset` hand batches to `model.fit`, `train_step` separates the
weights inside a step, `training` is the trainer.
"""
