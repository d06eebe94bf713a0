"""Keras' own tests with every `model.fit` in them routed through `ImportanceTraining`.

Not part of the suite: Keras' test files ship with the installed package, and running them takes
many minutes. Run it before a release, and after a change of what `fit` takes; tests that reach no
`fit` are left out:

    KERAS_BACKEND=tensorflow python tests/keras_own_tests.py            # all files with `fit`
    KERAS_BACKEND=jax python tests/keras_own_tests.py trainers models   # with this in their path
    KERAS_BACKEND=torch python tests/keras_own_tests.py --defaults      # as users call it

Without `--defaults` the gate is shut (`tau_threshold=1e9`), so that what a test expects of `fit`
holds of ours. Each test that fails is run again with plain `fit`: what fails there too is not ours.
What is left is listed by cause; `INHERENT` names what has to fail and why. The exit status is the
number of failures that are not named there.
"""

import collections
import inspect
import pathlib
import re
import sys
import types

import pytest

# Whole test names, or the beginning of one, and why they have to fail.
INHERENT: dict[str, str] = {
    "TestTensorBoardV2": "callbacks see our numbers in the logs",
    "TestTrainer::test_callback_methods_keys": "callbacks see our numbers in the logs",
    "TestTrainer::test_retracing": "a step of one's own is run twice to see if weights arrive",
    "CSVLoggerTest::test_CSVLogger": "callbacks see our numbers in the logs",
    "TerminateOnNaNTest::test_RemoteMonitor": "callbacks see our numbers in the logs",
    "BackupAndRestoreCallbackTest::test_best_case_step": "a backup within an epoch is refused",
    "FunctionalTest::test_required_none_raises_in_fit": "refused in other words",
}
OURS = ("tau", "gain", "importance", "presample")


class Routed:
    """A pytest plugin: routes `fit`, notes which tests call it and how they end."""

    def __init__(self, settings):
        # Arguments of `ImportanceTraining`, or `None` for plain `fit`.
        self.settings = settings
        self.calling, self.failed, self._now = set(), {}, None
        self._restore = None

    def pytest_sessionstart(self, session):
        import keras

        from keras_swift.src.importance import dataset, prepare
        from keras_swift.src.importance import trainer as training

        # Many of them train layers that are trainers, and no `keras.Model`.
        for module in (training, dataset, prepare):
            module.check_model = lambda *args, **kwargs: None
        trainer = next(base for base in keras.Model.__mro__ if "fit" in vars(base))
        plain, plugin, inside = trainer.fit, self, []

        def fit(model, *args, **kwargs):
            plugin.calling.add(plugin._now)
            if inside or plugin.settings is None:
                return plain(model, *args, **kwargs)
            inside.append(model)
            try:
                ours = training.ImportanceTraining(model, **plugin.settings)
                history = ours.fit(*args, **kwargs)
            finally:
                inside.pop()
            for name in OURS:
                history.history.pop(name, None)
            return history

        trainer.fit = fit
        self._restore = lambda: setattr(trainer, "fit", plain)

    def pytest_sessionfinish(self, session, exitstatus):
        self._restore()

    def pytest_collection_modifyitems(self, items):
        items[:] = [item for item in items if reaches_fit(item.function, item.cls)]

    def pytest_runtest_logstart(self, nodeid, location):
        self._now = nodeid

    def pytest_runtest_logreport(self, report):
        if report.failed and report.when == "call":
            self.failed[report.nodeid] = str(report.longrepr)


def reaches_fit(function, owner):
    """Whether a test, or a function of its class or file that it names, calls something `fit`."""
    waiting, seen = [inspect.unwrap(function)], set()
    while waiting:
        function = waiting.pop()
        codes = [getattr(function, "__code__", None)]
        while codes:
            code = codes.pop()
            if code is None or code in seen:
                continue
            seen.add(code)
            if "fit" in code.co_names:
                return True
            codes += [part for part in code.co_consts if isinstance(part, types.CodeType)]
            for name in code.co_names:
                found = getattr(owner, name, None) or function.__globals__.get(name)
                if isinstance(found, types.FunctionType):
                    waiting.append(inspect.unwrap(found))
    return False


def files(wanted):
    import keras

    root = pathlib.Path(keras.__file__).parent / "src"
    found = [path for path in sorted(root.rglob("*_test.py")) if ".fit(" in path.read_text()]
    return [
        str(path)
        for path in found
        if not wanted or any(word in str(path.relative_to(root)) for word in wanted)
    ]


def skip_if_backend(name, reason):
    import keras

    return pytest.mark.skipif(keras.backend.backend() == name, reason=reason)


def run(arguments, settings):
    # Some of the files import this from Keras' own `conftest.py`, which is not installed.
    stand_in = sys.modules["conftest"] = types.ModuleType("conftest")
    stand_in.skip_if_backend = skip_if_backend
    plugin = Routed(settings)
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:randomly", "--tb=short", "--no-header"]
    options += ["-W", "ignore", "--show-capture=no", "-o", "addopts=", "-o", "filterwarnings="]
    options += ["--rootdir", "/", "--continue-on-collection-errors", "--durations=5"]
    options += ["-n0"] if "xdist" in sys.modules else []
    pytest.main([*options, *arguments], plugins=[plugin])
    return plugin


def last_line(report):
    lines = [line[1:].strip() for line in report.splitlines() if line.startswith("E ")]
    return re.sub(r"0x[0-9a-f]+|\d+\.\d+", "_", lines[0] if lines else "?")[:160]


def main(wanted):
    defaults = "--defaults" in wanted
    wanted = [word for word in wanted if word != "--defaults"]
    # With a seed, so that a failure can be repeated.
    settings = {"seed": 0} if defaults else {"presample": 3.0, "tau_threshold": 1e9}
    routed = run(files(wanted), settings)
    failed = {name: text for name, text in routed.failed.items() if name in routed.calling}
    again = run([f"/{name}" for name in failed], None) if failed else None
    causes = collections.defaultdict(list)
    for name, text in failed.items():
        if name not in again.failed:
            causes[last_line(text)].append(name)
    print(f"\n{len(routed.calling)} tests call `fit`; {len(failed)} of them fail with ours,")
    print(f"{len(again.failed) if again else 0} of these with plain `fit` too.")
    unknown = 0
    for cause, names in sorted(causes.items(), key=lambda item: -len(item[1])):
        print(f"\n{len(names)}: {cause}")
        for name in names:
            test = name.split("::", 1)[1]
            why = next((why for known, why in INHERENT.items() if test.startswith(known)), None)
            unknown += why is None
            print(f"    {name.rpartition('keras/src/')[2]}" + (f"  [{why}]" if why else ""))
    return unknown


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 100))
