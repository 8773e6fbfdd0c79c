"""Give hostile input to every reader and extractor: what comes back is a record or a BadRecord or another MedsssError,
never another exception, and never after more than a second.

    python benchmarks/fuzz.py --inputs 100000 --seed 0

Inputs are valid records of every layout, mutated: values replaced, keys dropped, doubled and moved, texts spiced with
what stands in HOSTILE and repeated, the JSON broken byte by byte. Every hundredth input is large: a megabyte or so, or
a million steps, which are 16. A second is one of the processor's for this process, so that a busy machine makes no
faults; texts over two megabytes may take a second for each two, and are counted under "large". After thirty the call
is broken off. Exit status 1 after any fault. `--show N` prints N faults of each reader with their input.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import json
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import orjson
from backports import zstd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from helpers import layout_rows
from trees import record as tree_record

from medsss_cli.answers import Extract, answer_key, judge
from medsss_cli.commands import label
from medsss_cli.errors import BadRecord, MedsssError
from medsss_cli.evaluation.items import read_item
from medsss_cli.labelling.labels import StepLabels, StepValues
from medsss_cli.labelling.rows import PreferenceRows, PrmRows, SftRows, Take
from medsss_cli.problems import to_prm, to_problem, to_record, to_samples, to_tree
from medsss_cli.problems.rows import FieldMap
from medsss_cli.problems.sources import read_rows
from medsss_cli.records import Problem, Task
from medsss_cli.steps import join_steps, split_steps
from medsss_cli.stream import jsonl
from medsss_cli.stream.jsonl import Where, read_objects
from medsss_cli.stream.outputs import encode
from medsss_cli.view import model as view

LIMIT = 1.0
BYTES_A_SECOND = 2_000_000
HANG = 30.0
HERE = Where("hostile.jsonl", 7)

HOSTILE = [
    "", " ", "\x00", "\ufeff", "\r\n", "\n\n", "\u2028", "\u202e", "\ud800", "\x1b[2J", "💊", "İ", "ß", "\u0301" * 5,
    "Step 1:", "\n\nStep 2:", "\nStep 3: \nStep 4:", "Step 0: ", "The answer is", "The answer is B.", "answer is (A",
    "the answer is the answer is", "\\boxed{", "\\boxed{B}", "\\boxed{{{{", "<answer>", "</answer>", "<think>",
    "</think>",
    "<|im_start|>user\n", "<|im_end|>", "<|eot_id|>", "[INST]", "<s>", "</s>", "<|user|>", "<|assistant|>", "But wait,",
    "答案是", "A. ", "B) ", "(C)", "**D**", "A, B and C", "AAAAAAAA", "84", "1e308", "1e-400", "-0", "1/0",
    "1/3", "12.5 mg/dL",
    "5 to 6", "84 ± 2", "±", "1,234,567.89", "9" * 400, "0x1F", "²", "٣", "½", "NaN", "Infinity", "2024-02-30",
    "99/99/9999",
    "0000-00-00", "30 February 2024", "= = =", "not " * 9, "((((", "]]]]", "{{{{", "%s%n", "../../etc/passwd",
    "\\u0000",
    "Reason", "Finish", "correct", "reason", "choice", "number", "text", "null", "__class__",
]  # fmt: skip

VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2, 0.5, -0.0, 1e308, float("nan"), float("inf"), 2**31, 2**63, 2**64, -(2**63),
    10**400,
    "", " ", "A", "B", "Z", [], {}, [[]], [None], [{}], {"": ""}, {"A": None}, {"A": "x", "a": "y"}, ["A", "B"],
    [1, 2.5],
]  # fmt: skip

PROBLEM = {
    "id": "q",
    "question": "2 + 2?\nA. 3\nB. 4",
    "answer": "B",
    "options": {"A": "3", "B": "4"},
    "task": "choice",
}
ANSWER = "Step 0: Let's see.\n\nStep 1: It is 2 times 2.\n\nStep 2: The answer is B."
JUDGED = {
    "text": ANSWER,
    "answer": "B",
    "verdict": "correct",
    "finish_reason": "stop",
    "tokens": 9,
    "form": "statement",
}

SEEDS: list[dict[str, Any]] = [
    *layout_rows().values(),
    PROBLEM,
    PROBLEM | {"task": "number", "answer": "84 ± 2 mmHg", "options": None},
    PROBLEM | {"task": "number", "answer": "2024-03-15", "options": None},
    PROBLEM | {"task": "text", "answer": "atrial fibrillation", "options": None},
    PROBLEM | {"responses": [JUDGED, ANSWER], "pass_rate": 0.5},
    PROBLEM | {"response": ANSWER},
    PROBLEM | {"output": [ANSWER, "B"]},
    PROBLEM
    | {"candidates": [JUDGED | {"step_scores": [0.5, 1.0], "score": 0.5}] * 2, "selected": 0, "strategy": "min-max"},
    PROBLEM | {"prompt": "2 + 2?", "completions": ["a", "b"], "labels": [None, 1.0], "values": [0.5, 1.0]},
    {"id": "q", "error": "no luck", "stage": "bon"},
    tree_record(),
    {
        "id": "q", "question": "2 + 2?", "answer": "4", "original_dataset": "made",
        "pos": [[["Step 0: Start.", 0.5, 0.5], ["Step 1: The answer is 4.", 1, 1]]],
        "neg": [[["Step 0: Start.", 0.5, 0.5], ["Step 1: The answer is 5.", 0, 0]]],
    },
    {
        "id": "q", "question": "2 + 2?", "answer": "4", "original_dataset": "made", "pos": [],
        "neg": [[{"step": "Step 0: Start.", "value": 0.5}, {"step": "Step 1: The answer is 6.", "value": 0.5}]],
    },
]  # fmt: skip


class Hang(BaseException):
    """Ten seconds of one call."""


def _hang(signum: int, frame: FrameType | None) -> None:
    raise Hang


@dataclass
class Tally:
    """What a reader made of its inputs."""

    inputs: int = 0
    good: int = 0
    refused: int = 0
    crashed: int = 0
    slow: int = 0
    large: int = 0
    longest: float = 0.0
    faults: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)


class Mutator:
    """Inputs by chance from a seed."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.size = 0  # characters of the last large text

    def text(self, text: str) -> str:
        """`text` with a few hostile pieces in it."""
        draw = self.draw
        for _ in range(draw.randint(1, 4)):
            piece, at = draw.choice(HOSTILE), draw.randint(0, len(text))
            match draw.randrange(5):
                case 0:
                    text = text[:at] + piece + text[at:]
                case 1:
                    text = text[:at] + piece * draw.randint(2, 30) + text[at:]
                case 2:
                    text = text[at:] + piece
                case 3:
                    text = text[: draw.randint(0, at)] + text[at:]
                case _:
                    text = text[:at] + chr(draw.choice((draw.randrange(128), draw.randrange(0xD800)))) + text[at:]
        return text

    def large(self) -> str:
        """A megabyte of one pattern, or a million steps."""
        text = self._large()
        self.size = len(text)
        return text

    def _large(self) -> str:
        draw = self.draw
        pieces = [draw.choice(HOSTILE) or "a" for _ in range(draw.randint(1, 3))]
        match draw.randrange(4):
            case 0:
                return "".join(f"\n\nStep {k}: x" for k in range(draw.choice((1000, 100_000, 1_000_000))))
            case 1:
                return "".join(draw.choice(HOSTILE) for _ in range(100_000))
            case _:
                unit = "".join(pieces)
                return unit * ((1 << draw.randint(12, 20)) // len(unit) + 1)

    def value(self, depth: int = 0) -> Any:
        """Any value that JSON, or a writer of bad JSON, can say."""
        draw = self.draw
        match draw.randrange(8):
            case 0 | 1 | 2:
                return copy.deepcopy(draw.choice(VALUES))
            case 3 | 4:
                return self.text(draw.choice(HOSTILE))
            case 5:
                nested: Any = copy.deepcopy(draw.choice(VALUES))
                for _ in range(draw.choice((1, 3, 50, 700))):
                    nested = [nested] if draw.random() < 0.5 else {"a": nested}
                return nested
            case 6 if depth < 3:
                return [self.value(depth + 1) for _ in range(draw.randint(0, 4))]
            case _ if depth < 3:
                return {draw.choice(HOSTILE): self.value(depth + 1) for _ in range(draw.randint(0, 4))}
            case _:
                return None

    def record(self, large: bool = False, needs: tuple[str, ...] = ()) -> dict[str, Any]:
        """A valid record with one to four faults: mostly of a layout with one of the keys in `needs`."""
        draw = self.draw
        fitting = [seed for seed in SEEDS if any(name in seed for name in needs)]
        found: dict[str, Any] = json.loads(
            json.dumps(draw.choice(fitting if fitting and draw.random() < 0.9 else SEEDS))
        )
        for _ in range(draw.choice((1, 1, 1, 2, 4))):
            holder: Any = found
            while True:
                keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
                if not keys:
                    break
                key = draw.choice(keys)
                if isinstance(holder[key], (dict, list)) and holder[key] and draw.random() < 0.7:
                    holder = holder[key]
                    continue
                self._spoil(holder, key)
                break
        if large:
            texts = [key for key, value in found.items() if isinstance(value, str)] or ["question"]
            found[draw.choice([*texts, "response", "output"])] = self.large()
        return found

    def _spoil(self, holder: Any, key: Any) -> None:
        draw = self.draw
        match draw.randrange(6):
            case 0:
                del holder[key]
            case 1 | 2 if isinstance(holder[key], str):
                holder[key] = self.text(holder[key])
            case 3 if isinstance(holder, list):
                holder += [holder[key]] * draw.randint(1, 50)
            case 4 if isinstance(holder, dict):
                other = draw.choice(SEEDS)
                name = draw.choice(list(other))
                holder[name] = json.loads(json.dumps(other[name]))
            case _:
                holder[key] = self.value()

    def line(self, large: bool = False, needs: tuple[str, ...] = ()) -> bytes:
        """A record as a line of JSON, now and then broken; NaN, lone surrogates, huge integers and doubled keys too."""
        draw = self.draw
        record = self.record(large, needs)
        text = json.dumps(record, ensure_ascii=draw.random() < 0.5)
        if draw.random() < 0.05 and record:
            name, value = draw.choice(list(record.items()))
            text = text[:-1] + "," + json.dumps({name: value})[1:]
        line = text.encode("utf-8", "surrogatepass")
        return self.bytes(line) if draw.random() < 0.1 else line

    def bytes(self, data: bytes) -> bytes:
        """Some bytes changed, cut out or put in."""
        draw = self.draw
        changed = bytearray(data)
        for _ in range(draw.randint(1, 4)):
            at = draw.randint(0, len(changed))
            match draw.randrange(5):
                case 0:
                    changed[at : at + 1] = bytes([draw.randrange(256)])
                case 1:
                    del changed[at : at + draw.randint(1, 20)]
                case 2:
                    changed[at:at] = draw.choice(
                        (b"\n", b"\r\n", b"\x00", b"\xff", b"\xef\xbb\xbf", b"[", b'"', b"NaN")
                    )
                case 3:
                    changed[at:at] = b"[" * draw.choice((3, 5000))
                case _:
                    del changed[at:]
        return bytes(changed)


# The readers: each takes the mutator and whether the input is to be large, and returns what was refused.

Reader = Callable[[Mutator, bool], Callable[[], object]]


def _object(mutator: Mutator, large: bool, needs: tuple[str, ...]) -> dict[str, Any] | None:
    """A line through the parser that all readers stand behind; None where that refuses it."""
    try:
        found = orjson.loads(mutator.line(large, needs))
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


def _of_object(read: Callable[[dict[str, Any], random.Random], object], *needs: str) -> Reader:
    def reader(mutator: Mutator, large: bool) -> Callable[[], object]:
        found = _object(mutator, large, needs)
        chance = random.Random(mutator.draw.random())

        def call() -> object:
            if found is None:
                raise BadRecord("not JSON")
            return read(found, chance)

        return call

    return reader


MAP = FieldMap.parse(["question=question", "options=options", "answer=answer:1"])


def read_problem(found: dict[str, Any], draw: random.Random) -> object:
    return encode(to_record(found, HERE, MAP) if draw.random() < 0.3 else to_problem(found, HERE))


def read_samples(found: dict[str, Any], draw: random.Random) -> object:
    return encode(to_samples(found, HERE, rejudge=draw.choice([None, *Extract])))


def read_prm(found: dict[str, Any], draw: random.Random) -> object:
    return encode(to_prm(found, HERE))


def read_trees(found: dict[str, Any], draw: random.Random) -> object:
    return encode(to_tree(found, HERE))


def eval_item(found: dict[str, Any], draw: random.Random) -> object:
    rejudge = draw.choice((None, *Extract))
    return read_item(found, HERE, rejudge=rejudge, by=draw.choice((None, "meta.a", "dataset", "nodes.0.text")))


def read_view(found: dict[str, Any], draw: random.Random) -> object:
    return view.read(found, HERE)


def label_rows(found: dict[str, Any], draw: random.Random) -> object:
    source = label._reader(2)(found, HERE)
    most = draw.choice((None, 1))
    make = draw.choice(
        (
            SftRows(draw.choice(list(Take)), draw.random() < 0.5),
            PreferenceRows(draw.choice((0.0, 0.8))),
            PrmRows(draw.choice(list(StepLabels)), draw.choice(list(StepValues)), draw.random() < 0.5),
        )
    )
    records = make(source, most)
    return records if isinstance(records, str) else [encode(record) for record in records]


def _judge(task: Task, extract: Extract) -> Reader:
    golds = {
        Task.CHOICE: ["B", "AC", "b", "(B)", "Z"],
        Task.NUMBER: ["84", "12.5 mg/dL", "84 ± 2", "80 to 90", "2024-03-15", "1e400"],
        Task.TEXT: ["atrial fibrillation", "no", "A B C", "\u0301"],
    }

    def reader(mutator: Mutator, large: bool) -> Callable[[], object]:
        draw = mutator.draw
        gold = draw.choice(golds[task])
        options = {letter: draw.choice(HOSTILE) for letter in "ABCD"} if draw.random() < 0.7 else None
        problem = Problem(
            id="q",
            question="2 + 2?",
            answer=mutator.text(gold) if draw.random() < 0.2 else gold,
            options=options if task is Task.CHOICE or draw.random() < 0.2 else None,
            task=task,
        )
        text = mutator.large() if large else mutator.text(draw.choice((ANSWER, "B", "It is 84 mmHg.", "= 12.5")))

        def call() -> object:
            judgement = judge(problem, text, extract)
            return answer_key(problem, judgement.answer)

        return call

    return reader


def steps(mutator: Mutator, large: bool) -> Callable[[], object]:
    text = mutator.large() if large else mutator.text(ANSWER)
    first = mutator.draw.choice((None, 0, 1, 5))

    def call() -> object:
        found = split_steps(text, first)
        try:
            again = join_steps(found, first or 0)
        except ValueError:
            raise BadRecord("cannot be joined") from None
        return split_steps(again, first or 0)

    return call


def _file(endings: tuple[str, ...], read: Callable[[str], object]) -> Reader:
    """Files of several lines, of which some bytes are changed; packed ones before or after the packing."""

    def reader(mutator: Mutator, large: bool) -> Callable[[], object]:
        draw = mutator.draw
        ending = draw.choice(endings)
        lines = [mutator.line(large and k == 0) for k in range(draw.randint(1, 4))]
        if ".csv" in ending or ".tsv" in ending:
            cells = [mutator.text(draw.choice(HOSTILE)) for _ in range(draw.randint(1, 12))]
            head = draw.choice(("question,answer,options", "id\tquestion\tanswer", "question,A,B,C,D,answer"))
            lines = [head.encode(), draw.choice((",", "\t")).join(cells).encode("utf-8", "surrogatepass")]
        data = draw.choice((b"", b"\xef\xbb\xbf")) + draw.choice((b"\n", b"\r\n")).join(lines)
        if draw.random() < 0.2 and "json" in ending:
            data = b"[" + b",".join(lines) + b"]"
        data = mutator.bytes(data) if draw.random() < 0.5 else data
        if ending.endswith(".gz"):
            data = gzip.compress(data, 1)
        elif ending.endswith(".zst"):
            data = zstd.compress(data, 1)
        data = mutator.bytes(data) if draw.random() < 0.3 else data
        path = Path(FOLDER) / f"in{ending}"
        path.write_bytes(data)
        return lambda: read(str(path))

    return reader


def _objects(path: str) -> object:
    bad: list[str] = []
    found = [obj for _, obj in read_objects([path], on_bad=lambda where, what: bad.append(f"{where}: {what}"))]
    jsonl.count_records([path])
    if not found:
        raise BadRecord("; ".join(bad) or "empty")
    return found


def _rows(path: str) -> object:
    bad: list[str] = []
    found = [obj for _, obj in read_rows(path, on_bad=lambda where, what: bad.append(f"{where}: {what}"))]
    for row in found:
        try:
            to_problem(row, HERE)
        except BadRecord as error:
            bad.append(str(error))
    if not found:
        raise BadRecord("; ".join(bad) or "empty")
    return found


FOLDER = "."

READERS: dict[str, tuple[Reader, int]] = {
    "read_objects": (_file((".jsonl", ".jsonl.gz", ".jsonl.zst"), _objects), 10),
    "read_rows": (_file((".json", ".csv", ".tsv", ".csv.gz", ".parquet"), _rows), 6),
    "to_problem": (_of_object(read_problem), 20),
    "to_samples": (_of_object(read_samples, "responses", "candidates", "response", "output"), 12),
    "to_prm": (_of_object(read_prm, "completions", "steps"), 8),
    "trees": (_of_object(read_trees, "pos"), 8),
    "eval": (_of_object(eval_item, "responses", "candidates", "response", "error"), 8),
    "view": (_of_object(read_view, "responses", "candidates", "nodes", "completions", "pos", "task"), 6),
    "label": (_of_object(label_rows, "nodes", "responses"), 8),
    "steps": (steps, 5),
    **{f"judge {task} {how}": (_judge(task, how), 1) for task in Task for how in Extract},
}
"""Each reader with its share of the inputs."""


def fuzz(inputs: int, seed: int, only: str = "", show: int = 3) -> dict[str, Tally]:
    """`inputs` inputs over all readers, those alone whose names hold `only`."""
    global FOLDER
    chosen = {name: reader for name, reader in READERS.items() if only in name}
    shares = sum(share for _, share in chosen.values())
    tallies: dict[str, Tally] = {}
    previous = signal.signal(signal.SIGVTALRM, _hang)
    try:
        with tempfile.TemporaryDirectory(prefix="medsss-fuzz-") as folder:
            FOLDER = folder
            for name, (reader, share) in chosen.items():
                tally = tallies[name] = Tally()
                mutator = Mutator(seed * 1000 + len(tallies))
                for number in range(max(round(inputs * share / shares), 1)):
                    mutator.size = 0
                    call = reader(mutator, number % 100 == 99)
                    _one(call, tally, show, LIMIT * max(1.0, mutator.size / BYTES_A_SECOND))
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, previous)
    return tallies


