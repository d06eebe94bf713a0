"""Helpers around `model.fit`, shared by both trainers.

`trainer` is the base class of both, `arguments` separates the data from the other arguments of
`fit`, `run` calls `model.fit` with our callbacks around the user's, and `own_step` replaces the
model's `train_step` meanwhile and records it. `backup` is our `BackupAndRestore`, `backup_file` its
file, `journal` what it saves besides the model; `resume` works with Keras' own.
`model_state` and `random_states` read and restore variables and random generators,
`weight_average` averages weights, `states` turns states into bytes, and `atomic` writes files whole
or not at all.
"""
