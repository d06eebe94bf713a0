"""Helpers around `model.fit`, shared by both trainers.

`callbacks` puts our callbacks around the user's, `resume` works with `BackupAndRestore`,
`model_state` reads and writes variables, `weight_average` averages weights.
"""
