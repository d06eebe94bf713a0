"""Gates decide, step by step, between a uniform and an importance batch.

`published` is the paper's rule; `measured` decides by what `run_watch` measures of the run.
"""
