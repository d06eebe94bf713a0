"""Which targets of the data are probably wrong, from what a training recorded of them.

`of_record` goes from a record to the `result`. `mixture` and `tail` decide which targets are
suspect, `doubts` applies them to each output, `proposals` asks the model for other targets, and
`together` merges the outputs.
"""
