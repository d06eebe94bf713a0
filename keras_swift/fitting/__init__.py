"""What goes on around `model.fit`, shared by both trainers.

`callbacks` puts ours around the user's, `resume` saves and restores with `BackupAndRestore`,
`model_state` reads and writes variables, `weight_average` averages weights.
"""
