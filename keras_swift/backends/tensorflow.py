"""TensorFlow: scoring is a `tf.function` over the model's own variables."""

import weakref

import keras
import numpy as np
import tensorflow as tf

from keras_swift.backends import padded, rate_of, several_processes
from keras_swift.data.leaves import put_back, there

# Whether Keras asks a `PyDataset` for items several steps ahead of training.
PULLS_AHEAD = True
# Whether an item is made in the course of its step, after `on_train_batch_begin`.
MADE_IN_STEP = True


def compile_scoring(function, model):
    strategy = model.distribute_strategy
    replicas = strategy.num_replicas_in_sync

    def on_a_replica(*inputs):
        return function(current_values(model, None), *inputs)

    # Given values are plain tensors, so one device computes with them.
    compiled_for = tf.function(function, autograph=False)

    @tf.function(autograph=False)
    def compiled(*inputs):
        return on_a_replica(*inputs) if replicas == 1 else strategy.run(on_a_replica, args=inputs)

    def score(values, *inputs):
        if replicas > 1 and values is None:
            return shared(inputs)
        # Tensors rather than arrays: a traced Python object would mean a new
        # trace at every call.
        inputs = keras.tree.map_structure(tf.convert_to_tensor, inputs)
        outputs = compiled(*inputs) if values is None else compiled_for(values, *inputs)
        return keras.tree.map_structure(lambda tensor: tensor.numpy(), outputs)

    def shared(inputs):
        count = len(keras.tree.flatten(inputs)[0])

        def per_replica(array):
            parts = np.split(padded(np.asarray(array), replicas), replicas)
            return strategy.experimental_distribute_values_from_function(
                lambda context: tf.convert_to_tensor(parts[context.replica_id_in_sync_group])
            )

        def joined(values):
            local = strategy.experimental_local_results(values)
            return np.concatenate([tensor.numpy() for tensor in local])[:count]

        scores = compiled(*keras.tree.map_structure(per_replica, inputs))
        return {name: joined(values) for name, values in scores.items()}

    return score


def scope_of(model):
    return model.distribute_strategy.scope()


def check_devices(model):
    strategy = model.distribute_strategy
    if isinstance(
        strategy,
        tf.distribute.MultiWorkerMirroredStrategy
        | tf.distribute.experimental.ParameterServerStrategy,
    ):
        raise several_processes(type(strategy).__name__)


def capture_values(model):
    return None


def current_values(model, captured):
    trainable = [variable.value for variable in model.trainable_variables]
    return trainable, [variable.value for variable in model.non_trainable_variables]


def compile_sum(function, model):
    if model.distribute_strategy.num_replicas_in_sync == 1:
        return _SumInPlace(function, model)
    # The variables are inputs, because a replica's cannot be captured.
    compiled = tf.function(function, autograph=False)
    return lambda total, captured: compiled(total, list(current_values(model, captured)))


class _SumInPlace:
    """Keeps the sum in variables of its own.

    A call then passes no tensors, each of which costs more than its arithmetic.

    Args:
        function: function `(total, values) -> total` of nested lists; the
            total is `None` at first.
        model: `keras.Model`.
    """

    def __init__(self, function, model):
        self._function, self._model = function, model
        self._total = None

    def __call__(self, total, captured):
        if self._total is None:
            # Not before, because the model may be compiled anew.
            values = current_values(self._model, None)
            self._total = keras.tree.map_structure(_variable_like, list(values))
            self._begin, self._add = (
                tf.function(step, autograph=False).get_concrete_function()
                for step in (lambda: self._take(None), lambda: self._take(self._total))
            )
        if total is None:
            self._begin()
            return self._total
        if total is not self._total:
            self._assign(total)
        self._add()
        return self._total

    def _take(self, total):
        self._assign(self._function(total, list(current_values(self._model, None))))

    def _assign(self, values):
        for variable, value in zip(
            keras.tree.flatten(self._total), keras.tree.flatten(values), strict=True
        ):
            variable.assign(tf.cast(value, variable.dtype))


def _variable_like(value):
    return tf.Variable(tf.zeros_like(value), trainable=False)


def is_in_sync(model):
    return True


def learning_rate(model):
    return rate_of(model.optimizer)


def asks_one_ahead():
    return False


def gradient(function, tensor):
    tensor = tf.stop_gradient(tensor)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        value, rest = function(tensor)
    return (value, rest), tape.gradient(
        value, tensor, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )


def random_state():
    # Layers draw from variables of their own.
    return []


def restore_random_state(state):
    pass


def keep(model):
    return []


def give_back(kept):
    pass


