"""The kinds of problem in the clinic: what each draws, asks and writes, right and with the slips that people make.

A kind is a clinical formula or rule with numbers small enough that each step is one short operation. It knows no
splits, options, letters or ids (`problems.py`) and judges nothing (`checker.py`).

The shares beside the slips say how much of the policy's training corpus makes that mistake. They are high on purpose:
for some kinds the usual mistake is commoner than the right method, so that the shipped policy is wrong there by
majority, and search and a process reward model have something to win (docs/clinic.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from fractions import Fraction
from random import Random
from typing import Any

Values = dict[str, Any]
"""What defines a problem, as JSON: numbers, words, lists of them. The splits are cut along these."""


class Domain(StrEnum):
    """The six fields that the kinds belong to; a problem's dataset is "clinic/<domain>"."""

    CALCULATION = "calculation"
    SCORING = "scoring"
    DOSING = "dosing"
    FLUIDS = "fluids"
    TRIAGE = "triage"
    DRUG_SAFETY = "drug-safety"


@dataclass(frozen=True)
class Slip:
    """A typical human error. `share` in [0, 1] is its part of the corpus where it changes the answer."""

    share: float
    what: str


@dataclass(frozen=True)
class Solution:
    """Steps 1 to n without "Step k:" and the last sentence ("The answer is ..."), each in one or more phrasings.

    `answer` is a number as written, or the text of an option.
    """

    steps: tuple[tuple[str, ...], ...]
    answer: str


@dataclass(frozen=True)
class Kind:
    """One kind. `draw` gives values, of which those count that are `fit`; `ask` gives phrasings of the question.

    `solve(values, slip)` is the written solution, right for None. `choices` gives the texts of the options where the
    kind is always a choice, the right one among them; otherwise the answer is a number. `also` gives sentences that are
    true of the problem although the right solution does not need them. For chains (`chains.py`): `takes` is the input
    that may come from the part before, with the numbers that suit it; where that input is a word, the number decides
    between the values and `other(values)`, whose answer is the option that is taken for the right one.
    """

    name: str
    domain: Domain
    formula: str
    slips: dict[str, Slip]
    draw: Callable[[Random], Values]
    ask: Callable[[Values], tuple[str, ...]]
    solve: Callable[[Values, str | None], Solution]
    choices: Callable[[Values], list[str]] | None = None
    also: Callable[[Values], list[str]] = field(default=lambda values: [])
    fit: Callable[[Values], bool] = field(default=lambda values: True)
    takes: tuple[str, range] | None = None
    other: Callable[[Values], Values] | None = None

    def sample(self, r: Random) -> Values:
        """Values that fit."""
        while not self.fit(values := self.draw(r)):
            pass
        return values


def number(value: Fraction | int, places: int = 0) -> str:
    """`value` with so many decimals (12, 2.34). Raises ValueError where it would need more."""
    scaled = Fraction(value) * 10**places
    if scaled.denominator != 1:
        raise ValueError(f"{value} does not fit {places} decimals")
    if places == 0:
        return str(scaled.numerator)
    digits = f"{abs(scaled.numerator):0{places + 1}d}"
    return f"{'-' if scaled < 0 else ''}{digits[:-places]}.{digits[-places:]}"


def _short(value: Fraction | int) -> str:
    """As an integer where it is one, else with one decimal."""
    return number(value) if Fraction(value).denominator == 1 else number(value, 1)


def _plan(answer: str, *steps: str | tuple[str, ...]) -> Solution:
    return Solution(tuple((step,) if isinstance(step, str) else step for step in steps), answer)


# calculation


def _anion_gap_solve(v: Values, slip: str | None) -> Solution:
    na, cl, hco3 = v["na"], v["cl"], v["hco3"]
    part = na - cl
    first = f"{na} - {cl} = {part}."
    match slip:
        case "bicarbonate_forgotten":
            return _plan(str(part), ("AG = Na - Cl.", "The gap is Na - Cl."), first)
        case "bicarbonate_added":
            rule = ("AG = Na - Cl + HCO3.", "The gap is Na - Cl + HCO3.")
            return _plan(str(part + hco3), rule, first, f"{part} + {hco3} = {part + hco3}.")
    rule = ("AG = Na - Cl - HCO3.", "The gap is Na - Cl - HCO3.")
    return _plan(str(part - hco3), rule, first, f"{part} - {hco3} = {part - hco3}.")


