"""What training computed for each example, remembered from step to step and read as columns.

`memory` stores the numbers by example and `target_record` by target, `recorder` fills both from the
training steps, of which `outputs` computes the numbers. `columns` is the read interface, from which
features are computed. `identity` recognises the examples of a stream, and `known_reader` reads a
stream by it, batches that are `known`.
"""
