"""Uniform training against importance training at equal cost, each with its own best settings.

    python benchmarks/time_to_loss.py --data FOLDER --tasks fashion-mlp --seeds 0 1 --out rows.jsonl
    python benchmarks/time_to_loss.py --data FOLDER --tasks fashion-mlp --report --out rows.jsonl
    python benchmarks/time_to_loss.py --summary rows.jsonl
    python benchmarks/time_to_loss.py --quick

A run is a number of passes over the training examples: its steps train on as many examples as
uniform training does in that many epochs, whatever the batch size and however the method draws
them. What a method computes beyond that (fresh scores of a presample, at a third of a training
example each) is in the column `cost`, as a multiple of uniform training; the CPU seconds of the
process are in the rows.

uniform     model.fit
averaged    the same with use_ema=True, which ends with the averaged weights (constant rate)
ours        ImportanceTraining(model), nothing else
both        ours with use_ema=True (constant rate)
same rate   ours with scale_learning_rate=False
by batch    ours with the data as a PyDataset, whose batches are always of the same rows
batches     model.fit with that PyDataset
tf.data     ours from a `tf.data.Dataset` that is shuffled anew in each epoch, known by content
loader      ours from a PyTorch `DataLoader` that does the same
generator   ours from a generator without an end that does the same, with `steps_per_epoch`
augmented   model.fit from a generator that shifts the images by up to 2 pixels
with ids    ours from that generator, which also yields ids
without ids ours from that generator, whose examples are never the same again
paper       the paper's rule: presample=3.0, its threshold, fresh scores
infobatch   half of the examples below the mean loss left out, the other half counted twice, all of
            them in the last eighth of the run
random      a control: ours with the remembered scores dealt out at random
bound       uniform batches of four times the size, charged as one: no draw of one batch out of four
            can do better

Seeds below 2 are for choosing: the summary takes, for each task and method, the batch size, rate
and schedule whose mean test error (`--choose-by`: test or train loss) is lowest there, and prints
the others' means with standard errors, and the paired differences to uniform training. `--report`
trains what `--out` has chosen with the seeds 2, 3 and 4. Rows that `--out` holds are not made
again.
"""

import argparse
import collections
import contextlib
import itertools
import json
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import time_to_loss_figure
from rows import append, read, resume
from tasks import TASKS, set_seed

import keras_swift as ks
from keras_swift.src.importance import prepare, remembered
from keras_swift.src.importance.resampling import RememberedScores

SCHEDULES = ("cosine", "linear", "constant")
METHODS = {
    "uniform": None,
    "averaged": None,
    "ours": {},
    "both": {},
    "same rate": {"scale_learning_rate": False},
    "by batch": {},
    "batches": None,
    "tf.data": {},
    "loader": {},
    "generator": {},
    "augmented": None,
    "with ids": {},
    "without ids": {},
    "paper": {"presample": 3.0},
    "infobatch": {"scale_learning_rate": False},
    "random": {},
    "bound": None,
}
# Trained at a constant rate, because they end with averaged weights.
AVERAGED = ("averaged", "both")
BY_BATCH = ("by batch", "batches")
SHIFTED = ("augmented", "with ids", "without ids")
BOUND = 4
COST_RATIO = 1 / 3
CHOOSING, REPORTING = (0, 1), (2, 3, 4)
MEASURES = ("train_loss", "test_loss", "test_error")