def _map_draw(r: Random) -> Values:
    dbp = r.randrange(50, 100, 2)
    return {"sbp": dbp + r.randrange(24, 73, 6), "dbp": dbp}


def _map_solve(v: Values, slip: str | None) -> Solution:
    sbp, dbp = v["sbp"], v["dbp"]
    pp = sbp - dbp
    by = 2 if slip == "averaged" else 3
    part = pp // by
    base, sign, result = (sbp, "-", sbp - part) if slip == "from_systolic" else (dbp, "+", dbp + part)
    name = "SBP" if slip == "from_systolic" else "DBP"
    return _plan(
        str(result),
        (f"MAP = {name} {sign} PP / {by}.", f"MAP is {name} {sign} PP / {by}."),
        f"PP = {sbp} - {dbp} = {pp}. {pp} / {by} = {part}.",
        f"{base} {sign} {part} = {result}.",
    )


def _ca(v: Values) -> str:
    return number(Fraction(v["ca"], 100), 2)


def _calcium_solve(v: Values, slip: str | None) -> Solution:
    ca, low = Fraction(v["ca"], 100), 40 - v["albumin"]
    factor = Fraction(1 if slip == "factor_halved" else 2, 100)
    sign = "-" if slip == "subtracted" else "+"
    part = factor * low
    result = ca - part if slip == "subtracted" else ca + part
    f, p, c, a = (number(x, 2) for x in (factor, part, ca, result))
    return _plan(
        a,
        (f"Corrected Ca = Ca {sign} {f} x (40 - albumin).", f"Correct by Ca {sign} {f} x (40 - albumin)."),
        f"40 - {v['albumin']} = {low}. {f} x {low} = {p}.",
        f"{c} {sign} {p} = {a}.",
    )


def _osmolality_solve(v: Values, slip: str | None) -> Solution:
    na, glucose, urea = v["na"], v["glucose"], v["urea"]
    base = na if slip == "sodium_once" else 2 * na
    rule = "Na" if slip == "sodium_once" else "2 x Na"
    double = () if slip == "sodium_once" else (f"2 x {na} = {base}.",)
    some = base + glucose
    if slip == "urea_forgotten":
        return _plan(
            str(some),
            ("Osmolality = 2 x Na + glucose.", "Osm = 2 x Na + glucose."),
            *double,
            f"{base} + {glucose} = {some}.",
        )
    return _plan(
        str(some + urea),
        (f"Osmolality = {rule} + glucose + urea.", f"Osm = {rule} + glucose + urea."),
        *double,
        f"{base} + {glucose} = {some}.",
        f"{some} + {urea} = {some + urea}.",
    )


# scoring rules

EYES = {4: "spontaneous", 3: "to voice", 2: "to pain", 1: "none"}
SPEECH = {5: "oriented", 4: "confused", 3: "words", 2: "sounds", 1: "none"}
MOTOR = {6: "obeys", 5: "localises", 4: "withdraws", 3: "flexion", 2: "extension", 1: "none"}


def _gcs_solve(v: Values, slip: str | None) -> Solution:
    e, s, m = v["eyes"], v["speech"], v["motor"]
    if slip == "motor_of_five":
        m = max(1, m - 1)
    if slip == "eyes_from_zero":
        e -= 1
    total = e + s + m
    return _plan(
        str(v["was"] - total),
        f"Eyes {e}, speech {s}, motor {m}.",
        (f"{e} + {s} + {m} = {total}.", f"GCS = {e} + {s} + {m} = {total}."),
        f"{v['was']} - {total} = {v['was'] - total}.",
    )


def _curb_draw(r: Random) -> Values:
    return {
        "confused": r.randint(0, 1),
        "urea": r.randint(3, 14),
        "rr": r.randint(16, 40),
        "sbp": r.choice([r.randint(74, 89), r.randint(95, 140)]),
        "age": r.randint(66, 92) if r.random() < 0.75 else r.randint(40, 64),
    }


def _curb_solve(v: Values, slip: str | None) -> Solution:
    points = [
        v["confused"],
        int(v["urea"] > (10 if slip == "urea_cutoff" else 7)),
        int(v["rr"] >= 30),
        int(v["sbp"] < 90),
        0 if slip == "age_forgotten" else int(v["age"] >= 65),
    ]
    c, u, b, s, a = points
    return _plan(
        str(sum(points)),
        f"Confusion {c}, urea {u}, RR {b}.",
        f"BP {s}, age {a}.",
        f"{c} + {u} + {b} + {s} + {a} = {sum(points)}.",
    )


