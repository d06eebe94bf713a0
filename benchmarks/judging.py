"""By what a sampler should be judged after a few epochs.

    python benchmarks/judging.py digits digits-noisy-validation digits-clean --out rows.jsonl
    python benchmarks/judging.py symmetric worse --data cifar10.npz --human-labels cifar10n.npz \\
        --width 8 --out rows.jsonl
    python benchmarks/judging.py --summary benchmarks/judging.jsonl

Settings and files are those of `label_noise.py`. A search without confirmation tries uniform draws,
the seven graded cuts and four samplers more. Of these, uniform, the cuts and the best of the others
by the search's objective are trained from scratch, and their test accuracy (mean of the last
weights and of those averaged over the last epoch) is the truth. Every measure judges the validation
data after each trial, and again after each training from scratch: printed are its rank correlation
with the truth, what the sampler that it puts first gains or loses over uniform draws, and by how
many standard errors of the difference, over the validation examples, the truly best and the truly
worst of the others are ahead of uniform when trained from scratch.

probability       the mean probability of the label
tempered          the same, outputs brought to a mean largest probability of 0.95 by a
                  temperature; and to 0.5, to 0.7
accuracy          the share of labels that are the most probable class
cross-entropy     negative
best cross-entropy   the same, at the temperature where it is lowest
"""

import argparse
import collections
import functools
import importlib
import json
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import label_noise
import numpy as np
from scipy.stats import spearmanr

import keras_swift as ks
from keras_swift.src.search import judge as held_out
from keras_swift.src.search.cube import CUTS

TEMPERATURES = np.array(held_out.TEMPERATURES)


def probabilities(logits, temperature):
    scaled = logits.astype("float64") / temperature
    found = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return found / found.sum(axis=1, keepdims=True)


def measures(logits, labels):
    """Each measure on each example of outputs, shape `(n, classes)`; higher is better."""
    rows = np.arange(len(labels))
    by_temperature = [probabilities(logits, temperature) for temperature in TEMPERATURES]
    label = np.stack([p[rows, labels] for p in by_temperature], axis=1)
    largest = np.stack([p.max(axis=1) for p in by_temperature], axis=1)
    entropies = -np.log(np.maximum(label, 1e-9))
    plain = probabilities(logits, 1.0)[rows, labels]
    found = {"probability": plain}
    for confidence in (0.5, 0.7, held_out.CONFIDENCE):
        name = "tempered" if confidence == held_out.CONFIDENCE else f"tempered to {confidence}"
        found[name] = held_out.at_confidence(label, largest, np.ones(len(labels)), confidence)
    found["accuracy"] = (logits.argmax(axis=1) == labels).astype("float64")
    found["cross-entropy"] = np.log(np.maximum(plain, 1e-9))
    found["best cross-entropy"] = -entropies[:, entropies.mean(axis=0).argmin()]
    return found


def compared(found, uniform):
    """Of each measure the mean, and its lead over uniform in standard errors of the difference."""
    row = {}
    for name, values in found.items():
        noise = held_out.difference_noise(values, uniform[name])
        lead = float(np.mean(values - uniform[name]))
        row[name] = [float(values.mean()), lead / noise if noise > 0 else 0.0]
    return row


class Watched(held_out.Judge):
    """Keeps the model's outputs on the validation data each time it is judged."""

    outputs: list = []

    def judge(self, objective):
        found = super().judge(objective)
        self.outputs.append(self._model.predict(self.data[0], batch_size=500, verbose=0))
        return found


