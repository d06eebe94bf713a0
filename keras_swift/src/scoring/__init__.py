"""Numbers for each example of a compiled model, from one forward pass.

`scorer` compiles the pass, `gradient_norm` has the upper bound of the gradient norm (Katharopoulos
and Fleuret 2018), `compiled` finds a compiled model's losses, and `own_call` tests those with a
`__call__` of their own. `label_outputs` has probabilities and margins of labels. `examples`,
`labels`, `finite` and `weights` check that data and model fit.
"""
