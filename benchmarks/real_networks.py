"""Importance training of networks as people use them: batch normalisation, augmentation, text.

    python benchmarks/real_networks.py --data FOLDER --tasks resnet --out rows.jsonl
    python benchmarks/real_networks.py --data FOLDER --tasks resnet --report --out rows.jsonl
    python benchmarks/real_networks.py --summary rows.jsonl
    python benchmarks/real_networks.py --summary rows.jsonl --tasks resnet --rates 0.1 --seeds 0 1
    python benchmarks/real_networks.py --quick

The tasks are in `real_tasks.py`. Their default size suits two processor cores; `--size full` is for
a GPU. Sides of a task pass over equally many examples, under a cosine schedule. The first command
trains `fit` and `ours` with each rate of the task's grid and the seeds 0 and 1, the second the
chosen rate of each side with the seeds 2, 3 and 4. A side that was not tried with the grid gets the
rate of `ours` if it is a kind of it, else that of `fit`. Where two seeds choose badly, more choose
with `--seeds 8 9`. Each run is a line of `--out`; lines that are there are not made again, so a run
that was killed goes on. A summary of `--rates` or `--seeds` has these rows alone. Its last table is
from `score_spread.py`: the variance gain that draws by the scores of a run could have.

fit             model.fit
averaged        the same with use_ema=True
longer          the same with half as many epochs again
infobatch       half of the examples below the mean loss left out, the other half counted twice
ours            ImportanceTraining(model), nothing else
same rate       ours with scale_learning_rate=False
three quarters  ours with three quarters of the epochs, rounded down
mean of two     ours by the mean of the last two scores of each example
floor 0.2       ours with floor=0.2 in place of 0.5: weights of up to 5
fresh           the paper's rule: presample=3.0, its threshold, fresh scores
without ids     of a pipeline that augments: ours, but examples cannot be known again

and what else people would use for a task: class weights, undersampling with corrected
probabilities, a focal loss, smoothed labels. A network is measured after each epoch, on all test
examples; this time does not count. `reached` is the first epoch after which a run's test error is
not above that of `fit` with the same seed at its end.
"""

import argparse
import collections
import dataclasses
import itertools
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from real_tasks import TASKS, Corrected, Data, Side, Size, augmented
from rows import append, read, resume
from score_spread import KNOWN, RULES, ScoreSpread
from tasks import set_seed
from time_to_loss import drawing, with_error

import keras_swift as ks

# What each side gives to `ImportanceTraining`; `None` for `model.fit`.
SIDES = {
    "fit": None,
    "averaged": None,
    "longer": None,
    "infobatch": {"scale_learning_rate": False},
    "ours": {},
    "same rate": {"scale_learning_rate": False},
    "three quarters": {},
    "mean of two": {},
    "floor 0.2": {"floor": 0.2},
    "fresh": {"presample": 3.0},
    "without ids": {},
}
LENGTHS = {"three quarters": 0.75, "longer": 1.5}
# Two seeds choose a rate, and two more where these are not enough; others are reported.
CHOOSING, MORE, REPORTING = (0, 1), (8, 9), (2, 3, 4)


class EachEpoch(keras.callbacks.Callback):
    """The test error after each epoch, and the CPU seconds that measuring it took."""

    def __init__(self, measure):
        super().__init__()
        self.measure, self.errors, self.spent = measure, [], 0.0

    def on_epoch_end(self, epoch, logs=None):
        start = time.process_time()
        self.errors.append(self.measure(self.model)["error"])
        self.spent += time.process_time() - start


def sides_of(name):
    """The sides of a task: a stream of batches gives no single examples to leave out or presample.

    Lines of several lengths cannot be presampled together.
    """
    task = TASKS[name]
    left_out = set() if task.pipeline else {"without ids"}
    if task.pipeline or task.stream:
        left_out |= {"infobatch", "fresh"}
    return [*(side for side in SIDES if side not in left_out), *task.sides]


def stages(model, task, epochs):
    """The number of epochs of each stage, with what is to be frozen frozen meanwhile."""
    if task.prepare is None:
        yield epochs
        return
    backbone = model.get_layer("backbone")
    backbone.trainable = False
    yield epochs // 4
    backbone.trainable = True
    yield epochs - epochs // 4