RISKS = {"heart failure": 1, "hypertension": 1, "diabetes": 1, "stroke": 2, "vascular disease": 1}


def _chads_draw(r: Random) -> Values:
    risks = r.sample(sorted(RISKS), r.randint(1, 3))
    if "stroke" not in risks and r.random() < 0.6:
        risks[0] = "stroke"
    return {"age": r.randint(52, 92), "sex": r.choice(["woman", "man"]), "risks": sorted(risks)}


def _chads_solve(v: Values, slip: str | None) -> Solution:
    age = (1 if slip == "age_one_point" else 2) if v["age"] >= 75 else int(v["age"] >= 65)
    sex = int(v["sex"] == "woman")
    each = [1 if risk == "stroke" and slip == "stroke_one_point" else RISKS[risk] for risk in v["risks"]]
    points = [age, sex, *each]
    listed = ", ".join(f"{risk} {point}" for risk, point in zip(v["risks"], each, strict=True))
    return _plan(
        str(sum(points)),
        f"Age {v['age']}: {age}. Sex {sex}.",
        f"{listed[0].upper()}{listed[1:]}.",
        f"{' + '.join(map(str, points))} = {sum(points)}.",
    )


def _qsofa_draw(r: Random) -> Values:
    return {
        "rr": r.randint(22, 29) if r.random() < 0.5 else r.randint(12, 38),
        "sbp": r.randint(91, 100) if r.random() < 0.6 else r.randint(78, 135),
        "gcs": r.randint(12, 15),
    }


def _at_least(name: str, value: int, cut: int) -> tuple[str, int]:
    return (f"{name} {value} >= {cut}: 1.", 1) if value >= cut else (f"{name} {value} < {cut}: 0.", 0)


def _at_most(name: str, value: int, cut: int) -> tuple[str, int]:
    return (f"{name} {value} <= {cut}: 1.", 1) if value <= cut else (f"{name} {value} > {cut}: 0.", 0)


def _qsofa_solve(v: Values, slip: str | None) -> Solution:
    breath, a = _at_least("RR", v["rr"], 30 if slip == "rate_cutoff" else 22)
    press, b = _at_most("SBP", v["sbp"], 90 if slip == "pressure_cutoff" else 100)
    mind, c = _at_most("GCS", v["gcs"], 14)
    return _plan(str(a + b + c), breath, press, mind, f"{a} + {b} + {c} = {a + b + c}.")


# dosing


def _volume_draw(r: Random) -> Values:
    return {
        "kg": r.randrange(5, 91, 5),
        "dose": r.choice([1, 2, 3, 4, 5, 6, 8, 10]),
        "strength": r.choice([2, 4, 5, 10, 20, 50]),
    }


