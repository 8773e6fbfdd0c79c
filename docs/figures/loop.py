"""Draw the loop of README as docs/figures/loop.svg: `python docs/figures/loop.py`. No library is needed.

Boxes are commands, words on arrows are the records that flow. Colours follow the reader's light or dark theme.
"""

from __future__ import annotations

from pathlib import Path

STYLE = """
text { font: 15px system-ui, sans-serif; fill: #1f2328; text-anchor: middle }
.name { font: 600 16px ui-monospace, Menlo, Consolas, monospace }
.small { font-size: 12.5px; fill: #59636e }
.flow { font-size: 12.5px; fill: #0b5394 }
rect { fill: #f6f8fa; stroke: #59636e; stroke-width: 1.2 }
rect.model { fill: #e8f1fb; stroke: #0b5394 }
path { fill: none; stroke: #59636e; stroke-width: 1.6 }
path.back { stroke: #0b5394; stroke-dasharray: 5 4 }
marker path { fill: #59636e; stroke: none }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .small { fill: #9198a1 } .flow { fill: #79c0ff }
  rect { fill: #151b23; stroke: #9198a1 } rect.model { fill: #10243e; stroke: #79c0ff }
  path { stroke: #9198a1 } path.back { stroke: #79c0ff } marker path { fill: #9198a1 }
}
"""

WIDTH, HEIGHT = 1000, 330
BOX = 150, 62  # width and height of a box

# name, what it does, column, row
BOXES = {
    "sample": ("draws answers,", "keeps hard questions", 85, 90),
    "search": ("grows a tree of steps,", "valued by rollouts", 305, 90),
    "label": ("labels of steps,", "right paths, pairs", 515, 90),
    "train-policy": ("SFT, then DPO", "", 735, 90),
    "train-prm": ("a process reward", "model", 735, 280),
    "bon": ("scores N answers,", "chooses or votes", 885, 185),
    "eval": ("accuracy with", "intervals", 650, 185),
}
ARROWS = [
    ("problems", "M160 90 H228", 194, 82),
    ("trees", "M380 90 H438", 410, 82),
    ("sft, pairs", "M590 90 H658", 625, 82),
    ("rows of steps", "M515 121 V280 H658", 586, 272),
    ("its answers", "M810 90 H850 Q885 90 885 152", 868, 82),
    ("reward model", "M810 280 H850 Q885 280 885 218", 862, 300),
    ("scores", "M810 185 H727", 768, 177),
]


def box(name: str, first: str, second: str, x: int, y: int) -> str:
    width, height = BOX
    kind = ' class="model"' if name.startswith("train") else ""
    return (
        f'<rect{kind} x="{x - width // 2}" y="{y - height // 2}" width="{width}" height="{height}" rx="8"/>'
        f'<text class="name" x="{x}" y="{y - 9}">{name}</text>'
        f'<text class="small" x="{x}" y="{y + 8}">{first}</text>'
        f'<text class="small" x="{x}" y="{y + 23}">{second}</text>'
    )


def arrow(words: str, path: str, x: int, y: int) -> str:
    label = f'<text class="flow" x="{x}" y="{y}">{words}</text>' if words else ""
    return f'<path d="{path}" marker-end="url(#head)"/>{label}'


def figure() -> str:
    """The whole picture."""
    back = '<path class="back" d="M735 59 V28 H85 V56" marker-end="url(#head)"/>'
    back += '<text class="flow" x="410" y="21">the better policy searches in the next iteration</text>'
    parts = [arrow(*each) for each in ARROWS] + [back]
    parts += [box(name, *each) for name, each in BOXES.items()]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'aria-label="The loop: sample, search, label, train-policy and train-prm, bon, eval">'
        f"<style>{STYLE}</style>"
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z"/></marker></defs>' + "\n".join(parts) + "</svg>\n"
    )


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(figure(), encoding="utf-8")
