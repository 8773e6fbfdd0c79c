"""Kill `search`, `sample`, `bon` and `label` again and again while they write, start them again until they are done,
and compare what they leave with what an undisturbed run leaves.

    python benchmarks/kill.py --kills 200 --seed 0

No model of any size: the policy is a script, the reward model of `bon` has random weights. A round is one output file;
it is killed with SIGKILL at moments drawn by chance until a run comes to its end, then the next round begins. After
every kill: the lines but the last are whole, and all lines of the kill before stand still (but for the last input's,
where one input gives several lines). At the end of a round: the records are those of the undisturbed run, each once.
Exit status 1 if anything was lost, doubled or torn.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from helpers import clean_env, program, write_jsonl
from trees import record as tree_record

from medsss_cli.stream.jsonl import read_objects
from medsss_cli.stream.outputs import state_path

COLUMNS = ("kills", "before", "amid", "torn", "rounds", "records", "lost", "twice", "broken", "seconds")


@dataclass
class Job:
    """A command line without its -o. `size` is the number of its inputs, `share` of all kills it gets."""

    name: str
    args: list[str]
    size: int
    share: float


@dataclass
class Tally:
    """What the kills of one command came to. `before` and `amid` say whether a kill hit a run before or after its first
    line; `torn` counts files that ended in half a line, which the next run has to cut off."""

    kills: int = 0
    rounds: int = 0
    before: int = 0
    amid: int = 0
    torn: int = 0
    lost: int = 0
    twice: int = 0
    broken: int = 0
    redone: int = 0
    seconds: float = 0.0
    records: int = 0
    faults: list[str] = field(default_factory=list)


def problem(k: int) -> dict[str, Any]:
    return {
        "id": f"p{k}",
        "question": f"Problem {k}: is a potassium of 6.1 high?",
        "answer": "B",
        "options": {"A": "No", "B": "Yes"},
        "task": "choice",
    }


def script(folder: Path, count: int) -> Path:
    """Texts for each problem of its own, so that they do not depend on what else was asked."""
    texts = [
        " Potassium is normal from 3.5 to 5.0.",
        " 6.1 is above 5.0.\n\nStep 9: The answer is B.",
        " The answer is A.",
        " 6.1 is far above it. The answer is B.",
        " Haemolysis may raise it.",
    ]
    lines = [{"match": f"Problem {k}:", "texts": texts[k % 3 :] + texts[: k % 3]} for k in range(count)]
    return write_jsonl(folder / f"script-{count}.jsonl", lines)


def answered(number: int) -> dict[str, Any]:
    """A problem with three answers."""
    texts = [f"Step 1: A potassium of {3 + k} is looked at.\n\nStep 2: The answer is {'AB'[k % 2]}." for k in range(3)]
    return problem(number) | {"responses": [{"text": text} for text in texts]}


def random_prm(folder: Path) -> Path:
    """A reward model of random weights, trained on two rows so that the folder is a real one."""
    from tiny_models import make_tiny_model

    from medsss_cli.models import Device
    from medsss_cli.stream.jsonl import Where
    from medsss_cli.training.config import PrmTrainingConfig
    from medsss_cli.training.prm import PrmTraining

    base = make_tiny_model(folder / "base")
    rows = [{"prompt": "Q?", "completions": ["start", "a", "b"], "labels": [None, 1.0, y]} for y in (0.0, 0.3)]
    out = folder / "prm"
    places = [(Where("rows", k), row) for k, row in enumerate(rows)]
    PrmTraining(PrmTrainingConfig(policy=str(base), output=str(out), device=Device.CPU, epochs=1.0), places).run()
    return out


def jobs(folder: Path, scale: float, wanted: set[str]) -> list[Job]:
    """The four commands; `scale` multiplies the sizes of their inputs."""

    def inputs(name: str, count: int, make: Callable[[int], dict[str, Any]]) -> str:
        return str(write_jsonl(folder / f"{name}.jsonl", (make(k) for k in range(count))))

    found: list[Job] = []
    if "label" in wanted:
        size = round(6000 * scale)
        trees = inputs("trees", size, lambda k: tree_record(id=f"t{k}"))
        found.append(Job("label", ["label", "--to", "prm", trees], size, 0.3))
    if "sample" in wanted:
        size = round(400 * scale)
        policy = f"scripted:{script(folder, size)}"
        found.append(
            Job("sample", ["sample", "-n", "4", "--engine", policy, inputs("sample", size, problem)], size, 0.3)
        )
    if "search" in wanted:
        size = round(120 * scale)
        small = ["--max-nodes", "12", "--rollouts", "4", "--min-rollouts", "2", "--expand", "reason", "--seed", "3"]
        policy = f"scripted:{script(folder, size)}"
        found.append(Job("search", ["search", *small, "--engine", policy, inputs("search", size, problem)], size, 0.3))
    if "bon" in wanted:
        size = round(60 * scale)
        args = ["bon", "--prm", str(random_prm(folder)), "--prm-device", "cpu"]
        found.append(Job("bon", [*args, inputs("bon", size, answered)], size, 0.1))
    return found


def without_times(record: dict[str, Any]) -> str:
    """A record as one string, the wall-clock times of a search left out: no two runs share them."""
    if "stats" in record:
        record = record | {"stats": {key: value for key, value in record["stats"].items() if "seconds" not in key}}
    return json.dumps(record, sort_keys=True)


def standing(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The whole lines of a file, and what is wrong with the others."""
    bad: list[str] = []
    if not path.exists():
        return [], bad
    return [found for _, found in read_objects([str(path)], on_bad=lambda where, what: bad.append(what))], bad


