"""Which targets of the data are probably wrong, from what a training recorded of them.

`of_record` goes from a record to the `result`; `mixture` and `tail` decide which targets are
suspect, `doubts` asks them for each output, `proposals` asks the model what it would say instead.
"""
