"""Which targets of the data are probably wrong, from what a training recorded of them.

`of_record` goes from a record to the `result` and merges the outputs. `mixture` and `tail` decide
which targets are suspect, `doubts` applies them to each output, and `proposals` asks the model for
other targets.
"""
