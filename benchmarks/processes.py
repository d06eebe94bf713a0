"""What several processes cost on JAX: steps per second, plain `fit` beside ours.

    KERAS_BACKEND=jax python benchmarks/processes.py --processes 1 2 --output processes.json

Starts the processes on this machine, so they share its cores: what can be read off is what ours
adds to plain `fit`, not what two machines would give. Bytes are those of the results of the
collectives in the compiled step, counted in its text.
"""

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time

SIZES = {"bool": 1, "pred": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8}


def exchanged_bytes(text):
    """int, the bytes of the results of all collectives in a compiled program."""
    total = 0
    for line in text.splitlines():
        found = re.search(r"= (.*?) (all-reduce|all-gather|all-to-all|collective-permute)\(", line)
        if found:
            for kind, shape in re.findall(r"(\w+)\[([\d,]*)\]", found[1]):
                count = 1
                for size in filter(None, shape.split(",")):
                    count *= int(size)
                total += SIZES[kind] * count
    return total


def measure(address, count, process, epochs):
    """The times of one process, in seconds a step."""
    import jax
    import keras
    import numpy as np

    import keras_swift as ks

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if count > 1:
        keras.distribution.initialize(address, count, process)
        distribution = keras.distribution.DataParallel(auto_shard_dataset=False)
        keras.distribution.set_distribution(distribution)
    generator = np.random.default_rng(process)
    x = generator.normal(size=(2048, 64)).astype("float32")
    y = generator.integers(0, 10, 2048)

    def build():
        keras.utils.set_random_seed(0)
        layers = keras.layers
        model = keras.Sequential(
            [keras.Input((64,)), layers.Dense(256, activation="relu"), layers.Dense(10)]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss, metrics=["accuracy"])
        return model

    class Times(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.epochs = []

        def on_epoch_begin(self, epoch, logs=None):
            self.start = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            self.epochs.append(time.perf_counter() - self.start)

    steps = len(x) // 32
    found = {}
    for name in ("fit", "importance"):
        model, times = build(), Times()
        train = model.fit if name == "fit" else ks.ImportanceTraining(model, seed=0).fit
        train(x, y, batch_size=32, epochs=epochs, verbose=0, callbacks=[times])
        # Without what is compiled in the first two.
        found[name] = steps / float(np.median(times.epochs[2:]))
    return found


def run(count, epochs):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with tempfile.TemporaryDirectory() as folder:
        dump = (
            f"--xla_dump_to={folder}/xla --xla_dump_hlo_as_text --xla_dump_hlo_module_re=.*step.*"
        )
        started = [
            subprocess.Popen(
                [sys.executable, __file__, "--as", address, str(count), str(process)]
                + ["--epochs", str(epochs), "--output", f"{folder}/{process}.json"],
                env={**os.environ, "XLA_FLAGS": dump if process == 0 else ""},
            )
            for process in range(count)
        ]
        if any(process.wait() for process in started):
            raise RuntimeError("A process failed; its error is above.")
        found = [json.load(open(f"{folder}/{process}.json")) for process in range(count)]
        sizes = []
        for name in sorted(os.listdir(f"{folder}/xla")):
            if "train_step" in name and name.endswith("after_optimizations.txt"):
                with open(f"{folder}/xla/{name}") as file:
                    sizes.append(exchanged_bytes(file.read()))
    return {
        "processes": count,
        "steps_per_second": {name: min(part[name] for part in found) for name in found[0]},
        "bytes_exchanged_by_a_step": sizes,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--output", default="processes.json")
    parser.add_argument("--as", dest="part", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        address, count, process = options.part
        result = measure(address, int(count), int(process), options.epochs)
    else:
        result = [run(count, options.epochs) for count in options.processes]
        print(json.dumps(result, indent=2))
    with open(options.output, "w") as file:
        json.dump(result, file, indent=2)
