"""Every claim of the Swift Sampler paper, measured: one table and one figure for each.

    python benchmarks/papers/swift.py --scale small --data cifar10.npz --text wikitext2 \
        --out swift.jsonl --plot figures/swift
    python benchmarks/papers/swift.py --scale paper --out swift.jsonl --plot figures/swift
    python benchmarks/papers/swift.py --summary swift.jsonl --plot figures/swift
    python benchmarks/papers/swift.py --quick

The paper is Yao, Li and Xiao, "Swift Sampler", NeurIPS 2024, arXiv 2410.05578. Three ways to train
are compared, each from scratch, for as many epochs and on the same data:

uniform   all examples are drawn alike
package   `keras_swift.search` with its own features and objective; a sampler is used only if it was
          better than uniform when trained from scratch, else the training is the uniform one
paper     the paper's two features, the validation metric as the objective, and the best trial
          without a further check

Both searches begin with the same pretraining. Prices are in uniform trainings, besides it.

noise      test accuracy with wrong labels in the training data; validation labels are clean
transfer   a sampler searched with a small network trains a larger one
few-shot   networks trained on some classes tell five others apart from 1, 5 or 10 images of each,
           by the nearest mean of the last hidden layer's outputs (length 1), over 400 episodes
language   perplexity of a transformer on WikiText-2; features are the mean logarithm of the
           frequency of a line's words, and its loss, which ranks lines as their perplexity does
ablations  segments, trials, transform, method and features, one changed at a time, on 40 % wrong
           labels: the best trial, without a check
figure     which examples the sampler of the paper's features draws, with 40 % wrong labels

`--scale paper` has the paper's settings and needs a GPU: ResNet-18 (transfer: ResNet-34), batches
of 128, 80 epochs, Nesterov momentum 0.9, rate 0.1 divided by 10 after 40 and after 60 epochs,
weight decay 1e-3, 40 trials of 5 epochs at the last rate; 5,000 training images are held out for
validation. Few-shot uses 64 base and 20 new classes of CIFAR-100 in place of Mini-ImageNet. The
transformer has two blocks of width 200 and reads 35 words. It says first how long it will take.

`--scale small` takes about 20 minutes on two CPU cores. noise: digits and an MLP (30 epochs, 12
trials of 3), and CIFAR-10 of 0, 20 and 40 % noise, 2,000 images of 16 pixels a side and the CNN of
`label_noise.py` (8 epochs, 8 trials of 1). transfer and ablations: digits, MLPs of 64 and 256
units. few-shot: CIFAR-10, five base classes and the five others. language: 24,000 words, 1,000 of
them known, width 64. `--quick`: digits, a few seconds, to see that everything runs.

Repeating a command goes on where it was stopped: rows in `--out` are not measured again, and
trainings and unfinished searches continue from the folder `--work`, which can be deleted at the
end. Settings were not chosen on the seeds that are reported.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import pathlib
import platform
import shutil
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import keras
import label_noise
import numpy as np
import swift_report
import swift_tasks

import keras_swift as ks
from keras_swift.src.swift.ranks import cumulative_rank

PAPER_FEATURES = ("loss", "renormed_entropy")
SHOTS = (1, 5, 10)
EPISODES, WAYS, QUERIES = 400, 5, 15
# Examples in the figure.
SHOWN = 1500
# Trials of the ablations: the numbers compared, and that of all other rows.
ABLATION_TRIALS = {
    "quick": ((2, 3), 3),
    "small": ((10, 20, 40), 20),
    "paper": ((10, 20, 40), 40),
}


class Bench:
    """Runs trainings and searches, and keeps what they gave in a folder.

    Args:
        scale: `"quick"`, `"small"` or `"paper"`.
        files: dict from the name of the data to a file or folder.
        work: folder.
    """

    def __init__(self, scale, files, work):
        self.scale = scale
        self.files = files
        self.work = pathlib.Path(work)
        self.tasks = swift_tasks.scales()[scale]
        if keras.backend.backend() == "jax":
            import jax

            # Each search and training compiles the same functions again: most of a small row.
            jax.config.update("jax_compilation_cache_dir", str(self.work.absolute() / "compiled"))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
            jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

    def key(self, *parts):
        """A name for a file: of other settings, dtype or backend, another one."""
        parts = [dataclasses.asdict(p) if dataclasses.is_dataclass(p) else p for p in parts]
        parts += [keras.backend.backend(), keras.mixed_precision.dtype_policy().name]
        text = json.dumps(parts, sort_keys=True, default=str)
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()

    def search(self, network, task, data, seed, *name, start=None, **options):
        """A search, or what is left of one.

        Args:
            name: strings, of the data and of the options, for its folder.
            start: the result of another search, whose pretrained weights are used.
            options: arguments of `search` and of its `SamplerSpace`.
        """
        steps = -(-len(data.x) // task.batch_size)
        model = swift_tasks.build(network, task, seed, steps, final=start is not None)
        settings = {
            "pretrain_epochs": task.epochs,
            "finetune_epochs": task.finetune_epochs,
            "max_trials": task.trials,
            "confirm": task.confirm,
        }
        if start is not None:
            model.set_weights(start.pretrained_weights)
            settings |= {"pretrain_epochs": 0, "confirm": 0}
        fields = [field.name for field in dataclasses.fields(ks.SamplerSpace)]
        space = {name: options.pop(name) for name in fields if name in options}
        return ks.search(
            model,
            data.x,
            data.y,
            validation_data=(data.x_validation, data.y_validation),
            space=ks.SamplerSpace(**space),
            batch_size=task.batch_size,
            directory=self.work / "searches",
            project_name=self.key(task, network, seed, *name),
            seed=seed,
            verbose=0,
            **(settings | options),
        )

    def forget(self, network, task, seed, *name):
        """Deletes a search's files, which hold several copies of the weights."""
        folder = self.work / "searches" / self.key(task, network, seed, *name)
        shutil.rmtree(folder, ignore_errors=True)

    def train(self, network, task, data, seed, sampler, features, measure, *name):
        """What `measure` says of a network trained from scratch, and the seconds.

        Args:
            sampler: a `SwiftSampler`.
            features: dict from name to array, of the training data.
            measure: function of the trained model, returns plain numbers.
            name: strings, of the data.
        """
        numbers = "uniform" if sampler.is_uniform else sampler.get_config()
        # Two samplers of the same numbers draw differently if the features differ.
        drawn = "" if sampler.is_uniform else sampler.probabilities(features).tobytes().hex()
        file = self.work / f"{self.key(task, network, seed, *name, numbers, drawn)}.json"
        if file.exists():
            return tuple(json.loads(file.read_text()))
        begin = time.perf_counter()
        steps = -(-len(data.x) // task.batch_size)
        model = swift_tasks.build(network, task, 1000 + seed, steps)
        ks.SwiftTraining(model, sampler, seed=seed, features=features).fit(
            data.x, data.y, batch_size=task.batch_size, epochs=task.epochs, verbose=0
        )
        found = measure(model), time.perf_counter() - begin
        # Written whole or not at all, for a run that is killed.
        partial = file.with_suffix(".part")
        partial.write_text(json.dumps(found))
        partial.replace(file)
        return found

    def compared(self, network, task, data, seed, measure, *name, features=None, objective=None):
        """A row: uniform training, the package's search and the paper's.

        Args:
            features: the paper's. Defaults to loss and renormed entropy.
            objective: of the paper's search. Defaults to the accuracy.
        """
        result, rule = self.both(network, task, data, seed, *name, features, objective)
        best = best_trial(rule)
        uniform = ks.SwiftSampler.uniform(result.sampler.features)
        kinds = {
            "uniform": (uniform, result.features),
            "package": (result.sampler, result.features),
            "paper": (best.sampler, rule.features),
        }
        row = {"trials": task.trials, "epochs": task.epochs, "examples": len(data.x)}
        seconds = {"search": search_seconds(result), "paper search": search_seconds(rule)}
        for kind, (sampler, columns) in kinds.items():
            # A search that chose uniform draws gives the uniform training, which is on disk.
            row[kind], seconds[kind] = self.train(
                network, task, data, seed, sampler, columns, measure, *name
            )
            probability = sampler.probabilities(columns)
            row[f"wrong drawn {kind}"] = float(probability[data.wrong].sum())
            row[f"different {kind}"] = float(1 / np.sum(probability**2) / len(probability))
        row["price package"] = result.price
        row["price paper"] = rule.epochs / task.epochs
        row["wrong share estimate"] = result.wrong_share.estimate
        row["network"] = network
        row["seconds"] = sum(seconds.values())
        return row

    def both(self, network, task, data, seed, *rest):
        """The package's search, and the paper's from the same pretraining."""
        *name, features, objective = rest
        own = {"objective": objective} if objective else {}
        result = self.search(network, task, data, seed, *name, "package", **own)
        rule = self.search(
            network,
            task,
            data,
            seed,
            *name,
            "paper",
            start=result,
            features=features or PAPER_FEATURES,
            objective=objective or "val_accuracy",
        )
        return result, rule


def best_trial(result):
    """The trial with the best objective, as the paper takes it."""
    sign = 1 if result.direction == "max" else -1
    done = [trial for trial in result.trials if np.isfinite(trial.objective)]
    return max(done, key=lambda trial: sign * trial.objective)


def search_seconds(result):
    """Pretraining, trials and confirmation."""
    # The first of the confirmed is the pretraining.
    parts = [*(t.seconds for t in result.trials), *(t.seconds for t in result.confirmed[1:])]
    return result.pretrain_seconds + float(np.nansum(parts))


def noise_cells(bench):
    return [
        {"data": name, "share": share}
        for name, task in bench.tasks.items()
        for share in task.shares
    ]


def noise(bench, cell, seed):
    task = bench.tasks[cell["data"]]
    data = swift_tasks.load(task, cell["share"], seed, bench.files)
    name = f"noise {cell['share']}"
    row = bench.compared(
        task.network, task, data, seed, lambda model: label_noise.accuracy(model, data), name
    )
    if cell["share"] < 0.4:
        # Those of 40 % serve the other tables.
        for kind in ("package", "paper"):
            bench.forget(task.network, task, seed, name, kind)
    return row | {"wrong labels": float(data.wrong.mean())}


def forty_cells(bench):
    """The first data with labels to move: digits, or CIFAR-10 at the paper's scale."""
    return [{"data": next(iter(bench.tasks)), "share": 0.4}]


def transfer(bench, cell, seed):
    task = bench.tasks[cell["data"]]
    data = swift_tasks.load(task, cell["share"], seed, bench.files)
    name = f"noise {cell['share']}"
    small, _ = bench.both(task.network, task, data, seed, name, None, None)
    own, _ = found = bench.both(task.larger, task, data, seed, name, None, None)
    row = {
        "trials": task.trials,
        "epochs": task.epochs,
        "examples": len(data.x),
        "network": task.larger,
        "small network": task.network,
    }
    row["seconds"] = sum(search_seconds(result) for result in (small, *found))
    uniform = ks.SwiftSampler.uniform(small.sampler.features)
    for kind, sampler, features in (
        ("uniform", uniform, small.features),
        ("transferred", small.sampler, small.features),
        ("own", own.sampler, own.features),
    ):
        row[kind], seconds = bench.train(
            task.larger, task, data, seed, sampler, features,
            lambda model: label_noise.accuracy(model, data), name,
        )  # fmt: skip
        row["seconds"] += seconds
        row[f"wrong drawn {kind}"] = float(sampler.probabilities(features)[data.wrong].sum())
    return row | {"price transferred": small.price, "price own": own.price}


def few_shot_cells(bench):
    # The last data with images: CIFAR-100 at the paper's scale, CIFAR-10 at the small one.
    name = [name for name, task in bench.tasks.items() if not task.length][-1]
    return [{"data": name}]


def few_shot(bench, cell, seed):
    task = bench.tasks[cell["data"]]
    data = swift_tasks.load_few_shot(task, seed, bench.files)
    base = dataclasses.replace(task, classes=task.base)

    def measure(model):
        return episodes(model, data.x_test, data.y_test, seed)

    return bench.compared(task.network, base, data, seed, measure, "few-shot") | {
        "base classes": task.base
    }


def episodes(model, x, y, seed):
    """Accuracy for each number of images a class, over random episodes."""
    hidden = keras.Model(model.inputs, model.layers[-1].input)
    embedded = hidden.predict(x, batch_size=500, verbose=0)
    embedded = embedded / np.maximum(np.linalg.norm(embedded, axis=1, keepdims=True), 1e-9)
    generator = np.random.default_rng([seed, 3])
    found = {}
    for shots in SHOTS:
        right = []
        for _ in range(EPISODES):
            classes = generator.choice(np.unique(y), WAYS, replace=False)
            rows = np.stack(
                [
                    generator.choice(np.flatnonzero(y == k), shots + QUERIES, replace=False)
                    for k in classes
                ]
            )
            means = embedded[rows[:, :shots]].mean(axis=1)
            distances = ((embedded[rows[:, shots:]][:, :, None] - means) ** 2).sum(axis=-1)
            right.append((distances.argmin(axis=-1) == np.arange(WAYS)[:, None]).mean())
        found[str(shots)] = float(np.mean(right))
    return found


def language_cells(bench):
    return [{"data": "wikitext2"}]


def language(bench, cell, seed):
    task = bench.tasks[cell["data"]]
    data = swift_tasks.load(task, 0.0, seed, bench.files)

    def perplexity(model):
        logs = model.evaluate(
            data.x_test, data.y_test, batch_size=task.batch_size, verbose=0, return_dict=True
        )
        return float(np.exp(logs["loss"]))

    features = {"word_frequency": data.frequency, "loss": "loss"}
    return bench.compared(
        task.network, task, data, seed, perplexity, "text", features=features, objective="val_loss"
    )


def ablation_cells(bench):
    (cell,) = forty_cells(bench)
    numbers, usual = ABLATION_TRIALS[bench.scale]
    changes = [("as it is", {})]
    changes += [(f"segments {k}", {"segments": k}) for k in (1, 2, 8)]
    changes += [(f"trials {k}", {"max_trials": k}) for k in numbers if k != usual]
    changes += [("cdf", {"transform": "cdf"}), ("random search", {"method": "random"})]
    for names in (("loss",), ("renormed_entropy",), PAPER_FEATURES):
        changes.append((" and ".join(names).replace("_", " "), {"features": names}))
    if bench.scale == "quick":
        changes = changes[:2]
    return [cell | {"change": name, "options": options} for name, options in changes]


def ablations(bench, cell, seed):
    task = bench.tasks[cell["data"]]
    data = swift_tasks.load(task, cell["share"], seed, bench.files)
    name = f"noise {cell['share']}"
    pretrained = bench.search(task.network, task, data, seed, name, "package")
    options = {
        "max_trials": ABLATION_TRIALS[bench.scale][1],
        # Features of the record as arrays: without a pretraining there is no record.
        "features": {k: v for k, v in pretrained.features.items() if k != "gradient_norm"},
    } | cell["options"]
    result = bench.search(
        task.network, task, data, seed, name, "ablation", cell["change"],
        start=pretrained, **options,
    )  # fmt: skip
    best = best_trial(result)
    uniform = ks.SwiftSampler.uniform(result.sampler.features)
    objectives = np.array([trial.objective for trial in result.trials])
    row = {
        "network": task.network,
        "trials": len(result.trials),
        "epochs": task.epochs,
        "examples": len(data.x),
        "objective uniform": result.uniform.objective,
        "objective": best.objective,
        # How soon a search finds something.
        "best so far": float(np.fmax.accumulate(objectives).mean()),
        "price": result.epochs / task.epochs,
        "wrong drawn": float(best.sampler.probabilities(result.features)[data.wrong].sum()),
        "seconds": search_seconds(result),
    }
    for kind, sampler in (("uniform", uniform), ("sampler", best.sampler)):
        row[kind], seconds = bench.train(
            task.network, task, data, seed, sampler, result.features,
            lambda model: label_noise.accuracy(model, data), name,
        )  # fmt: skip
        row["seconds"] += seconds
    return row


def figure(bench, cell, seed):
    task = bench.tasks[cell["data"]]
    data = swift_tasks.load(task, cell["share"], seed, bench.files)
    _, result = bench.both(task.network, task, data, seed, f"noise {cell['share']}", None, None)
    best = best_trial(result)
    relative = best.sampler.probabilities(result.features) * len(data.x)
    ranks = {name: cumulative_rank(result.features[name]) for name in PAPER_FEATURES}
    shown = np.random.default_rng(seed).permutation(len(data.x))[:SHOWN]
    row = {
        "network": task.network,
        "trials": task.trials,
        "epochs": task.epochs,
        "examples": len(data.x),
        "price": result.epochs / task.epochs,
        "seconds": search_seconds(result),
        "points": {
            "wrong": data.wrong[shown].astype(int).tolist(),
            "draws": np.round(relative[shown], 3).tolist(),
            **{name: np.round(rank[shown], 3).tolist() for name, rank in ranks.items()},
        },
    }
    for kind, of_kind in (("wrong", data.wrong), ("right", ~data.wrong)):
        row |= {f"{name} {kind}": float(rank[of_kind].mean()) for name, rank in ranks.items()}
        row[f"draws {kind}"] = float(relative[of_kind].mean())
    return row


TABLES = {
    "noise": (noise_cells, noise),
    "transfer": (forty_cells, transfer),
    "few-shot": (few_shot_cells, few_shot),
    "language": (language_cells, language),
    "ablations": (ablation_cells, ablations),
    "figure": (forty_cells, figure),
}


def planned_epochs(bench, table, task, cell, seed, shared):
    """Epochs that one row costs, as `{network: epochs}`.

    Args:
        shared: set, of searches that several tables use and that are counted already.
    """
    trials = task.trials * task.finetune_epochs
    search = task.epochs + trials + task.confirm * task.epochs
    planned = {}
    if table in ("noise", "transfer", "ablations", "figure"):
        name = bench.key(task, task.network, seed, f"noise {cell['share']}", "package")
        if name not in shared and not (bench.work / "searches" / name).exists():
            planned[task.network] = search + (0 if table == "ablations" else trials)
        shared.add(name)
    else:
        planned[task.network] = search + trials
    if table == "transfer":
        planned[task.larger] = search + trials + 3 * task.epochs
    elif table == "ablations":
        count = cell["options"].get("max_trials", ABLATION_TRIALS[bench.scale][1])
        epochs = count * task.finetune_epochs + task.epochs
        planned[task.network] = planned.get(task.network, 0) + epochs
    elif table != "figure":
        planned[task.network] = planned.get(task.network, 0) + 3 * task.epochs
    return planned


def expected_seconds(bench, missing):
    """How long the missing rows take, at the speed of a few steps."""
    speed, shared, total = {}, set(), 0.0
    for table, cell, seed in missing:
        task = bench.tasks[cell["data"]]
        planned = planned_epochs(bench, table, task, cell, seed, shared)
        for network, epochs in planned.items():
            if (task.name, network) not in speed:
                speed[task.name, network] = seconds_per_epoch(bench, task, network, seed)
            compiling, epoch = speed[task.name, network]
            # Models that are compiled: two for the searches, one for each training.
            total += epochs * epoch + (2 if table == "ablations" else 5) * compiling
    return total


def seconds_per_epoch(bench, task, network, seed, steps=20):
    """Seconds that compiling takes, and an epoch."""
    data = swift_tasks.load(task, 0.0, seed, bench.files)
    all_steps = -(-len(data.x) // task.batch_size)
    model = swift_tasks.build(network, task, seed, all_steps)
    rows = slice(0, task.batch_size * min(steps, all_steps))
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        model.fit(data.x[rows], data.y[rows], batch_size=task.batch_size, verbose=0)
        times.append(time.perf_counter() - begin)
    epoch = min(times[1:]) * all_steps / min(steps, all_steps)
    # With a folder of compiled functions, compiling them again takes about a fifth.
    compiling = max(0.0, times[0] - min(times[1:]))
    return compiling * (0.2 if keras.backend.backend() == "jax" else 1.0), epoch


def machine():
    """The device that trains, in words."""
    backend = keras.backend.backend()
    name = ""
    if backend == "jax":
        import jax

        device = jax.devices()[0]
        name = device.device_kind if device.platform != "cpu" else ""
    elif backend == "torch":
        import torch

        name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    elif backend == "tensorflow":
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        if gpus:
            name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")
    return name or f"{platform.platform()}, {os.cpu_count()} CPU cores"


def why_not(bench, cell):
    """Why a row's data cannot be had, or `None`."""
    name = cell["data"]
    if name == "wikitext2" and not bench.files.get(name):
        return "no --text FOLDER"
    if name.startswith("cifar") and not bench.files.get(name):
        option = "--data" if name == "cifar10" else "--data-100"
        try:
            getattr(keras.datasets, name).load_data()
        except Exception as error:
            return f"no {option} FILE.npz, and {name} cannot be downloaded ({type(error).__name__})"
    return None


def what_is_left_out(bench, table):
    """Sentences on what the paper's table has and this scale has not."""
    if bench.scale == "paper":
        return []
    return {
        "noise": ["CIFAR-100, and CIFAR-10 with 10 and 30 %: not run at this scale"],
        "transfer": ["ResNets: not run at this scale"],
        "few-shot": ["100 classes: not run at this scale, which has ten"],
        "ablations": ["CIFAR-10: not run at this scale"],
    }.get(table, [])


def identity(row):
    """What makes two rows the same measurement."""
    cell = [row.get(k) for k in ("table", "scale", "data", "share", "change", "seed", "backend")]
    return json.dumps([*cell, row.get("dtype"), row.get("settings")])


def measure_all(bench, arguments, rows):
    """Measures the rows that are missing, adds them to `rows` and to the file."""
    about = {
        "scale": bench.scale,
        "backend": keras.backend.backend(),
        "keras": keras.__version__,
        "machine": machine(),
        "dtype": keras.mixed_precision.dtype_policy().name,
    }
    done = {identity(row) for row in rows if "missing" not in row}
    missing, notes = [], []
    for table in arguments.tables:
        notes += [(table, None, text) for text in what_is_left_out(bench, table)]
        for cell in TABLES[table][0](bench):
            reason = why_not(bench, cell)
            if reason:
                notes.append((table, cell["data"], f"{cell['data']}: not run: {reason}"))
                continue
            head = about | {"table": table, **cell}
            head["settings"] = bench.key(bench.tasks[cell["data"]], cell)
            for seed in arguments.seeds:
                if identity(head | {"seed": seed}) not in done:
                    missing.append((table, cell, seed, head | {"seed": seed}))
    for table, data, text in dict.fromkeys(notes):
        keep(about | {"table": table, "data": data, "missing": text}, arguments, rows)
    print(f"{about['machine']}, keras {about['keras']}, {about['backend']}, {about['dtype']}")
    if missing:
        expected = expected_seconds(bench, [entry[:3] for entry in missing])
        text = f"{expected / 3600:.1f} hours" if expected > 7200 else f"{expected / 60:.0f} minutes"
        print(f"{len(missing)} rows to measure: about {text}", flush=True)
    if arguments.estimate:
        return
    for number, (table, cell, seed, row) in enumerate(missing, start=1):
        begin = time.perf_counter()
        row |= TABLES[table][1](bench, cell, seed)
        keep(row, arguments, rows)
        what = ", ".join(str(v) for k, v in cell.items() if k != "options")
        print(
            f"{number}/{len(missing)} {table}: {what}, seed {seed}, "
            f"{time.perf_counter() - begin:.0f} s",
            flush=True,
        )


def keep(row, arguments, rows):
    """Adds a row to the list and to the file, once."""
    if row in rows:
        return
    rows.append(row)
    if arguments.out:
        with open(arguments.out, "a") as file:
            file.write(json.dumps(row) + "\n")


def read(name):
    """The rows of a file; a last line cut off by a kill is left out."""
    rows = []
    with open(name) as file:
        for line in file:
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                print(f"{name}: left out a line that is cut off")
    return rows


def close_last_line(name):
    """Ends a line that a kill cut off, so that the next row has one of its own."""
    with open(name, "rb+") as file:
        content = file.read()
        if content and not content.endswith(b"\n"):
            file.write(b"\n")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--scale", choices=["small", "paper"], default="small")
    parser.add_argument("--quick", action="store_true", help="digits, one seed, seconds")
    parser.add_argument("--seeds", nargs="+", type=int, default=[2, 3, 4])
    parser.add_argument("--data", metavar="FILE.npz", help="CIFAR-10; default: downloaded")
    parser.add_argument("--data-100", metavar="FILE.npz", help="CIFAR-100; default: downloaded")
    parser.add_argument("--text", metavar="FOLDER", help="train.txt, valid.txt and test.txt")
    parser.add_argument("--dtype", default="float32", help="such as mixed_bfloat16")
    parser.add_argument("--out", metavar="FILE.jsonl", help="add the rows; also read them first")
    parser.add_argument("--work", metavar="FOLDER", help="default: the name of --out with .work")
    parser.add_argument("--plot", metavar="PREFIX", help="write a figure for each table")
    parser.add_argument("--estimate", action="store_true", help="say how long it takes, and stop")
    parser.add_argument("--summary", nargs="+", metavar="FILE.jsonl", help="tables of these rows")
    arguments = parser.parse_args()
    rows = []
    if arguments.summary:
        for name in arguments.summary:
            rows += read(name)
    else:
        scale = "quick" if arguments.quick else arguments.scale
        if arguments.quick:
            arguments.seeds = arguments.seeds[:1]
        keras.mixed_precision.set_global_policy(arguments.dtype)
        files = {
            "cifar10": arguments.data,
            "cifar100": arguments.data_100,
            "wikitext2": arguments.text,
        }
        if arguments.out and os.path.exists(arguments.out):
            rows = read(arguments.out)
            close_last_line(arguments.out)
        with tempfile.TemporaryDirectory() as temporary:
            work = arguments.work or (f"{arguments.out}.work" if arguments.out else temporary)
            os.makedirs(work, exist_ok=True)
            measure_all(Bench(scale, files, work), arguments, rows)
        # Rows of other settings may be in the file too.
        rows = [row for row in rows if row["scale"] == scale]
    wanted = [row for row in rows if row["table"] in arguments.tables]
    swift_report.summarise(wanted)
    if arguments.plot:
        swift_report.plot(wanted, arguments.plot)


if __name__ == "__main__":
    main()