def example_gradient_norms(function, trainable, inputs):
    trainable = [tf.convert_to_tensor(value) for value in trainable]
    inputs = keras.tree.map_structure(tf.convert_to_tensor, inputs)

    def norm(position):
        row = keras.tree.map_structure(lambda leaf: leaf[position : position + 1], inputs)
        with tf.GradientTape() as tape:
            tape.watch(trainable)
            value = function(trainable, *row)
        slopes = tape.gradient(value, trainable, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return tf.sqrt(sum(tf.reduce_sum(tf.square(tf.convert_to_tensor(s))) for s in slopes))

    count = tf.shape(keras.tree.flatten(inputs)[0])[0]
    return tf.map_fn(norm, tf.range(count), fn_output_signature=tf.float32)


def step(model, data):
    return model.train_step(data), None


def fetches_ahead(model):
    return model.distribute_strategy.num_replicas_in_sync > 1


def feed(dataset, model):
    """A `tf.data` dataset without a prefetch, which would run steps ahead."""
    # TensorFlow keeps the functions that a pipeline calls for good, and with them all they hold.
    # Whoever calls `fit` holds the dataset meanwhile.
    dataset = weakref.proxy(dataset)
    strategy = model.distribute_strategy
    several = strategy.num_replicas_in_sync > 1
    # `tf.data` takes a list for one tensor to be stacked.
    example, *others = [keras.tree.lists_to_tuples(item) for item in dataset.peek(2)]
    # An array that is not there is `None` in every item.
    leaves = [tf.convert_to_tensor(leaf) for leaf in there(example)]
    # Axes that differ between two batches are of any length, as in Keras' own data sets.
    shapes = [np.shape(leaf) for leaf in there(others[-1] if others else example)]
    shapes = [
        [
            # Where it is known, the steps of recurrent layers are shorter.
            dataset.fixed_size,
            *(
                size if size == other else None
                for size, other in zip(leaf.shape[1:], shape[1:], strict=True)
            ),
        ]
        for leaf, shape in zip(leaves, shapes, strict=True)
    ]
    dtypes = [leaf.dtype for leaf in leaves]
    # Those of one device fetch ahead, and then it is not known which step a batch is for.
    fetching = tf.distribute.OneDeviceStrategy | tf.distribute.MirroredStrategy
    together = model.steps_per_execution == 1 and not (several or isinstance(strategy, fetching))
    arrays = dataset.arrays_to_gather_from() if together else None
    if arrays is not None:
        data = _gathered(dataset, keras.tree.lists_to_tuples(arrays), example, dtypes, shapes)
    else:
        data = _items(dataset, example, dtypes, shapes)
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.inject_prefetch = False
    # Nothing in the pipeline can be serialised to another worker.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    data = data.with_options(options)
    return strategy.experimental_distribute_dataset(data) if several else data


def _items(dataset, example, dtypes, shapes):
    """The items of a dataset, each made when it is asked for."""

    def item(index):
        return _of_types(there(dataset[int(index)]), dtypes)

    def load(index):
        return put_back(example, _called(item, index, dtypes, shapes))

    return tf.data.Dataset.range(dataset.num_batches).map(load)


def _gathered(dataset, arrays, example, dtypes, shapes):
    """The same from copies of the arrays, by way of their indices.

    Python is then called once for all batches drawn together, and TensorFlow
    gathers the rows, as `model.fit` has it.
    """
    count = len(there(arrays))
    with tf.device("CPU:0"):
        # A data set of their own and not captured by `gather`, whose graph would keep them in
        # memory until Python looks for cycles.
        arrays = tf.data.Dataset.from_tensors(
            tuple(
                tf.convert_to_tensor(array, dtype)
                for array, dtype in zip(there(arrays), dtypes, strict=False)
            )
        )
    dtypes = [tf.int64, *dtypes[count:]]
    shapes = [[None, shape[0], *shape[1:]] for shape in ([dataset.fixed_size], *shapes[count:])]

    def batches(_):
        rows = [keras.tree.flatten(batch) for batch in dataset.next_batches()]
        return _of_types([np.stack(parts) for parts in zip(*rows, strict=True)], dtypes)

    def gather(told, arrays):
        indices, *weights = told
        rows = [tf.gather(array, indices) for array in arrays]
        return put_back(example, [*rows, *weights])

    number = dataset.num_batches
    told = (
        tf.data.Dataset.range(number)
        .map(lambda index: tuple(_called(batches, index, dtypes, shapes)))
        .unbatch()
        .take(number)
    )
    data = tf.data.Dataset.zip((told, arrays.repeat())).map(gather)
    return data.apply(tf.data.experimental.assert_cardinality(number))


def _of_types(arrays, dtypes):
    return [
        np.asarray(array, dtype.as_numpy_dtype) for array, dtype in zip(arrays, dtypes, strict=True)
    ]


def _called(function, index, dtypes, shapes):
    tensors = tf.numpy_function(function, [index], dtypes)
    for tensor, shape in zip(tensors, shapes, strict=True):
        tensor.set_shape(shape)
    return tensors
