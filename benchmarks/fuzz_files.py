"""Can a damaged or hostile file do more than be refused? Nothing here measures time.

Every format that arrol reads (``fuzz_formats.py``) is damaged in ways that a seed draws (``mutations.py``), and read in
a process of its own with a limit of memory and of time. A case must end in one of three ways:

* equal: it reads as the whole file does;
* other: it reads as another valid file;
* refused: an error of ``arrol.errors``, in one printable line that names the file or the field.

Anything else is a failure, and its number is printed: another exception, a dead or hanging process, more memory than
``MEMORY_MIB``, a file written, a process started, a text evaluated or unpickled, and, where a format has sums, changed
bytes that read as something else. ``--case NUMBER`` repeats one.

    OMP_NUM_THREADS=1 python benchmarks/fuzz_files.py [--count 2400] [--seed 0] [--format TEXT] [--case N] [--smoke]
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import random
import re
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from arrol.errors import ArrolError
from arrol.records.schema import BenchRecord
from fuzz_formats import FORMATS, Format, make_examples
from integration import tiny
from measure import write
from mutations import mutated

MEMORY_MIB = 512
"""A case may add so much to what its process holds."""
HARD_MIB = 4096
"""Address space that a case may add; more is a MemoryError."""
WAIT_S = 120
"""A case that takes longer hangs."""
OUTCOMES = ("equal", "other", "refused", "failed")
PRELOAD = [*tiny.PRELOAD, "arrol.cli.main", "arrol.cli.export", "arrol.reports.page", "pyarrow.parquet"]
FORBIDDEN = ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect")
FIELD = re.compile(r"(arm '.*': )?[\w.-]+ *( = |: |\.|\[)")
"""Begin of an error of a config, which names the field."""


class Ended(NamedTuple):
    """How a case ended."""

    outcome: str
    what: str
    """File and damage."""
    note: str = ""
    """The error, for refusals and failures."""
    memory_mib: float = 0.0
    cpu_s: float = 0.0


def drawn(number: int, seed: int, files: Sequence[str]) -> tuple[random.Random, str]:
    """The draw of a case, and its file."""
    draw = random.Random(f"{seed} {number}")
    return draw, draw.choice(files)


class Bench:
    """In the worker: a copy of the examples, in which one file at a time is another one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(root.with_name("whole"), root)
        self.contents = {
            path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()
        }
        self.files = {form: self._files(form) for form in FORMATS}
        self.whole: dict[tuple[str, str], str] = {}
        self.seen: list[str] = []
        self.is_armed = False
        sys.addaudithook(self._hear)

    def case(self, form: Format, number: int, seed: int) -> Ended:
        """Damage a file, read it, put the whole one back."""
        draw, name = drawn(number, seed, self.files[form])
        path = self.root / name
        expected = self._expected(form, name)
        content, what = mutated(name, self.contents[name], self.contents[draw.choice([*self.contents])], draw)
        path.write_bytes(content)
        self.seen.clear()
        started = time.process_time()
        try:
            with _limited() as peak_mib:
                self.is_armed = True
                outcome, note = self._read(form, path, expected, what)
                self.is_armed = False
                memory = peak_mib()
        finally:
            self.is_armed = False
            path.write_bytes(self.contents[name])
        if self.seen:
            outcome, note = "failed", f"side effect: {self.seen[0]}"
        if memory > MEMORY_MIB:
            outcome, note = "failed", f"{memory:.0f} MiB; {note}"
        return Ended(outcome, f"{name}: {what}", note, memory, time.process_time() - started)

    def _read(self, form: Format, path: Path, expected: str, what: str) -> tuple[str, str]:
        try:
            found = form.read(self.root, path)
        except ArrolError as error:
            said = str(error)
            if not said.isprintable():
                return "failed", f"not one printable line: {said!r}"
            names = {path.parent.name, *(Path(name).name for name in self.files[form])}
            is_named = FIELD.match(said) or any(name in said for name in names)
            return ("refused", said) if is_named else ("failed", f"names no file: {said}")
        except BaseException as error:  # all others are what is looked for
            trace = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)]
            return "failed", f"{type(error).__name__}: {str(error)[:200]} at {' '.join(trace[-4:])}"
        if found == expected:
            return "equal", ""
        if form.is_sealed and not what.startswith(("value at", "all numbers")):
            return "failed", "changed bytes were read as another file"
        return "other", ""

    def _expected(self, form: Format, name: str) -> str:
        key = form.name, name
        if key not in self.whole:
            self.whole[key] = form.read(self.root, self.root / name)
        return self.whole[key]

    def _files(self, form: Format) -> list[str]:
        found = sorted(path for pattern in form.files for path in self.root.glob(pattern) if path.is_file())
        return [path.relative_to(self.root).as_posix() for path in found]

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Note what no reader may do."""
        if not self.is_armed:
            return
        if event in FORBIDDEN or (event == "compile" and arguments[1] in ("<string>", b"<string>")):
            self.seen.append(f"{event} {str(arguments[:2])[:80]}")
        elif event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            self.seen += [f"wrote {arguments[0]}"] * (not str(arguments[0]).endswith(".lock"))


@contextlib.contextmanager
def _limited() -> Iterator[Any]:
    """Bound the address space; gives a function that tells by how much the resident memory grew at most, in MiB."""
    Path("/proc/self/clear_refs").write_text("5")  # begins a new peak
    before, size = _status("VmRSS"), _status("VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (size + HARD_MIB * 2**20, resource.RLIM_INFINITY))
    try:
        yield lambda: (_status("VmHWM") - before) / 2**20
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def _status(name: str) -> int:
    """Bytes of a field of this process's status."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def work(root: str, pipe: Connection, seed: int) -> None:
    """Answer (format, number) with how that case ended."""
    import logging

    logging.disable(logging.CRITICAL)
    _silence()
    bench = Bench(Path(root))
    while (asked := pipe.recv())[0] >= 0:
        try:
            pipe.send(tuple(bench.case(FORMATS[asked[0]], asked[1], seed)))
        except Exception:  # of this script itself
            pipe.send(("failed", "", traceback.format_exc()))


