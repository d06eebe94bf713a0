"""Helpers around `model.fit`, shared by both trainers.

`arguments` separates the data from the other arguments of `fit`, `run` calls `model.fit`,
`callbacks` puts our callbacks around the user's, `backup` is our `BackupAndRestore` and `resume`
works with Keras' own, `model_state` reads and writes variables,
`weight_average` averages weights, `atomic` writes files whole or not at all.
"""