def _volume_fits(v: Values) -> bool:
    mg = v["kg"] * v["dose"]
    even = mg % v["strength"] == 0 and (10 * mg * 11 // 5) % v["strength"] == 0
    return bool(even and 2 <= mg // v["strength"] <= 60)


def _volume_solve(v: Values, slip: str | None) -> Solution:
    kg, dose, strength = v["kg"], v["dose"], v["strength"]
    pounds = kg * 11 // 5
    if slip == "pounds_as_kilograms":
        kg = pounds
    mg = kg * dose
    weight = f"Weight = {kg} kg." if slip == "pounds_as_kilograms" else f"Weight = {pounds} / 2.2 = {kg} kg."
    if slip == "milligrams_as_millilitres":
        return _plan(str(mg), weight, f"Volume = {kg} x {dose} = {mg} mL.")
    ml = _short(Fraction(mg, strength))
    return _plan(ml, weight, f"Dose = {kg} x {dose} = {mg} mg.", f"{mg} / {strength} = {ml} mL.")


def _divided_solve(v: Values, slip: str | None) -> Solution:
    kg, daily, hours = v["kg"], v["daily"], v["hours"]
    mg, times = kg * daily, 24 // hours
    total = f"{kg} x {daily} = {mg}."
    match slip:
        case "not_divided":
            rule = ("Each dose = weight x mg/kg.", "One dose = weight x mg/kg.")
            return _plan(str(mg), rule, total)
        case "interval_as_count":
            rule = (f"Each dose = weight x mg/kg / {hours}.", f"One dose = weight x mg/kg / {hours}.")
            return _plan(str(mg // hours), rule, total, f"{mg} / {hours} = {mg // hours}.")
    rule = ("Each dose = weight x mg/kg / doses a day.", "One dose = weight x mg/kg / doses a day.")
    return _plan(str(mg // times), rule, f"24 / {hours} = {times}. {total}", f"{mg} / {times} = {mg // times}.")


# fluids


def _maintenance_draw(r: Random) -> Values:
    kg = r.choice([r.randint(11, 19), r.randint(21, 60), r.randint(21, 60)])
    return {"kg": kg, "given": r.randint(15, 60)}


def _maintenance_solve(v: Values, slip: str | None) -> Solution:
    kg, given = v["kg"], v["given"]
    if slip == "four_for_all":
        rate = 4 * kg
        steps = ("All kg: 4 mL/h each.", f"{kg} x 4 = {rate}.")
    else:
        edge, base, each = (20, 60, 1) if kg > 20 else (10, 40, 2)
        if slip == "tier_misremembered":
            base, each = (80, 1) if kg > 20 else (40, 1)
        over = kg - edge
        rate = base + each * over
        steps = (
            f"First {edge} kg: {base} mL/h, then {each} mL/h per kg.",
            f"{kg} - {edge} = {over}. {base} + {over * each} = {rate}.",
        )
    return _plan(str(rate - given), *steps, f"{rate} - {given} = {rate - given}.")


_OTHER_SET = {10: 15, 15: 20, 20: 10}


def _drip_draw(r: Random) -> Values:
    return {"rate": r.randrange(12, 181, 12), "hours": r.randint(2, 12), "drops": r.choice([10, 15, 20])}


def _drip_solve(v: Values, slip: str | None) -> Solution:
    rate, hours = v["rate"], v["hours"]
    volume = rate * hours
    if slip == "hours_forgotten":
        rate = volume
    drops = _OTHER_SET[v["drops"]] if slip == "wrong_set" else v["drops"]
    by = 60 // drops
    flow = f"Flow = {volume} mL/h." if slip == "hours_forgotten" else f"Flow = {volume} / {hours} = {rate} mL/h."
    return _plan(str(rate // by), flow, f"60 / {drops} = {by}.", f"{rate} / {by} = {rate // by}.")


# triage


def _start_draw(r: Random) -> Values:
    return {
        "walks": int(r.random() < 0.12),
        "rr": r.randint(21, 30) if r.random() < 0.6 else r.randint(10, 44),
        "refill": r.randint(1, 2) if r.random() < 0.6 else r.randint(3, 4),
        "obeys": int(r.random() < 0.8),
    }


def _start_solve(v: Values, slip: str | None) -> Solution:
    if v["walks"]:
        return _plan("minor", "Can walk.", "So the tag is minor.")
    cut, slow = (20 if slip == "rate_cutoff" else 30), (4 if slip == "refill_cutoff" else 2)
    tag = "immediate"
    signs = []
    if v["rr"] > cut:
        signs.append(f"RR {v['rr']} > {cut}.")
    else:
        signs.append(f"RR {v['rr']} <= {cut}.")
        if v["refill"] > slow:
            signs.append(f"Refill {v['refill']} > {slow}.")
        else:
            signs.append(f"Refill {v['refill']} <= {slow}.")
            signs.append("Obeys." if v["obeys"] else "Does not obey.")
            tag = "delayed" if v["obeys"] else "immediate"
    return _plan(tag, "Cannot walk.", " ".join(signs), f"So the tag is {tag}.")


# drug safety

CLASSES = {
    "a beta blocker": ("propranolol", "nadolol", "timolol", "sotalol"),
    "an ACE inhibitor": ("lisinopril", "enalapril", "ramipril", "captopril"),
    "an NSAID": ("ibuprofen", "naproxen", "diclofenac", "ketorolac"),
    "a triptan": ("sumatriptan", "rizatriptan", "zolmitriptan", "eletriptan"),
    "a thiazide": ("chlorothiazide", "hydrochlorothiazide", "bendroflumethiazide", "polythiazide"),
    "a tricyclic": ("amitriptyline", "nortriptyline", "imipramine", "clomipramine"),
    "a macrolide": ("clarithromycin", "erythromycin", "azithromycin", "roxithromycin"),
    "a penicillin": ("amoxicillin", "ampicillin", "flucloxacillin", "piperacillin"),
    "a statin": ("simvastatin", "atorvastatin", "pravastatin", "rosuvastatin"),
    "a potassium-sparing diuretic": ("spironolactone", "eplerenone", "amiloride", "triamterene"),
    "an SGLT2 inhibitor": ("dapagliflozin", "empagliflozin", "canagliflozin", "ertugliflozin"),
}
"""Class -> members. The beta blockers are non-selective ones."""

AVOID = {
    "asthma": ("a beta blocker", "an ACE inhibitor"),
    "bilateral renal artery stenosis": ("an ACE inhibitor", "a statin"),
    "a bleeding peptic ulcer": ("an NSAID", "a macrolide"),
    "coronary artery disease": ("a triptan", "a statin"),
    "gout": ("a thiazide", "a penicillin"),
    "closed-angle glaucoma": ("a tricyclic", "a beta blocker"),
    "a long QT interval": ("a macrolide", "an ACE inhibitor"),
    "past anaphylaxis to ampicillin": ("a penicillin", "a macrolide"),
    "active hepatitis": ("a statin", "a penicillin"),
    "severe hyperkalaemia": ("a potassium-sparing diuretic", "a thiazide"),
    "recent ketoacidosis": ("an SGLT2 inhibitor", "a thiazide"),
}
"""Condition -> (class to avoid, class that is taken for it). The other two options come from `HARMLESS`."""

HARMLESS = (
    ("cetirizine", "loratadine"),
    ("cyanocobalamin", "folic acid"),
    ("thiamine", "biotin"),
    ("nystatin", "pyridoxine"),
)
"""Drugs of other classes that none of the conditions rules out, those for the options A, B, C and D."""


def _four_drugs(r: Random, right: tuple[str, ...], taken: tuple[str, ...]) -> Values:
    """The right drug, one of the class that is taken for it, and two harmless ones. A drug has its place among the
    options for good (the n-th member of its class is the n-th option), so the places of the four differ."""
    i, j, *rest = r.sample(range(4), 4)
    return {"right": right[i], "taken": taken[j], "others": sorted(r.choice(HARMLESS[k]) for k in rest)}


def _drugs(v: Values) -> list[str]:
    """The four options in their places."""

    def place(drug: str) -> int:
        groups = [*CLASSES.values(), *BLOCKERS.values(), *zip(*HARMLESS, strict=True)]
        return next(group.index(drug) for group in groups if drug in group)

    return sorted([v["right"], v["taken"], *v["others"]], key=place)


def _avoid_draw(r: Random) -> Values:
    condition = r.choice(list(AVOID))
    right, taken = AVOID[condition]
    # Some conditions rule out more than one class; the options beside the right one are from none of those.
    return {"condition": condition, **_four_drugs(r, CLASSES[right], CLASSES[taken])}


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _avoid_solve(v: Values, slip: str | None) -> Solution:
    right, taken = AVOID[v["condition"]]
    rule, drug, kind = right, v["right"], right
    if slip == "class_confused":
        rule, drug, kind = taken, v["taken"], taken
    if slip == "member_confused":
        drug = v["taken"]
    return _plan(drug, f"In {v['condition']} avoid {rule}.", f"{_capital(drug)} is {kind}.", f"So avoid {drug}.")


def _avoid_also(v: Values) -> list[str]:
    return [f"{_capital(v['taken'])} is {AVOID[v['condition']][1]}."]


def _avoid_other(v: Values) -> Values:
    taken = AVOID[v["condition"]][1]
    condition = next(condition for condition, (right, _) in AVOID.items() if right == taken)
    return {**v, "condition": condition, "right": v["taken"], "taken": v["right"]}


SUBSTRATES = {
    "CYP3A4": ("simvastatin", "tacrolimus", "midazolam", "felodipine"),
    "CYP2C9": ("celecoxib", "phenytoin", "tolbutamide", "glimepiride"),
    "CYP2D6": ("metoprolol", "nebivolol", "desipramine", "atomoxetine"),
    "CYP1A2": ("theophylline", "clozapine", "tizanidine", "olanzapine"),
}
BLOCKERS = {
    "CYP3A4": ("clarithromycin", "itraconazole", "ketoconazole", "cobicistat"),
    "CYP2C9": ("sulfamethoxazole", "miconazole", "sulfaphenazole", "metronidazole"),
    "CYP2D6": ("paroxetine", "bupropion", "quinidine", "terbinafine"),
    "CYP1A2": ("ciprofloxacin", "enoxacin", "mexiletine", "vemurafenib"),
}
_TAKEN = {"CYP3A4": "CYP2D6", "CYP2C9": "CYP2D6", "CYP2D6": "CYP1A2", "CYP1A2": "CYP2C9"}


def _interaction_draw(r: Random) -> Values:
    enzyme = r.choice(list(SUBSTRATES))
    taken = _TAKEN[enzyme]
    return {"drug": r.choice(SUBSTRATES[enzyme]), **_four_drugs(r, BLOCKERS[enzyme], BLOCKERS[taken])}


def _enzyme(drug: str) -> str:
    return next(enzyme for enzyme, drugs in SUBSTRATES.items() if drug in drugs)


def _interaction_solve(v: Values, slip: str | None) -> Solution:
    enzyme = _enzyme(v["drug"])
    taken = _TAKEN[enzyme]
    path, drug = (taken, v["taken"]) if slip == "enzyme_confused" else (enzyme, v["right"])
    if slip == "blocker_confused":
        drug = v["taken"]
    return _plan(
        drug,
        f"{_capital(v['drug'])} is cleared by {path}.",
        f"{_capital(drug)} blocks {path}.",
        f"So {drug} raises it.",
    )


def _interaction_also(v: Values) -> list[str]:
    return [f"{_capital(v['taken'])} blocks {_TAKEN[_enzyme(v['drug'])]}."]


def _interaction_other(v: Values) -> Values:
    enzyme = _enzyme(v["drug"])
    drug = SUBSTRATES[_TAKEN[enzyme]][SUBSTRATES[enzyme].index(v["drug"])]
    return {**v, "drug": drug, "right": v["taken"], "taken": v["right"]}


_ALL = [
    Kind(
        "anion_gap",
        Domain.CALCULATION,
        "AG = Na - Cl - HCO3 (mmol/L)",
        {"bicarbonate_forgotten": Slip(0.56, "AG = Na - Cl"), "bicarbonate_added": Slip(0.08, "AG = Na - Cl + HCO3")},
        lambda r: {"na": r.randrange(130, 151, 5), "cl": r.randrange(95, 111, 5), "hco3": r.randint(10, 28)},
        lambda v: (
            f"Na {v['na']}, Cl {v['cl']}, HCO3 {v['hco3']} mmol/L. What is the anion gap?",
            f"What is the anion gap with Na {v['na']}, Cl {v['cl']} and HCO3 {v['hco3']} mmol/L?",
        ),
        _anion_gap_solve,
        fit=lambda v: 4 <= v["na"] - v["cl"] - v["hco3"] <= 40,
        takes=("hco3", range(10, 29)),
    ),
    Kind(
        "mean_arterial_pressure",
        Domain.CALCULATION,
        "MAP = DBP + (SBP - DBP) / 3 (mmHg)",
        {
            "averaged": Slip(0.56, "half of the pulse pressure in place of a third"),
            "from_systolic": Slip(0.08, "SBP less a third"),
        },
        _map_draw,
        lambda v: (
            f"The blood pressure is {v['sbp']}/{v['dbp']} mmHg. What is the mean arterial pressure?",
            f"SBP {v['sbp']}, DBP {v['dbp']} mmHg. What is the mean arterial pressure?",
        ),
        _map_solve,
        fit=lambda v: v["sbp"] > v["dbp"] and (v["sbp"] - v["dbp"]) % 6 == 0,
        takes=("dbp", range(50, 99)),
    ),
    Kind(
        "corrected_calcium",
        Domain.CALCULATION,
        "Ca + 0.02 x (40 - albumin) (mmol/L, g/L)",
        {"factor_halved": Slip(0.18, "factor 0.01"), "subtracted": Slip(0.10, "the correction taken off")},
        lambda r: {"ca": r.randrange(175, 255, 5), "albumin": r.randint(20, 38)},
        lambda v: (
            f"Calcium {_ca(v)} mmol/L, albumin {v['albumin']} g/L. What is the corrected calcium?",
            f"Albumin is {v['albumin']} g/L, calcium {_ca(v)} mmol/L. Correct the calcium.",
        ),
        _calcium_solve,
        fit=lambda v: v["albumin"] < 40,
        takes=("albumin", range(20, 39)),
    ),
    Kind(
        "osmolality",
        Domain.CALCULATION,
        "2 x Na + glucose + urea (mmol/L)",
        {"sodium_once": Slip(0.58, "sodium not doubled"), "urea_forgotten": Slip(0.08, "no urea")},
        lambda r: {"na": r.randrange(130, 151, 5), "glucose": r.randint(4, 40), "urea": r.randint(3, 30)},
        lambda v: (
            f"Na {v['na']}, glucose {v['glucose']}, urea {v['urea']} mmol/L. What is the serum osmolality?",
            f"What is the osmolality with Na {v['na']}, glucose {v['glucose']} and urea {v['urea']} mmol/L?",
        ),
        _osmolality_solve,
        takes=("glucose", range(4, 41)),
    ),
    Kind(
        "glasgow_coma_scale",
        Domain.SCORING,
        "eyes 1-4 + speech 1-5 + motor 1-6; fall from an earlier total",
        {"motor_of_five": Slip(0.58, "motor one point too low"), "eyes_from_zero": Slip(0.08, "eyes counted from 0")},
        lambda r: {
            "was": r.randint(9, 15),
            "eyes": r.randint(1, 4),
            "speech": r.randint(1, 5),
            "motor": r.randint(1, 6),
        },
        lambda v: (
            f"GCS was {v['was']}. Now eyes {EYES[v['eyes']]}, speech {SPEECH[v['speech']]}, motor {MOTOR[v['motor']]}. "
            "By how much did it fall?",
        ),
        _gcs_solve,
        fit=lambda v: v["was"] > v["eyes"] + v["speech"] + v["motor"],
        takes=("was", range(9, 16)),
    ),
    Kind(
        "curb_65",
        Domain.SCORING,
        "1 each: confusion, urea > 7, RR >= 30, SBP < 90 (DBP left out), age >= 65",
        {"age_forgotten": Slip(0.60, "no point for age"), "urea_cutoff": Slip(0.08, "urea > 10")},
        _curb_draw,
        lambda v: (
            f"Pneumonia: {'confused' if v['confused'] else 'alert'}, urea {v['urea']}, RR {v['rr']}, SBP {v['sbp']}, "
            f"age {v['age']}. CURB-65 score?",
        ),
        _curb_solve,
        takes=("urea", range(3, 15)),
    ),
    Kind(
        "cha2ds2_vasc",
        Domain.SCORING,
        "age >= 75: 2, 65-74: 1; woman 1; stroke 2; heart failure, hypertension, diabetes, vascular disease 1 each",
        {"stroke_one_point": Slip(0.28, "stroke counts 1"), "age_one_point": Slip(0.16, "age from 75 counts 1")},
        _chads_draw,
        lambda v: (
            f"A {v['sex']} of {v['age']} has atrial fibrillation and {', '.join(v['risks'])}. CHA2DS2-VASc score?",
        ),
        _chads_solve,
    ),
    Kind(
        "qsofa",
        Domain.SCORING,
        "1 each: RR >= 22, SBP <= 100, GCS < 15",
        {"pressure_cutoff": Slip(0.24, "SBP <= 90"), "rate_cutoff": Slip(0.12, "RR >= 30")},
        _qsofa_draw,
        lambda v: (
            f"RR {v['rr']}, SBP {v['sbp']}, GCS {v['gcs']}. What is the qSOFA score?",
            f"qSOFA score with GCS {v['gcs']}, SBP {v['sbp']}, RR {v['rr']}?",
        ),
        _qsofa_solve,
        choices=lambda v: ["0", "1", "2", "3"],
        takes=("sbp", range(78, 136)),
    ),
    Kind(
        "dose_volume",
        Domain.DOSING,
        "lb / 2.2 = kg; kg x mg/kg = mg; mg / (mg/mL) = mL",
        {
            "pounds_as_kilograms": Slip(0.17, "pounds taken for kilograms"),
            "milligrams_as_millilitres": Slip(0.08, "mg given as mL"),
        },
        _volume_draw,
        lambda v: (
            f"A patient of {v['kg'] * 11 // 5} lb needs {v['dose']} mg/kg. The vial has {v['strength']} mg/mL. "
            "How many mL?",
        ),
        _volume_solve,
        fit=_volume_fits,
        takes=("dose", range(1, 11)),
    ),
    Kind(
        "divided_dose",
        Domain.DOSING,
        "kg x mg/kg a day / (24 / interval) = mg each",
        {
            "not_divided": Slip(0.52, "the whole day's dose at once"),
            "interval_as_count": Slip(0.08, "divided by the interval"),
        },
        lambda r: {
            "kg": r.randint(3, 24),
            "daily": r.choice([24, 30, 40, 48, 60, 72, 90, 120]),
            "hours": r.choice([6, 8, 12]),
        },
        lambda v: (
            f"A child of {v['kg']} kg needs {v['daily']} mg/kg a day, given every {v['hours']} h. "
            "How many mg is each dose?",
        ),
        _divided_solve,
        fit=lambda v: v["kg"] * v["daily"] % 24 == 0,
        takes=("kg", range(3, 25)),
    ),
    Kind(
        "maintenance_fluid",
        Domain.FLUIDS,
        "4 mL/h per kg to 10 kg, 2 to 20 kg, 1 beyond; less the running rate",
        {"four_for_all": Slip(0.22, "4 mL/h for every kg"), "tier_misremembered": Slip(0.14, "a tier's rate wrong")},
        _maintenance_draw,
        lambda v: (f"A child of {v['kg']} kg gets {v['given']} mL/h. How many mL/h below 4-2-1 maintenance?",),
        _maintenance_solve,
        fit=lambda v: v["given"] < (60 + v["kg"] - 20 if v["kg"] > 20 else 40 + 2 * (v["kg"] - 10)),
        takes=("given", range(15, 61)),
    ),
    Kind(
        "drip_rate",
        Domain.FLUIDS,
        "mL / h / (60 / drops per mL) = drops a minute",
        {
            "hours_forgotten": Slip(0.18, "volume taken for the hourly flow"),
            "wrong_set": Slip(0.12, "another giving set"),
        },
        _drip_draw,
        lambda v: (
            f"{v['rate'] * v['hours']} mL over {v['hours']} h by a set of {v['drops']} drops/mL. "
            "How many drops a minute?",
        ),
        _drip_solve,
    ),
    Kind(
        "start_triage",
        Domain.TRIAGE,
        "walks: minor; RR > 30, refill > 2 s or does not obey: immediate; else delayed",
        {"rate_cutoff": Slip(0.56, "RR > 20"), "refill_cutoff": Slip(0.16, "refill > 4 s")},
        _start_draw,
        lambda v: (
            f"START triage: {'walks' if v['walks'] else 'cannot walk'}, RR {v['rr']}, refill {v['refill']} s, "
            f"{'obeys' if v['obeys'] else 'does not obey'}. Which tag?",
        ),
        _start_solve,
        choices=lambda v: ["minor", "delayed", "immediate", "deceased"],
        takes=("rr", range(10, 45)),
    ),
    Kind(
        "contraindication",
        Domain.DRUG_SAFETY,
        "condition -> class to avoid -> drug of that class",
        {
            "class_confused": Slip(0.24, "another class named for the condition"),
            "member_confused": Slip(0.10, "a drug put in the wrong class"),
        },
        _avoid_draw,
        lambda v: (
            f"Which drug is avoided in {v['condition']}?",
            f"A patient has {v['condition']}. Which drug is avoided?",
        ),
        _avoid_solve,
        choices=_drugs,
        also=_avoid_also,
        takes=("condition", range(25)),
        other=_avoid_other,
    ),
    Kind(
        "interaction",
        Domain.DRUG_SAFETY,
        "drug -> enzyme that clears it -> drug that blocks the enzyme",
        {
            "enzyme_confused": Slip(0.40, "another enzyme"),
            "blocker_confused": Slip(0.12, "the blocker of another enzyme"),
        },
        _interaction_draw,
        lambda v: (
            f"A patient takes {v['drug']}. Which new drug raises its level?",
            f"Which drug raises the level of {v['drug']}?",
        ),
        _interaction_solve,
        choices=_drugs,
        also=_interaction_also,
        takes=("drug", range(25, 1000)),
        other=_interaction_other,
    ),
]

KINDS: dict[str, Kind] = {kind.name: kind for kind in _ALL}