def _silence() -> None:
    """No output of this process: libraries print bars, and what they found in a file."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)


class Workers:
    """One worker at a time; the next one takes over where it dies or hangs."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOAD)
        self._folder, self._seed = folder, seed
        self._process: Any = None
        self._pipe: Any = None

    def run(self, target: Any, *arguments: Any) -> None:
        """A process that must end well."""
        process = self._context.Process(target=target, args=arguments)
        process.start()
        process.join(600)
        assert process.exitcode == 0, f"{target.__name__} ended with {process.exitcode}"

    def case(self, place: int, number: int) -> Ended:
        if self._process is None:
            self._pipe, theirs = self._context.Pipe()
            self._process = self._context.Process(target=work, args=(str(self._folder), theirs, self._seed))
            self._process.start()
            theirs.close()
        try:
            self._pipe.send((place, number))
            if self._pipe.poll(WAIT_S):
                return Ended(*self._pipe.recv())  # a tuple, since this script may run under another name
            note = f"hangs: more than {WAIT_S} s"
        except (EOFError, ConnectionError):
            self._process.join(WAIT_S)
            note = f"the process ended with {self._process.exitcode}"
        self.close(is_dead=True)
        return Ended("failed", "", note)

    def close(self, *, is_dead: bool = False) -> None:
        if self._process is not None:
            if is_dead:
                self._process.kill()
            else:
                self._pipe.send((-1, 0))
            self._process.join(WAIT_S)
            self._pipe.close()
            self._process = None


def row(form: Format, ended: Sequence[Ended]) -> BenchRecord:
    """Share of a format's cases without a failure."""
    counts = Counter(one.outcome for one in ended)
    share = 1 - counts["failed"] / len(ended)
    config: dict[str, Any] = {"cases": len(ended), **{name: counts[name] for name in OUTCOMES}}
    config["memory_mib"] = round(max(one.memory_mib for one in ended))
    config["cpu_s"] = round(sum(one.cpu_s for one in ended), 1)
    config["notes"] = [f"{one.what}: {one.note}"[:300] for one in ended if one.outcome == "failed"][:3]
    return BenchRecord(
        benchmark="fuzz",
        variant=form.name,
        unit="share",
        median=share,
        p20=share,
        p80=share,
        repeats=len(ended),
        config=config,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=2400, help="cases, spread over the formats; default 2400")
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    parser.add_argument("--format", default="", help="only formats whose name holds this text")
    parser.add_argument("--case", type=int, help="only the case of this number, with all that is known of it")
    parser.add_argument("--smoke", action="store_true", help="220 cases")
    parser.add_argument("--out", default="results/bench-fuzz.jsonl", help="records; replaced")
    flags = parser.parse_args(arguments)
    count, found = 220 if flags.smoke else flags.count, defaultdict[int, list[Ended]](list)
    places = [place for place, form in enumerate(FORMATS) if flags.format in form.name]
    with tempfile.TemporaryDirectory() as folder:
        workers = Workers(Path(folder) / "work", flags.seed)
        workers.run(_examples, folder)
        for number in range(count) if flags.case is None else [flags.case]:
            place = number % len(FORMATS)
            if place not in places:
                continue
            ended = workers.case(place, number)
            found[place].append(ended)
            if ended.outcome == "failed" or flags.case is not None:
                print(f"case {number} (seed {flags.seed}), {FORMATS[place].name}: {str(ended)[:2000]}", flush=True)
        workers.close()
    if flags.case is not None:
        return 0
    rows = [row(FORMATS[place], found[place]) for place in places]
    config = {"cases": count, "memory_limit_mib": MEMORY_MIB, "time_limit_s": WAIT_S}
    write(flags.out, "bench-fuzz", config, rows, seed=flags.seed)
    failed = sum(one.config["failed"] for one in rows)
    print(f"{failed} of {sum(one.repeats for one in rows)} cases failed")
    return 1 if failed else 0


def _examples(folder: str) -> None:
    """The healthy files, at the place where they are damaged, since some name each other; and a copy."""
    _silence()
    work = Path(folder) / "work"
    work.mkdir()
    make_examples(work)
    shutil.copytree(work, work.with_name("whole"))


if __name__ == "__main__":
    sys.exit(main())