def begin(job: Job, out: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        program(*job.args, "-o", out), env=clean_env(), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def undisturbed(job: Job, folder: Path) -> tuple[Counter[str], float, float]:
    """The records, and the seconds until the first line and until the end."""
    out = folder / f"{job.name}-whole.jsonl"
    start = time.monotonic()
    with begin(job, out) as child:
        while child.poll() is None and not size_of(out):
            time.sleep(0.005)
        first = time.monotonic() - start
        assert child.stderr is not None
        said = child.stderr.read().decode()
        if child.wait() != 0:
            sys.exit(f"{job.name} fails without any kill:\n{said}")
    return Counter(map(without_times, standing(out)[0])), first, time.monotonic() - start


def round_of(
    job: Job,
    folder: Path,
    whole: Counter[str],
    times: tuple[float, float],
    kills: int,
    draw: random.Random,
) -> Tally:
    """One output file from its first run to its end, killed at most `kills` times."""
    tally = Tally(rounds=1)
    first, total = times
    out = folder / f"{job.name}-{draw.getrandbits(32):08x}.jsonl"
    several = max(Counter(json.loads(line)["id"] for line in whole.elements()).values(), default=1) > 1
    before: Counter[str] = Counter()
    while True:
        at = size_of(out)
        start = time.monotonic()
        with begin(job, out) as child:
            if tally.kills < kills:
                anywhen = draw.random() < 0.3
                limit = draw.uniform(0, total) if anywhen else 600.0
                while child.poll() is None and time.monotonic() - start < limit and (anywhen or size_of(out) <= at):
                    time.sleep(0.002)
                if not anywhen:
                    time.sleep(draw.uniform(0, (total - first) / 5))
                child.send_signal(signal.SIGKILL)
            assert child.stderr is not None
            said = child.stderr.read().decode()
            status = child.wait()
        tally.seconds += time.monotonic() - start
        lines, bad = standing(out)
        here = Counter(map(without_times, lines))
        if status != -signal.SIGKILL:
            break
        tally.kills += 1
        if size_of(out) > at:
            tally.amid += 1
        else:
            tally.before += 1
        # A torn end is what a kill may leave.
        tally.torn += bool(bad)
        if len(bad) > 1:
            tally.broken += 1
            tally.faults.append(f"{out}: {bad}")
        if several and lines:  # the last input may be there in part, and is done again
            last = lines[-1]["id"]
            here = Counter(without_times(line) for line in lines if line["id"] != last)
        gone = before - here
        if gone:
            tally.redone += len(gone)
            tally.faults.append(f"{out}: {len(gone)} lines of the kill before are gone")
        before = here
    if status != 0 or bad:
        tally.broken += 1
        tally.faults.append(f"{out}: exit status {status}, {bad}\n{said}")
    lost, more = whole - here, here - whole
    tally.lost, tally.twice, tally.records = lost.total(), more.total(), here.total()
    if lost or more:
        tally.faults.append(f"{out}: {lost.total()} lost, {more.total()} twice or other than undisturbed")
    else:
        out.unlink()
        Path(state_path(str(out))).unlink()
    return tally


def add(one: Tally, other: Tally) -> None:
    for name in (*COLUMNS, "redone"):
        setattr(one, name, getattr(one, name) + getattr(other, name))
    one.faults += other.faults


def kill(job: Job, folder: Path, kills: int, draw: random.Random, per_round: int = 10) -> Tally:
    """`kills` kills of one command, at most `per_round` of them a file."""
    whole, first, total = undisturbed(job, folder)
    tally = Tally()
    while tally.kills < kills:
        most = min(per_round, kills - tally.kills)
        add(tally, round_of(job, folder, whole, (first, total), most, draw))
    return tally


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="kills in all")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the number of inputs")
    parser.add_argument("--commands", default="label,sample,search,bon")
    args = parser.parse_args()
    draw = random.Random(args.seed)
    ended_well = True
    with tempfile.TemporaryDirectory(prefix="medsss-kill-") as name:
        folder = Path(name)
        found = jobs(folder, args.scale, set(args.commands.split(",")))
        shares = sum(job.share for job in found)
        row = "{:8} {:>6} {:>6} {:>7} {:>6} {:>6} {:>6} {:>8} {:>6} {:>6} {:>7} {:>8}"
        print(row.format("command", "inputs", *COLUMNS), flush=True)
        everything = Tally()
        for job in found:
            tally = kill(job, folder, max(round(args.kills * job.share / shares), 1), draw)
            add(everything, tally)
            print(shown(row, job.name, job.size, tally), flush=True)
        print(shown(row, "all", "", everything))
        for fault in everything.faults:
            print(fault)
        ended_well = not everything.faults
    sys.exit(0 if ended_well else 1)


def shown(row: str, name: str, size: object, tally: Tally) -> str:
    return row.format(name, size, *(round(getattr(tally, column)) for column in COLUMNS))


if __name__ == "__main__":
    main()