class Rows(keras.utils.PyDataset):
    """Arrays, read a batch at a time."""

    def __init__(self, x, y, batch_size):
        super().__init__()
        self.x, self.y, self.batch_size = x, y, batch_size

    def __len__(self):
        return -(-len(self.x) // self.batch_size)

    def __getitem__(self, index):
        rows = slice(index * self.batch_size, (index + 1) * self.batch_size)
        return self.x[rows], self.y[rows]


def endless(x, y, batch_size, seed, shifts=False, ids=False):
    """Batches in another order in each pass, for ever."""
    generator = np.random.default_rng(seed)
    while True:
        for rows in np.array_split(generator.permutation(len(x)), -(-len(x) // batch_size)):
            part = shifted(x[rows], generator) if shifts else x[rows]
            yield (part, y[rows], None, rows) if ids else (part, y[rows])


def shifted(x, generator):
    """Images moved by up to 2 pixels in each direction, by a copy of their edges."""
    padded = np.pad(x, ((0, 0), (2, 2), (2, 2), *[(0, 0)] * (x.ndim - 3)), mode="edge")
    found = np.empty_like(x)
    size = x.shape[1:3]
    for row, (down, right) in enumerate(generator.integers(0, 5, (len(x), 2))):
        found[row] = padded[row, down : down + size[0], right : right + size[1]]
    return found


def pipeline(method, x, y, batch_size, seed):
    """The arguments of `fit` that stand for the data."""
    if method in BY_BATCH:
        return {"x": Rows(x, y, batch_size)}
    if method == "tf.data":
        import tensorflow as tf

        data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=seed)
        return {"x": data.batch(batch_size).prefetch(4)}
    if method == "loader":
        import torch

        data = torch.utils.data.TensorDataset(torch.tensor(x), torch.tensor(y))
        order = torch.Generator().manual_seed(seed)
        loader = torch.utils.data.DataLoader(data, batch_size, shuffle=True, generator=order)
        return {"x": loader}
    if method in ("generator", *SHIFTED):
        source = endless(x, y, batch_size, seed, method in SHIFTED, method == "with ids")
        return {"x": source, "steps_per_epoch": -(-len(x) // batch_size)}
    return {"x": x, "y": y, "batch_size": batch_size}


class InfoBatch(remembered.RememberedSampler):
    """Half of the examples below the mean loss are left out (Qin et al., ICLR 2024)."""

    steps = 0
    drawn = 0

    def _next_part(self, steps_left):
        self._read_back()
        loss, reader, generator = self.memory.loss, self.parts.reader, self.parts.generator
        late = self.drawn >= 7 / 8 * self.steps * reader.batch_size
        if late or not np.isfinite(loss).all() or reader.is_within_pass:
            self.parts.take_uniform(max(1, steps_left), None, rests=False)
            return remembered.Plan()
        low = loss < loss.mean()
        kept = np.flatnonzero(~low | (generator.random(len(loss)) < 0.5))
        indices = generator.permutation(kept)
        self.parts.begin(indices, np.where(low[indices], 2.0, 1.0))
        return remembered.Plan(by_importance=True)

    def _read_back(self):
        before = self.records.unread_rows
        super()._read_back()
        # Of those trained on: batches are also drawn to be looked at.
        type(self).drawn += before - self.records.unread_rows

    def begin_epoch(self, restarts):
        """A pass over the kept examples is shorter than an epoch, so parts go on across epochs."""


class Random(remembered.RememberedSampler):
    """Scores of the same distribution that say nothing."""

    def _scores(self):
        if super()._scores() is None:
            return None
        scores = np.random.default_rng(0).permutation(self.memory.score)
        return RememberedScores(scores, self._floor)


class MeanOfTwo(remembered.RememberedSampler):
    """Draws by the mean of the last two scores of each example."""

    last = before = None

    def _scores(self):
        if super()._scores() is None:
            return None
        scores = self.memory.score.copy()
        is_new = self.last is None or len(self.last) != len(scores)
        last = scores if is_new else self.last
        # A part is a quarter of an epoch, so few examples are scored twice in one.
        self.before = np.where(scores != last, last, last if is_new else self.before)
        self.last = scores
        return RememberedScores((scores + self.before) / 2, self._floor)


SAMPLERS = {"infobatch": InfoBatch, "random": Random, "mean of two": MeanOfTwo}


@contextlib.contextmanager
def drawing(method, steps):
    """A context in which `ImportanceTraining` draws as `method` does."""
    before = prepare.RememberedSampler
    if method in SAMPLERS:
        prepare.RememberedSampler = SAMPLERS[method]
        SAMPLERS[method].steps, SAMPLERS[method].drawn = steps, 0
    try:
        yield
    finally:
        prepare.RememberedSampler = before


def schedule(name, rate, steps):
    if name == "constant":
        return rate
    if name == "linear":
        return keras.optimizers.schedules.PolynomialDecay(rate, steps, 0.0)
    return keras.optimizers.schedules.CosineDecay(rate, steps)


def run(task_name, method, batch_size, rate, schedule_name, seed, arguments):
    task = TASKS[task_name]
    examples = arguments.examples or task.examples
    epochs = arguments.epochs or task.epochs
    x, y, x_test, y_test = task.load(arguments.data, examples, seed)
    set_seed(seed)
    model = task.build()
    if task.prepare is not None:
        task.prepare(model, (x, y), seed)
    steps = -(-len(x) // batch_size) * epochs
    optimizer = task.optimizer(schedule(schedule_name, rate, steps))
    if method in AVERAGED:
        optimizer.use_ema = True
    model.compile(optimizer, "sparse_categorical_crossentropy")
    settings = {"epochs": epochs, "verbose": 0, **pipeline(method, x, y, batch_size, seed)}
    start = time.process_time()
    if METHODS[method] is not None:
        with drawing(method, steps):
            trainer = ks.ImportanceTraining(model, seed=seed, **METHODS[method])
            if method == "infobatch":
                settings["steps_per_epoch"] = -(-len(x) // batch_size)
            history = trainer.fit(**settings).history
    elif method == "bound":
        settings |= {"batch_size": BOUND * batch_size, "epochs": BOUND * epochs}
        history = model.fit(**settings).history
    else:
        history = model.fit(**settings).history
    seconds = time.process_time() - start
    share = float(np.mean(history.get("importance", [0.0])))
    ratio = float(np.mean(history.get("presample", [1.0])))
    test_loss, right = evaluate(model, x_test, y_test)
    return {
        "task": task_name,
        "method": method,
        "batch_size": batch_size,
        "rate": rate,
        "schedule": schedule_name,
        "seed": seed,
        "examples": len(x),
        "epochs": epochs,
        "train_loss": evaluate(model, x, y)[0],
        "test_loss": test_loss,
        "test_error": 1.0 - right,
        "importance": share,
        "gain": float(np.mean(history.get("gain", [1.0]))),
        # `presample` counts a uniform step as 1, which scores nothing.
        "cost": 1.0 + COST_RATIO * (ratio - 1.0 + share if ratio > 1 else 0.0),
        "cpu_seconds": seconds,
        "backend": keras.backend.backend(),
        "keras": keras.__version__,
    }


def evaluate(model, x, y):
    probability = model.predict(x, batch_size=1000, verbose=0)
    of_label = probability[np.arange(len(y)), y]
    loss = float(-np.log(np.maximum(of_label, 1e-7)).mean())
    return loss, float((probability.argmax(axis=1) == y).mean())


def settings_of(row):
    return row["batch_size"], row["rate"], row["schedule"]


def grid(task, method, arguments):
    """The settings to try: `(batch size, rate, schedule)`."""
    rates = arguments.rates or TASKS[task].rates
    schedules = ["constant"] if method in AVERAGED else arguments.schedules
    return list(itertools.product(arguments.batch_sizes, rates, schedules))


def train_all(arguments):
    rows = resume(arguments.out)
    made = []
    for task in arguments.tasks:
        epochs = arguments.epochs or TASKS[task].epochs
        examples = arguments.examples or TASKS[task].examples
        mine = [r for r in rows if (r["task"], r["epochs"]) == (task, epochs)]
        mine = [r for r in mine if r["backend"] == keras.backend.backend()]
        # Tasks that leave examples out at random keep most.
        mine = [r for r in mine if 0.8 * examples < r["examples"] <= examples]
        for method in arguments.methods:
            wanted = grid(task, method, arguments)
            if arguments.report:
                best = [found.get(method) for found in chosen(mine, arguments.choose_by).values()]
                wanted = [settings_of(found[0]) for found in best if found]
            there = {(*settings_of(r), r["seed"]) for r in mine if r["method"] == method}
            for seed, settings in itertools.product(arguments.seeds, wanted):
                if (*settings, seed) in there:
                    continue
                batch_size, rate, schedule_name = settings
                row = run(task, method, batch_size, rate, schedule_name, seed, arguments)
                made.append(row)
                print(json.dumps(row), flush=True)
                append(arguments.out, row)
    return made


def choosing(groups):
    """The seeds to choose by: as many of them as any of the settings was trained with."""
    seeds = [{row["seed"] for row in rows} & set(CHOOSING) for rows in groups]
    return max(seeds, key=len)


def chosen(rows, by):
    """For each task and method the rows of its best settings; of all rows where none is to choose.

    Returns:
        A dict from `(task, epochs, backend)` to a dict from method to list of rows.
    """
    cells = collections.defaultdict(lambda: collections.defaultdict(list))
    for row in rows:
        # Some tasks leave examples out at random, a few more or less with each seed.
        key = row["task"], row["epochs"], round(row["examples"], -3), row["backend"]
        cells[key, row["method"]][settings_of(row)].append(row)
    best = collections.defaultdict(dict)
    for (key, method), by_settings in cells.items():
        seeds = choosing(by_settings.values())
        tried = {
            settings: np.mean([row[by] for row in found if row["seed"] in seeds])
            for settings, found in by_settings.items()
            if seeds and {row["seed"] for row in found} >= seeds
        }
        settings = min(tried or by_settings, key=tried.get if tried else None)
        found = [row for row in by_settings[settings] if row["seed"] not in CHOOSING]
        best[key][method] = found or by_settings[settings]
    return best


def summarise(rows, by="test_error"):
    for (task, epochs, _, backend), methods in chosen(rows, by).items():
        examples = next(iter(methods.values()))[0]["examples"]
        print(f"\n{task}, {examples:,} examples, {epochs} epochs, {backend}\n")
        print(
            "| method | batch, rate, schedule | cost | share | gain | train loss | test loss |",
            end="",
        )
        print(" test error | difference in test error | seeds |\n|" + "---|" * 10)
        uniform = {row["seed"]: row for row in methods.get("uniform", [])}
        for method in [name for name in METHODS if name in methods]:
            found = methods[method]
            row = found[0]
            cells = [method, f"{row['batch_size']}, {row['rate']:g}, {row['schedule']}"]
            cells += [f"{np.mean([r[name] for r in found]):.2f}" for name in ("cost", "importance")]
            cells.append(f"{np.mean([r['gain'] for r in found]):.2f}")
            cells += [with_error([r[name] for r in found]) for name in MEASURES]
            pairs = [
                r["test_error"] - uniform[r["seed"]]["test_error"]
                for r in found
                if r["seed"] in uniform
            ]
            same = method == "uniform" or not pairs
            cells.append("" if same else with_error(pairs, sign=True))
            cells.append(" ".join(str(r["seed"]) for r in found))
            print(f"| {' | '.join(cells)} |")


def with_error(values, sign=False):
    mean = f"{np.mean(values):{'+' if sign else ''}.4f}"
    if len(values) < 2:
        return mean
    return f"{mean} ± {np.std(values, ddof=1) / np.sqrt(len(values)):.4f}"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--schedules", nargs="+", choices=SCHEDULES, default=["cosine"])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[32])
    parser.add_argument("--rates", nargs="+", type=float, help="default: the task's")
    parser.add_argument("--seeds", nargs="+", type=int, help="default: 0 to 4, or those to report")
    parser.add_argument("--report", action="store_true", help="train what the rows have chosen")
    parser.add_argument("--epochs", type=int, help="passes over the data; default: the task's")
    parser.add_argument("--examples", type=int, help="training examples; default: the task's")
    parser.add_argument("--data", metavar="FOLDER")
    parser.add_argument("--out", metavar="FILE.jsonl", help="append a line for each run")
    parser.add_argument(
        "--summary", nargs="+", metavar="FILE.jsonl", help="read in place of training"
    )
    parser.add_argument("--plot", metavar="FILE.png", help="draw a figure of the summary")
    parser.add_argument("--choose-by", choices=MEASURES, default="test_error")
    parser.add_argument("--quick", action="store_true", help="digits, two epochs, one seed")
    arguments = parser.parse_args()
    arguments.seeds = arguments.seeds or [*(() if arguments.report else CHOOSING), *REPORTING]
    if arguments.report and not arguments.out:
        parser.error("--report must have --out, the rows to choose by. Received: none.")
    if arguments.quick:
        arguments.tasks, arguments.seeds, arguments.epochs = ["digits"], [2], 2
        arguments.rates = [0.05]
    if arguments.summary:
        rows = read(*arguments.summary)
    else:
        rows = train_all(arguments)
    summarise(rows, arguments.choose_by)
    if arguments.plot:
        time_to_loss_figure.draw(chosen(rows, arguments.choose_by), arguments.plot)


if __name__ == "__main__":
    main()
