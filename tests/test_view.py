"""What a person sees of records: as text in the terminal and on the page, and that no record can break either."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import select
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import Ran, on_a_terminal, run_medsss, to_lines, write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from trees import node, record

from medsss_cli.records import Problem
from medsss_cli.stream.jsonl import Where
from medsss_cli.view.model import read
from medsss_cli.view.page import page
from medsss_cli.view.terminal import show

HERE = Where("x.jsonl", 1)
SGR = re.compile(r"\x1b\[[\d;]*m")
HOSTILE = (
    "\x1b[2J\x1b]0;owned\x07[bold red]x[/] <script>window.owned = 1</script> \u202egnp 线粒体 \x00 a\tb " + "w" * 400
)


def problem(**changes: Any) -> dict[str, Any]:
    return {"id": "q1", "question": "Which drug?", "answer": "B", "options": {"A": "Furosemide", "B": "Metoprolol"}} | {
        "dataset": "clinic",
        "task": "choice",
        **changes,
    }


def answer(text: str, verdict: str, said: str | None, **more: Any) -> dict[str, Any]:
    return {"text": text, "answer": said, "verdict": verdict, "finish_reason": "eos", "tokens": 9, **more}


GOOD = "Step 0: Let's see.\n\nStep 1: It slows the heart.\n\nStep 2: The answer is B."
POOR = "Step 0: Let's see.\n\nStep 1: It is a diuretic.\n\nStep 2: The answer is A."


ASKED = [{"role": "user", "content": "Which drug?\nA. Furosemide\nB. Metoprolol"}]


def turn(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def samples() -> dict[str, Any]:
    drawn = [answer(POOR, "wrong", "A"), answer(GOOD, "correct", "B"), answer("Hm.", "no_answer", None)]
    return problem(responses=drawn, pass_rate=1 / 3)


def scored() -> dict[str, Any]:
    drawn = [
        answer(GOOD, "correct", "B", step_scores=[0.4, 0.7], score=0.4),
        answer(POOR, "wrong", "A", step_scores=[0.8, 0.9], score=0.8),
        answer(POOR, "wrong", "A", step_scores=[0.5, 0.6], score=0.5),
        answer(GOOD, "correct", "B", step_scores=[0.6, 0.7], score=0.6),
    ]
    return problem(candidates=drawn, selected=1, strategy="min-max")


def prm() -> dict[str, Any]:
    table = {"completions": ["See.", "Slow.", "B."], "labels": [None, 1, 0.25], "values": [0.5, 1, 0]}
    return problem(prompt="Which drug?", **table)


def preference() -> dict[str, Any]:
    return problem(prompt=ASKED, chosen=turn(GOOD), rejected=turn(POOR), margin=0.9, kind="trajectory")


SFT = problem(prompt=ASKED, completion=turn(GOOD), min_value=0.75)
PUBLISHED = {
    "id": "p1", "question": "Which?\nA. x\nB. y", "answer": "B", "original_dataset": "medqa",
    "pos": [[["Let's see.", 0.5, None], ["The answer is B.", 1, 1]]], "neg": [],
}  # fmt: skip


EVERY = [record(), samples(), scored(), prm(), preference(), SFT, problem(), PUBLISHED]


def rendered(record: Problem, width: int, *, full: bool = False, color: bool = False) -> str:
    system = "standard" if color else None
    console = Console(file=io.StringIO(), width=width, color_system=system, force_terminal=color)
    with console.capture() as captured:
        show(record, console, full=full)
    return captured.get()


def drawn(obj: dict[str, Any], width: int = 80, *, full: bool = False) -> str:
    return rendered(read(obj, HERE), width, full=full)


def test_a_tree() -> None:
    """Values, what became of each step, the shape; then the two trajectories that tell most, with the labels that
    `label` gives: steps of values .5 .9 1 are right, and of .5 .9 0 they are right but for the last. Answer and step
    stand apart, each under its head."""
    nodes = record()["nodes"]
    for index, said in ((3, "B"), (4, "A"), (5, "C"), (7, "B")):
        nodes[index] |= {"answer": said, "visits": index}
    shown, worst, steps = drawn(record(nodes=nodes), 70).partition("worst trajectory: wrong, smallest value 0.00\n")
    assert shown == (
        """\
