"""Importance training (Katharopoulos and Fleuret 2018): same optimum, less gradient noise per step.

`presampling` is Algorithm 1, `remembered` draws by the scores of earlier steps, `resampling` has
the equations, `gates` decides between uniform and importance batches, `batches` combines these for
a model and its data, `feed` and `dataset` hand batches to `model.fit`, `weighted_step` separates
the weights inside a step, `trainer` is the trainer.
"""