def _one(call: Callable[[], object], tally: Tally, show: int, limit: float) -> None:
    tally.inputs += 1
    fault = ""
    start = time.process_time()
    signal.setitimer(signal.ITIMER_VIRTUAL, HANG)
    try:
        call()
        tally.good += 1
    except MedsssError as error:
        tally.refused += 1
        if not str(error).strip():
            fault = "an error without a word"
    except Hang:
        fault = "".join(traceback.format_exc(limit=-3))
    except Exception as error:
        tally.crashed += 1
        at = traceback.extract_tb(error.__traceback__)[-1]
        kind = f"{type(error).__name__} {Path(at.filename).name}:{at.lineno}"
        tally.kinds[kind] += 1
        if tally.kinds[kind] <= show:
            fault = "".join(traceback.format_exc(limit=-4))
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    seconds = time.process_time() - start
    tally.longest = max(tally.longest, seconds)
    tally.large += LIMIT < seconds <= limit
    if seconds > limit:
        tally.slow += 1
        tally.kinds["slow"] += 1
        fault = fault or f"{seconds:.1f} s"
    if fault and len(tally.faults) < 8 * show:
        cells = [repr(cell.cell_contents) for cell in getattr(call, "__closure__", None) or ()]
        tally.faults.append(fault + "\n    ".join(["", *(cell[:400] for cell in cells)]))


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="readers whose names hold this")
    parser.add_argument("--show", type=int, default=2, help="faults of a kind to print")
    args = parser.parse_args()
    tallies = fuzz(args.inputs, args.seed, args.only, args.show)
    row = "{:24} {:>8} {:>8} {:>8} {:>8} {:>6} {:>6} {:>9}"
    print(row.format("reader", "inputs", "read", "refused", "crashed", "slow", "large", "longest s"))
    for name, tally in tallies.items():
        print(
            row.format(
                name,
                tally.inputs,
                tally.good,
                tally.refused,
                tally.crashed,
                tally.slow,
                tally.large,
                f"{tally.longest:.2f}",
            )
        )
    every = list(tallies.values())
    sums = [
        sum(getattr(each, name) for each in every) for name in ("inputs", "good", "refused", "crashed", "slow", "large")
    ]
    print(row.format("all", *sums, f"{max(each.longest for each in every):.2f}"))
    for name, tally in tallies.items():
        if tally.kinds:
            print(f"\n{name}: {dict(tally.kinds)}")
            print("\n".join(tally.faults))
    sys.exit(1 if any(tally.crashed or tally.slow for tally in every) else 0)


if __name__ == "__main__":
    main()