def run(setting, seed, arguments):
    small = setting.startswith("digits")
    arguments.batch_size, arguments.epochs = (32, 30) if small else (128, 12)
    data = (
        label_noise.digits(setting, seed)
        if small
        else label_noise.cifar10(setting, seed, arguments)
    )
    large = functools.partial(label_noise.cnn, width=arguments.width)
    build = label_noise.mlp if small else large
    search = importlib.import_module("keras_swift.src.search.search")
    search.Judge, Watched.outputs = Watched, []
    result = ks.search(
        build(seed),
        data.x,
        data.y,
        validation_data=(data.x_validation, data.y_validation),
        finetune_epochs=3 if small else 2,
        pretrain_epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        space=ks.SamplerSpace(arguments.features),
        confirm=0,
        seed=seed,
        verbose=0,
    )
    # The first is that of the pretraining.
    outputs = Watched.outputs[1 : 1 + len(result.trials)]
    cuts = 1 + len(CUTS)
    best = max(result.trials[cuts:], key=lambda trial: trial.objective)
    samplers, uniform = [], {}
    for trial in (*result.trials[:cuts], best):
        trained = []

        def kept(seed, trained=trained):
            trained.append(build(seed))
            return trained[-1]

        last, averaged = label_noise.retrained(
            kept, trial.sampler, data, seed, arguments, features=result.features
        )
        # With its averaged weights.
        scratch = trained[-1].predict(data.x_validation, batch_size=500, verbose=0)
        found = {
            "trials": measures(outputs[trial.number], data.y_validation),
            "from scratch": measures(scratch, data.y_validation),
        }
        # The first of them is uniform.
        uniform = uniform or found
        samplers.append(
            {
                "trial": trial.number,
                "test": (last + averaged) / 2,
                **{when: compared(found[when], uniform[when]) for when in found},
            }
        )
    return {
        "setting": setting,
        "seed": seed,
        "width": arguments.width,
        "features": list(result.sampler.features),
        "samplers": samplers,
    }


def summarise(rows):
    groups = collections.defaultdict(list)
    for row in rows:
        groups[row["setting"]].append(row)
    for setting, found in groups.items():
        print(f"\n{setting}, seeds {[row['seed'] for row in found]}")
        best = [
            max(s["test"] for s in row["samplers"]) - row["samplers"][0]["test"] for row in found
        ]
        print(f"best of the samplers {np.mean(best):+.3f}\n")
        print("| measure | in trials | its first gains | from scratch | its first gains |", end="")
        print(" lead of the best | of the worst |\n|" + "---|" * 7)
        for name in found[0]["samplers"][0]["trials"]:
            cells = [name]
            for when in ("trials", "from scratch"):
                correlations, gains = [], []
                for row in found:
                    truth = np.array([sampler["test"] for sampler in row["samplers"]])
                    judged = np.array([sampler[when][name][0] for sampler in row["samplers"]])
                    correlations.append(spearmanr(judged, truth)[0])
                    gains.append(truth[judged.argmax()] - truth[0])
                cells += [f"{np.mean(correlations):.2f}", f"{np.mean(gains):+.3f}"]
            for pick in (max, min):
                ends = [pick(row["samplers"][1:], key=lambda s: s["test"]) for row in found]
                cells.append(f"{np.mean([end['from scratch'][name][1] for end in ends]):+.1f}")
            print(f"| {' | '.join(cells)} |")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="*", help="digits, symmetric, worse, ...")
    parser.add_argument("--data", metavar="FILE.npz")
    parser.add_argument("--human-labels", metavar="FILE.npz")
    parser.add_argument("--seeds", type=int, nargs="+", default=[100])
    parser.add_argument("--examples", type=int, default=10_000, help="CIFAR-10 training images")
    parser.add_argument("--validation", type=int, default=3_000, help="CIFAR-10 validation images")
    parser.add_argument("--width", type=int, default=32, help="of the CIFAR-10 network")
    parser.add_argument("--features", nargs="+", help="default: those of `search`")
    parser.add_argument("--out", metavar="FILE.jsonl")
    parser.add_argument("--summary", metavar="FILE.jsonl", help="read in place of training")
    arguments = parser.parse_args()
    if arguments.summary:
        with open(arguments.summary) as file:
            summarise([json.loads(line) for line in file])
        return
    rows = []
    for setting in arguments.settings:
        for seed in arguments.seeds:
            rows.append(run(setting, seed, arguments))
            if arguments.out:
                with open(arguments.out, "a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    summarise(rows)


if __name__ == "__main__":
    main()