━━ tree q1
clinic · choice · gold B

Which drug?
  A  Furosemide
▸ B  Metoprolol

tree: nodes 9, answers 4
2 correct, 2 wrong
value  visits  state  step
0.50▅       0         0 Let's break down this problem step by step.
0.90█       0         ├╴1 The drug slows the heart.
1.00█       3  ✓ B    │ ├╴2 So it is a beta blocker. The answer is B.
0.00▁       4  ✗ A    │ └╴2 So it is a diuretic. The answer is A.
0.10▁       0         └╴1 The drug thins the blood.
0.00▁       5  ✗ C      ├╴2 So it is heparin. The answer is A.
0.60▅       0  ↺        │ └╴3 But wait, the pulse fell.
1.00█       7  ✓ B      │   └╴4 It slows the heart. The answer is B.
0.30▃       0  ○        └╴2 It is given by mouth.
✓ correct ✗ wrong ? no answer · not judged ↺ reflect ○ left open

best trajectory: correct, smallest value 0.90
nodes 0 1 3
step  label  value
   0      –   0.50     Let's break down this problem step by step.
   1      1   0.90     The drug slows the heart.
   2      1   1.00  ✓  So it is a beta blocker. The answer is B.

"""
    )
    assert worst
    assert "      0   0.00  ✗  So it is a" in steps or "      0   0.00  ✗  So it is heparin." in steps


def test_deep_steps_keep_their_width_and_long_ones_their_guides() -> None:
    nodes = [node(-1, 0, "root", "Go.", 0.5), node(0, 1, "reason", "first " * 20, 0.5)]
    nodes += [node(i + 1, i + 2, "reason", "deep " * 40, 0.5) for i in range(30)]
    nodes.append(node(0, 1, "reason", "other", 1))
    lines = drawn(record(nodes=nodes), 80).splitlines()
    at = next(i for i, line in enumerate(lines) if "├╴1" in line)
    assert lines[at + 1].index("│") == lines[at].index("├")
    assert all(line.count("deep") >= 9 for line in lines if re.search(r"\b(9|1\d|2\d) deep", line))
    assert any("└╴1 other" in line for line in lines)
    assert drawn(record(nodes=nodes), 80, full=True).count("first") == 20


def test_candidates() -> None:
    """The selected one is marked, the votes are counted with their sums, and beside the wrong choice stands the right
    candidate that came nearest (score .6, not .4)."""
    text = drawn(scored())
    for line in (
        "  #  score  answer  scores of its steps",
        "▸ 1   0.80  ✗ A     ▇█",
        "    2  1.00  0.60  ✓  B",
        "    2  1.30  0.80  ✗  A",
        "candidate 1, selected: wrong, score 0.80",
        "   2  0.90█  The answer is A.",
        "candidate 3: correct, score 0.60",
    ):
        assert line in text
    assert "candidate 0" not in text
    assert "candidate 0: correct, score 0.40" in drawn(scored(), full=True)


def test_samples_and_training_data() -> None:
    text = drawn(samples())
    for line in (
        "3 answers, 1 correct: pass rate 0.33",
        "    1  ?  (none)",
        "0  ✗ A     The answer is A.",
        "   1  It slows",
    ):
        assert line in text
    assert "   2   0.25   0.00  B." in drawn(prm())
    assert "answer to learn, smallest value 0.75" in drawn(SFT)
    pair = drawn(preference())
    assert pair.count("Let's see.") == 1  # what both begin with
    assert pair.index("✓ chosen") < pair.index("It slows") < pair.index("✗ rejected") < pair.index("It is a diuretic")
    assert "1.00█  1.00  ✓ B    └╴1 The answer is B." in drawn(PUBLISHED)  # the authors' files


def poisoned(text: str) -> list[dict[str, Any]]:
    """Every kind of record with `text` in every place that a record has for one."""
    nodes = [node(-1, 0, "root", text, 0.5), node(0, 1, "finish", text, 1.0, "correct")]
    nodes[1]["answer"] = text
    more = {"id": text, "question": text, "options": {"A": text, "B": "y"}, "dataset": text}
    sample, score, pair, steps = samples(), scored(), preference(), prm()
    for each in (*sample["responses"], *score["candidates"]):
        each |= {"text": text, "answer": text, "finish_reason": text}
    for turns in ("prompt", "chosen", "rejected"):
        pair[turns] = [{"role": text, "content": text}]
    steps["completions"] = [text] * 3
    score["strategy"] = pair["kind"] = text
    return [each | more for each in (record(nodes=nodes), sample, score, pair, steps, problem())]


@settings(max_examples=60, deadline=None)
@given(
    st.text(max_size=300) | st.text("[]/\\ \x1b\n\r\t\x07線a\u0301\u202e", max_size=300), st.sampled_from([40, 61, 80])
)
def test_no_record_breaks_the_terminal(text: str, width: int) -> None:
    """No control character goes out, and no line is wider than asked: the terminal has nothing to wrap."""
    for obj in poisoned(text):
        try:
            found = read(obj, HERE)
        except Exception:  # a question of blanks alone, say: not what is tested here
            continue
        shown = rendered(found, width)
        for line in shown.split("\n"):
            assert line.isprintable(), line
            assert cell_len(line) <= width, line
        colored = rendered(found, width, color=True)
        assert "\n".join(line.rstrip() for line in SGR.sub("", colored).split("\n")) == shown


def test_huge_texts_take_no_time() -> None:
    """A policy in a loop writes a step of a million letters, or a tree of one path a thousand steps deep."""
    nodes = [node(-1, 0, "root", "Go.", 0.5)]
    nodes += [node(i, i + 1, "reason", "x" * (2_000_000 if i == 500 else 9), 0.5) for i in range(1500)]
    shown = drawn(record(nodes=nodes, question="q " * 500_000), 80)
    assert all(cell_len(line) <= 80 for line in shown.split("\n"))
    assert len(shown) < 400_000


# As a program


def view(*args: object, stdin: str = "", **env: str) -> Ran:
    return run_medsss(["view", *args], stdin, env=env)


def test_a_pipe_gets_plain_text_of_every_record() -> None:
    ran = view(stdin=to_lines(EVERY), COLUMNS="80").ok()
    kinds = re.findall(r"^━━ (\w+) ", ran.stdout, re.MULTILINE)
    assert kinds == ["tree", "samples", "scored", "prm", "preference", "sft", "problem", "tree"]
    assert all(line.isprintable() and cell_len(line) <= 80 for line in ran.stdout.split("\n"))
    assert ran.stderr == ""


def test_what_is_shown_can_be_chosen() -> None:
    lines = to_lines([record(f"q{i}") for i in range(5)])
    assert view("--limit", "2", stdin=lines).ok().stdout.count("━━ tree") == 2
    ran = view("--id", "q1", "--id", "q3", stdin=lines).ok()
    assert re.findall(r"━━ tree (\w+)", ran.stdout) == ["q1", "q3"]
    ran = view("--id", "nobody", stdin=lines)
    assert (ran.rc, ran.stdout) == (2, "")
    assert "there is no record of the id nobody to show" in ran.stderr


def test_bad_lines_are_told_and_the_rest_is_shown() -> None:
    lines = "nonsense\n" + to_lines([record(nodes=[]), {"a": 1}, record()])
    ran = view(stdin=lines)
    assert ran.rc == 1
    assert "stdin:1: not JSON" in ran.stderr
    assert "stdin:2: q1: the tree has no nodes" in ran.stderr
    assert "stdin:3: " in ran.stderr
    assert "━━ tree q1" in ran.stdout
    ran = view("--strict", stdin=lines)
    assert (ran.rc, ran.stdout) == (1, "")
    assert view("missing.jsonl").rc == 2


def test_a_terminal_gets_colours_and_one_record(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "t.jsonl", [record("q1", question="Which drug? " * 20), record("q2")])
    ran = on_a_terminal("view", file, columns=72).ok()
    assert "\x1b[1;32m✓" in ran.stdout
    assert ran.stdout.count("━━") == 1
    assert "view: the first of several; --limit N or --id ID (q2) shows more" in ran.stderr
    assert 60 < max(cell_len(line) for line in SGR.sub("", ran.stdout).split("\n")) <= 72
    assert "\x1b[1;32m" not in on_a_terminal("view", file, NO_COLOR="1").stdout
    assert "\x1b" not in on_a_terminal("view", file, TERM="dumb").stdout
    assert "\x1b[1;32m" in view(file, FORCE_COLOR="1").stdout


# The page


def parts(text: str) -> tuple[str, str, str, Any]:
    """Policy, style, script and data of a page, which must be all that it has of each."""
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", text, re.DOTALL)
    assert [kind for kind, _ in scripts] == [' type="application/json" id="data"', ""]
    return policy, style, scripts[1][1], json.loads(scripts[0][1])


def test_a_page_allows_its_own_script_and_nothing_else() -> None:
    text = page([read(obj, HERE) for obj in EVERY], title="t.jsonl")
    policy, style, script, data = parts(text)
    for name, content in (("style-src", style), ("script-src", script)):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{name} 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert not re.search(r"https?://|@import|url\(|innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", text)
    assert [each["kind"] for each in data["records"]] == [
        "tree", "samples", "scored", "prm", "preference", "sft", "problem", "tree",
    ]  # fmt: skip
    tree = data["records"][0]
    assert tree["paths"][0] == {"nodes": [0, 1, 3], "correct": True, "labels": [None, 1.0, 1.0]}
    assert tree["ends"][0] == 3
    assert tree["states"] == ["", "", "", "correct", "wrong", "wrong", "reflect", "correct", "open"]


@pytest.mark.parametrize(
    "text", [HOSTILE, "</script><script>owned()</script>", "<!--<script>", "]]>", "\u2028\u2029&lt;{title}{0}%s"]
)
def test_no_record_breaks_out_of_its_data(text: str) -> None:
    made = page([read(obj, HERE) for obj in poisoned(text)], title=text)
    _, _, _, data = parts(made)
    assert data["records"][0]["nodes"][1]["text"] == text
    assert data["records"][0]["question"] == text
    assert made.lower().count("<script") == 2
    assert made.count("<!--") == 0


def test_the_command_writes_one_page(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "t.jsonl", [record(f"q{i}") for i in range(4)])
    out = tmp_path / "page.html"
    ran = view(file, "--html", out, "--limit", "3").ok()
    assert ran.stdout == ""
    assert "3 records" in ran.stderr
    assert "there are more" in ran.stderr
    *_, data = parts(out.read_text())
    assert (data["title"], data["more"], len(data["records"])) == ("t.jsonl", True, 3)
    assert view(file, "--html", "-").ok().stdout.startswith("<!doctype html>")
    for args, message in (
        ((file, "--html", out), "is there already"),
        ((file, "--html", out, "--full"), "--full is for the terminal"),
    ):
        ran = view(*args)
        assert (ran.rc, ran.stdout) == (2, "")
        assert message in ran.stderr
    assert view(file, "--html", out, "--restart", "--id", "q2").rc == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "t.jsonl"]


class Browser:
    """Headless Chromium, told what to do through its debugging pipe: descriptors 3 and 4, messages ended by NUL."""

    def __init__(self, program: str, folder: Path) -> None:
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        flags = (
            "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync "
            "--window-size=1300,900 --remote-debugging-pipe"
        )
        command = f'exec "$0" {flags} --user-data-dir="$1" 3<&{to_browser} 4>&{from_browser}'
        self._child = subprocess.Popen(
            ["bash", "-c", command, program, str(folder / "profile")],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._rest = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable", session=True)

    def call(self, method: str, session: bool = False, **params: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        os.write(self._write, json.dumps(message | ({"sessionId": self._session} if session else {})).encode() + b"\0")
        while True:
            while b"\0" not in self._rest:
                assert select.select([self._read], [], [], 60)[0], f"no answer to {method}"
                chunk = os.read(self._read, 1 << 20)
                assert chunk, "the browser is gone"
                self._rest += chunk
            line, _, self._rest = self._rest.partition(b"\0")
            found: dict[str, Any] = json.loads(line)
            if found.get("id") == self._number:
                assert "error" not in found, found
                result: dict[str, Any] = found["result"]
                return result
            self.events.append(found)

    def open(self, path: Path) -> None:
        self.events.clear()
        self.call("Page.navigate", session=True, url=path.as_uri())
        self.run("new Promise((done) => document.readyState === 'complete' ? done() : addEventListener('load', done))")

    def run(self, code: str) -> Any:
        """The value of an expression on the page."""
        options = {"returnByValue": True, "awaitPromise": True}
        found = self.call("Runtime.evaluate", session=True, expression=code, **options)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def key(self, name: str) -> None:
        for kind in ("keyDown", "keyUp"):
            text = {"text": name} if len(name) == 1 and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", session=True, type=kind, key=name, **text)

    def complaints(self) -> list[dict[str, Any]]:
        """Errors of the script, refusals by the policy, and requests for anything but the file."""
        self.run("1")
        bad = [e for e in self.events if e.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded")]
        asked = [e for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return bad + [e for e in asked if not e["params"]["request"]["url"].startswith("file:")]

    def close(self) -> None:
        self._child.terminate()
        self._child.wait(20)
        os.close(self._write)
        os.close(self._read)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if found is None:
        pytest.skip("no Chromium here")
    running = Browser(found, tmp_path_factory.mktemp("browser"))
    yield running
    running.close()


def opened(browser: Browser, folder: Path, objects: list[dict[str, Any]]) -> Browser:
    file = folder / "page.html"
    records: list[Problem] = [read(obj, HERE) for obj in objects]
    file.write_text(page(records, title="t.jsonl"), encoding="utf-8")
    browser.open(file)
    return browser


SHOWN = "[...document.querySelectorAll('.row:not(.heads)')].filter((row) => !row.hidden)"
STEPS = f"{SHOWN}.map((row) => row.querySelector('.say').textContent)"


def type_into(selector: str, value: str) -> str:
    kind = "change" if selector.startswith("select") else "input"
    return (
        f"{{ const e = document.querySelector({selector!r}); e.value = {value!r}; "
        f"e.dispatchEvent(new Event({kind!r})); }}"
    )


def test_in_a_browser_the_selected_node_is_on_screen_at_once(browser: Browser, tmp_path: Path) -> None:
    """It was below the fold. Also: heads stand over their columns, and a deep step has as much room as one at 8."""
    width, height = 1280, 800
    nodes = [node(-1, 0, "root", "Go.", 0.5)]
    nodes += [node(i, i + 1, "reason", "deep " * 40, 0.5) for i in range(40)]
    nodes.append(node(40, 41, "finish", "The answer is B.", 1.0, "correct"))
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.call("Emulation.setDeviceMetricsOverride", session=True, **size)
    opened(browser, tmp_path, [record(nodes=nodes, question="A man of 67 has a fever. " * 60)])
    box = "(e) => { const r = e.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; }"
    left, top, right, bottom = browser.run(f"({box})(document.querySelector('.row[aria-selected=true]'))")
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    ends = f"[...document.querySelectorAll('.row')].map((row) => [...row.children].map((e) => ({box})(e)[2]))"
    heads, *rows = browser.run(ends)
    assert all(row[-3:] == pytest.approx(heads[-3:], abs=1) for row in rows)
    assert len(set(browser.run("[...document.querySelectorAll('.say')].slice(8, 41).map((e) => e.clientWidth)"))) <= 3
    assert browser.complaints() == []


def test_in_a_browser_a_tree_folds_and_filters_and_the_keys_work(browser: Browser, tmp_path: Path) -> None:
    """It begins with the best trajectory: its steps with their state, label and value. Down and right open a branch and
    go into it, left goes back and folds, `n` takes the next record, `/` finds."""
    opened(browser, tmp_path, [record("one"), record("two")])
    assert len(browser.run(STEPS)) == 9
    texts = "(tr) => [...tr.cells].slice(2).map((td) => td.innerText)"
    cells = f"[...document.querySelectorAll('.detail tbody tr')].map({texts})"
    assert browser.run(cells) == [["", "–", "0.50"], ["", "1", "0.90"], ["✓", "1", "1.00"]]
    browser.run(type_into(".tools input[type=search]", "BETA"))
    assert browser.run(STEPS)[1:] == ["The drug slows the heart.", "So it is a beta blocker. The answer is B."]
    assert browser.run("document.querySelector('.say mark').textContent") == "beta"
    assert browser.run("document.querySelector('.count').textContent") == "1 of 9 nodes"
    browser.run(type_into(".tools input[type=search]", ""))
    for state, found in (("wrong", 2), ("reflect", 1), ("open", 1)):
        browser.run(type_into("select[aria-label=State]", state))
        assert browser.run(f"{SHOWN}.filter((row) => !row.classList.contains('faint')).length") == found
    browser.run(type_into("select[aria-label=State]", ""))
    browser.run("document.querySelector('.row:not(.heads)').click()")
    at = "document.querySelector('.row[aria-selected=true] .say').textContent"
    for key, text in (
        ("ArrowDown", "The drug slows the heart."),
        ("ArrowRight", "So it is a beta blocker. The answer is B."),
        ("ArrowLeft", "The drug slows the heart."),
        ("ArrowLeft", "The drug slows the heart."),
        ("ArrowDown", "The drug thins the blood."),
        ("End", "It is given by mouth."),
        ("Home", "Let's break down this problem step by step."),
    ):
        browser.key(key)
        assert browser.run(at) == text, key
    assert len(browser.run(STEPS)) == 7
    browser.run(f"{SHOWN}[2].querySelector('.twist').click()")
    assert len(browser.run(STEPS)) == 3
    browser.key("n")
    assert browser.run("document.querySelector('h1').textContent") == "two"
    browser.key("/")
    assert browser.run("document.activeElement.placeholder") == "Search the steps"
    assert browser.complaints() == []


def test_in_a_browser_every_kind_has_a_view(browser: Browser, tmp_path: Path) -> None:
    opened(browser, tmp_path, EVERY)
    shown = []
    for index in range(len(EVERY)):
        browser.run(f"document.querySelectorAll('.records button')[{index}].click()")
        shown.append(browser.run("document.querySelector('main').innerText"))
    assert "pass rate 0.33" in shown[1]
    assert "selected" in shown[2]
    assert "selected by min-max" in shown[2]
    assert "0.25" in shown[3]
    assert "It slows the heart." in shown[4]
    assert "It is a diuretic." in shown[4]
    assert "smallest value 0.75" in shown[5]
    assert not [text for text in shown if "undefined" in text or "false" in text or "NaN" in text]
    browser.run("document.querySelectorAll('.records button')[2].click()")
    browser.run(type_into("select[aria-label=Order]", "score"))
    scores = "[...document.querySelectorAll('details.answer summary .meter')].map((e) => e.textContent)"
    assert browser.run(scores) == ["0.80", "0.60", "0.50", "0.40"]
    assert browser.complaints() == []