def run(name, side, rate, seed, arguments):
    task = TASKS[name]
    size = size_of(task, arguments)
    all_data = task.load(arguments.data, size, seed)
    own = task.sides.get(side, Side())
    data: Data = all_data if own.data is None else own.data(all_data)
    set_seed(seed)
    model = task.build(data, size.width)
    if task.prepare is not None:
        task.prepare(model, arguments.data, size.width)
    steps = len(data.x) if data.y is None else -(-len(data.x) // task.batch_size)
    # As many examples as the others, however few there are.
    epochs = size.epochs if data.y is None else round(size.epochs * len(all_data.x) / len(data.x))
    if side in LENGTHS:
        epochs = int(epochs * LENGTHS[side])

    def measured(model, *of):
        return task.measure(model if own.kept == 1.0 else Corrected(model, own.kept), *of)

    each = EachEpoch(lambda model: measured(model, *test(all_data)))
    trainer = None
    spread = ScoreSpread(lambda: getattr(getattr(trainer, "memory", None), "score", None))
    callbacks = [*data.given.get("callbacks", []), each, spread]
    given = {"verbose": 0, **data.given, "callbacks": callbacks}
    if own.class_weight is not None:
        given["class_weight"] = own.class_weight(data)
    if task.pipeline:
        ids = side not in ("fit", "averaged", "longer", "without ids")
        given["x"] = augmented(data.x, data.y, task.batch_size, seed, ids)
        given["steps_per_epoch"] = steps
    elif data.y is None:
        given["x"] = data.x
    else:
        given |= {"x": data.x, "y": data.y, "batch_size": task.batch_size}
        given["sample_weight"] = data.weights
    if side == "infobatch":
        given["steps_per_epoch"] = steps
    fit, history = model.fit, collections.defaultdict(list)
    start = time.process_time()
    with drawing(side, steps * epochs):
        for epochs_of_stage in stages(model, task, epochs):
            total = steps * epochs_of_stage
            optimizer = task.optimizer(keras.optimizers.schedules.CosineDecay(rate, total))
            optimizer.use_ema = side == "averaged"
            model.compile(optimizer, task.loss if own.loss is None else own.loss)
            if SIDES.get(side) is not None and trainer is None:
                trainer = ks.ImportanceTraining(model, seed=seed, **SIDES[side])
                fit = trainer.fit
            for key, values in fit(epochs=epochs_of_stage, **given).history.items():
                history[key] += values
    seconds = time.process_time() - start - each.spent
    train = (all_data.x, all_data.y, all_data.weights)
    row = {"task": name, "side": side, "rate": rate, "seed": seed, **dataclasses.asdict(size)}
    row |= {"trained": epochs, "batch_size": task.batch_size, "parameters": model.count_params()}
    row |= {f"test {key}": value for key, value in measured(model, *test(all_data)).items()}
    row |= {"train loss": measured(model, *train)["loss"], "errors": each.errors}
    row |= {"cpu_seconds": seconds, "device": device()}
    row |= {key: history.get(key, []) for key in ("importance", "gain")}
    row |= {"gains": spread.means()} if SIDES.get(side) is not None else {}
    return row | {"backend": keras.backend.backend(), "keras": keras.__version__}


def test(data):
    return data.x_test, data.y_test, data.test_weights


def size_of(task, arguments):
    if arguments.quick:
        return Size(4_000, 4, 16)
    return task.full if arguments.size == "full" else task.small


def device():
    """What the steps run on."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return jax.devices()[0].device_kind
    if backend == "torch":
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    import tensorflow as tf

    found = tf.config.list_physical_devices("GPU")
    return tf.config.experimental.get_device_details(found[0])["device_name"] if found else "cpu"


def cell(row):
    """What rows to compare have in common."""
    return row["task"], row["examples"], row["epochs"], row["width"], row["backend"], row["device"]


def choose(rows):
    """The rate of each side whose test error is lowest with the seeds for choosing."""
    tried = collections.defaultdict(lambda: collections.defaultdict(dict))
    for row in rows:
        if row["seed"] in CHOOSING + MORE:
            tried[row["side"]][row["rate"]][row["seed"]] = row["test error"]
    best = {}
    for side, by_rate in tried.items():
        # A rate that was tried with fewer seeds than another is not compared with it.
        most = max(len(errors) for errors in by_rate.values())
        means = {r: np.mean(list(e.values())) for r, e in by_rate.items() if len(e) == most}
        best[side] = min(means, key=means.get)
    return best


def rate_of(best, side):
    """The rate to report a side with, and whether it is one that was chosen for it."""
    if side in best:
        return best[side], True
    return best.get("fit" if SIDES.get(side) is None or side == "infobatch" else "ours"), False


def train_all(arguments):
    rows = resume(arguments.out)
    for name in arguments.tasks:
        size = size_of(TASKS[name], arguments)
        where = (name, *dataclasses.astuple(size), keras.backend.backend(), device())
        mine = [row for row in rows if cell(row) == where]
        best = choose(mine)
        sides = arguments.sides or (sides_of(name) if arguments.report else ["fit", "ours"])
        for seed, side in itertools.product(arguments.seeds, sides):
            if side not in sides_of(name):
                continue
            rates = arguments.rates or TASKS[name].rates
            if arguments.report:
                rates = [rate_of(best, side)[0]]
                if rates == [None]:
                    raise SystemExit(f"--report: {arguments.out} has no rates to choose {side} by.")
            for rate in rates:
                if any((r["side"], r["seed"], r["rate"]) == (side, seed, rate) for r in mine):
                    continue
                row = run(name, side, rate, seed, arguments)
                rows.append(row)
                shown = ("test error", "test loss", "train loss", "cpu_seconds")
                print(name, side, rate, seed, {key: row[key] for key in shown}, flush=True)
                append(arguments.out, row)
    return rows


def reached(row, error):
    """The first epoch, from 1, whose test error is not above `error`; NaN for none."""
    return next((n for n, found in enumerate(row["errors"], 1) if found <= error), np.nan)


def summarise(rows, seeds=None):
    """Prints a table for each task, of these seeds or of those that chose nothing."""
    cells = collections.defaultdict(list)
    for row in rows:
        cells[cell(row)].append(row)
    overview, spreads = [], []
    for (name, examples, epochs, _, backend, on), mine in cells.items():
        best = choose(mine)
        parameters, batch = mine[0]["parameters"], mine[0]["batch_size"]
        print(f"\n{name}: {examples:,} examples, {epochs} epochs, batch {batch}, ", end="")
        print(f"{parameters:,} parameters, {backend} on {on}; error: {TASKS[name].measured}\n")
        heads = ["side", "rate", "error", "error − that of `fit`", "test loss", "train loss"]
        heads += ["ECE", "reached", "CPU / `fit`", "share", "gain", "seeds"]
        print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
        reported = [row for row in mine if row["seed"] not in CHOOSING + MORE] or mine
        if seeds:
            reported = [row for row in mine if row["seed"] in seeds]
        sides = {side: [] for side in sides_of(name)}
        for row in reported:
            rate = rate_of(best, row["side"])[0]
            if rate is None or row["rate"] == rate:
                sides[row["side"]].append(row)
        fit = {row["seed"]: row for row in sides["fit"]}
        for side, found in sides.items():
            if found:
                print(line_of(side, found, fit, rate_of(best, side)[1]))
        if sides["ours"] and fit:
            overview.append(overview_of(name, sides["ours"], fit))
        known = [row for row in sides["ours"] if row.get("gains")]
        if known:
            spreads.append(spread_of(name, known))
    heads = ["task", "error", "`fit`", "ours", "change", "difference", "CPU / `fit`"]
    print(f"\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    print("\n".join(overview))
    if spreads:
        heads = ["task", *RULES, *KNOWN, "seeds"]
        print(f"\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
        print("\n".join(spreads))


def overview_of(name, ours, fit):
    """What there is to gain, in one line: ours against `fit`, by the seeds that both have."""
    pairs = [(row, fit[row["seed"]]) for row in ours if row["seed"] in fit]
    mine, other = (np.mean([pair[k]["test error"] for pair in pairs]) for k in (0, 1))
    differences = [row["test error"] - base["test error"] for row, base in pairs]
    cpu = np.mean([row["cpu_seconds"] / base["cpu_seconds"] for row, base in pairs])
    line = [name, TASKS[name].measured, f"{other:.4g}", f"{mine:.4g}", f"{mine / other - 1:+.1%}"]
    return f"| {' | '.join([*line, with_error(differences, sign=True), f'{cpu:.2f}'])} |"


def spread_of(name, rows):
    """What draws by the scores of ours could gain, in one line; see `score_spread.py`."""
    means = [np.mean([row["gains"][rule] for row in rows]) for rule in (*RULES, *KNOWN)]
    seeds = " ".join(str(row["seed"]) for row in rows)
    return f"| {' | '.join([name, *(f'{mean:.2f}' for mean in means), seeds])} |"


def line_of(side, found, fit, is_chosen):
    pairs = [(row, fit[row["seed"]]) for row in found if row["seed"] in fit]
    line = [side, f"{found[0]['rate']:g}" + ("" if is_chosen else " †")]
    line.append(with_error([row["test error"] for row in found]))
    differences = [row["test error"] - other["test error"] for row, other in pairs]
    line.append(with_error(differences, sign=True) if pairs and side != "fit" else "")
    line += [with_error([row[key] for row in found]) for key in ("test loss", "train loss")]
    line.append(f"{np.mean([row['test ece'] for row in found]):.3f}")
    epochs = [reached(row, other["test error"]) for row, other in pairs]
    known = [epoch for epoch in epochs if np.isfinite(epoch)]
    text = f"{np.mean(known):.1f}" if known else "–"
    line.append(text + (f" ({len(known)} of {len(epochs)})" if len(known) < len(epochs) else ""))
    cpu = [row["cpu_seconds"] / other["cpu_seconds"] for row, other in pairs]
    line.append(f"{np.mean(cpu):.2f}" if cpu else "")
    share = np.mean([np.mean(row["importance"] or [0.0]) for row in found])
    gain = np.mean([np.mean(row["gain"] or [1.0]) for row in found])
    line += [f"{share:.2f}", f"{gain:.2f}", " ".join(str(row["seed"]) for row in found)]
    return f"| {' | '.join(line)} |"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--sides", nargs="+", help="default: fit and ours, to report all")
    parser.add_argument("--rates", nargs="+", type=float, help="default: the task's grid")
    parser.add_argument("--seeds", nargs="+", type=int, help="default: 0 1, to report 2 3 4")
    parser.add_argument("--report", action="store_true", help="train what the rows have chosen")
    parser.add_argument("--size", choices=("small", "full"), default="small")
    parser.add_argument("--data", metavar="FOLDER")
    parser.add_argument("--out", metavar="FILE.jsonl", help="append a line for each run")
    parser.add_argument("--summary", nargs="+", metavar="FILE.jsonl", help="read, train nothing")
    parser.add_argument("--quick", action="store_true", help="4,000 rows of a table, one seed")
    arguments = parser.parse_args()
    known = {*SIDES, *(side for task in TASKS.values() for side in task.sides)}
    for side in arguments.sides or ():
        if side not in known:
            parser.error(f"--sides must be of {sorted(known)}. Received: {side}.")
    if arguments.report and not arguments.out:
        parser.error("--report must have --out, the rows to choose by. Received: none.")
    if arguments.quick:
        arguments.tasks, arguments.rates = ["table-256"], arguments.rates or [0.004]
        arguments.seeds = arguments.seeds or [0]
    if arguments.summary:
        rows = [row for row in read(*arguments.summary) if row["task"] in arguments.tasks]
        rows = [row for row in rows if not arguments.rates or row["rate"] in arguments.rates]
        return summarise(rows, arguments.seeds)
    arguments.seeds = arguments.seeds or (REPORTING if arguments.report else CHOOSING)
    return summarise(train_all(arguments))


if __name__ == "__main__":
    main()
