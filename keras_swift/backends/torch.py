"""PyTorch: scoring reads the model as it is, without gradient bookkeeping."""

import contextlib

import keras
import torch

from keras_swift.backends import rate_of, several_processes

# Whether Keras asks a `PyDataset` for items several steps ahead of training.
PULLS_AHEAD = False
# Whether an item is made in the course of its step, after `on_train_batch_begin`.
MADE_IN_STEP = False


def compile_scoring(function, model):
    def score(values, *inputs):
        inputs = keras.tree.map_structure(keras.ops.convert_to_tensor, inputs)
        # `no_grad`, not `inference_mode`: the loss is differentiated in the
        # model's output, and inference tensors cannot be.
        with torch.no_grad():
            outputs = function(values or current_values(model, None), *inputs)
        return keras.tree.map_structure(keras.ops.convert_to_numpy, outputs)

    return score


def scope_of(model):
    return contextlib.nullcontext()


def check_devices(model):
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        if distributed.get_world_size() > 1:
            raise several_processes(
                f"torch.distributed with {distributed.get_world_size()} processes"
            )


def capture_values(model):
    return None


def current_values(model, captured):
    trainable = [variable.value for variable in model.trainable_variables]
    return trainable, [variable.value for variable in model.non_trainable_variables]


def compile_sum(function, model):
    def of_now(total, captured):
        with torch.no_grad():
            return function(total, current_values(model, None))

    return of_now


def is_in_sync(model):
    return True


def learning_rate(model):
    return rate_of(model.optimizer)


def asks_one_ahead():
    return False


def gradient(function, tensor):
    with torch.enable_grad():
        tensor = tensor.detach().requires_grad_(True)
        value, rest = function(tensor)
        if not value.requires_grad:
            return (value, rest), torch.zeros_like(tensor)
        (slope,) = torch.autograd.grad(value, tensor, allow_unused=True)
    if slope is None:
        slope = torch.zeros_like(tensor)
    return (value.detach(), rest), slope


def random_state():
    # Keras' dropout draws from PyTorch's global generators.
    states = [torch.get_rng_state()]
    if torch.cuda.is_available():
        states += torch.cuda.get_rng_state_all()
    return [state.numpy() for state in states]


def restore_random_state(state):
    first, *others = [torch.from_numpy(array.copy()) for array in state]
    torch.set_rng_state(first)
    if others and len(others) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(others)


def keep(model):
    return []


def give_back(kept):
    pass


def example_gradient_norms(function, trainable, inputs):
    count = len(keras.tree.flatten(inputs)[0])
    norms = []
    with torch.enable_grad():
        trainable = [value.detach().requires_grad_(True) for value in trainable]
        for position in range(count):
            row = keras.tree.map_structure(lambda leaf, i=position: leaf[i : i + 1], inputs)
            slopes = torch.autograd.grad(function(trainable, *row), trainable, allow_unused=True)
            squares = [torch.sum(slope**2) for slope in slopes if slope is not None]
            norms.append(torch.sqrt(torch.stack(squares).sum()))
    return torch.stack(norms).detach()


def step(model, data):
    before = [(variable.value, variable.value.grad) for variable in model.trainable_variables]
    try:
        return model.train_step(data), None
    finally:
        for tensor, gradient in before:
            tensor.grad = gradient


def fetches_ahead(model):
    return False


def feed(dataset, model):
    free = free_memory(model)
    if free is not None:
        dataset.keep_on_device(free)
    return dataset


def free_memory(model):
    """int, bytes that are free where the model computes; `None` on the CPU, or if not known."""
    devices = [variable.value.device for variable in model.variables[:1]]
    if not devices or devices[0].type != "cuda":
        return None
    return torch.cuda.mem_get_info(devices[0])[0]
