"""The kinds of problem in the clinic: what each draws, asks and writes, right and with the slips that people make.
Splits, options and ids are `problems.py`.

A kind is a clinical formula or rule with numbers small enough that each step is one short operation. The shares beside
the slips say how much of the policy's training corpus makes that mistake: for some kinds it is commoner than the right
method, so that search and a reward model have something to win."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
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
    """One kind. `draw` gives values, of which those count that `fit`; `ask` gives phrasings of the question.

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
    fit: Callable[[Values], bool] = lambda values: True
    choices: Callable[[Values], list[str]] | None = None
    also: Callable[[Values], list[str]] = lambda values: []
    takes: tuple[str, range] | None = None
    other: Callable[[Values], Values] | None = None

    def sample(self, r: Random) -> Values:
        """Values that fit."""
        while not self.fit(values := self.draw(r)):
            pass
        return values


KINDS: dict[str, Kind] = {}


def _kind(domain: Domain, formula: str, slips: dict[str, Slip], **parts: Any) -> Callable[[Any], Any]:
    """Makes the function below it the solution of a kind of its name."""

    def add(solve: Callable[[Values, str | None], Solution]) -> Callable[[Values, str | None], Solution]:
        KINDS[solve.__name__] = Kind(solve.__name__, domain, formula, slips, solve=solve, **parts)
        return solve

    return add


def _plan(answer: str | int, *steps: str | tuple[str, ...]) -> Solution:
    return Solution(tuple((step,) if isinstance(step, str) else step for step in steps), str(answer))


def _total(points: list[int]) -> str:
    return f"{' + '.join(map(str, points))} = {sum(points)}."


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


@_kind(
    Domain.CALCULATION,
    "AG = Na - Cl - HCO3 (mmol/L)",
    {"bicarbonate_forgotten": Slip(0.56, "AG = Na - Cl"), "bicarbonate_added": Slip(0.08, "AG = Na - Cl + HCO3")},
    draw=lambda r: {"na": r.randrange(130, 151, 5), "cl": r.randrange(95, 111, 5), "hco3": r.randint(10, 28)},
    fit=lambda v: 4 <= v["na"] - v["cl"] - v["hco3"] <= 40,
    takes=("hco3", range(10, 29)),
    ask=lambda v: (
        f"Na {v['na']}, Cl {v['cl']}, HCO3 {v['hco3']} mmol/L. What is the anion gap?",
        f"What is the anion gap with Na {v['na']}, Cl {v['cl']} and HCO3 {v['hco3']} mmol/L?",
    ),
)
def anion_gap(v: Values, slip: str | None) -> Solution:
    na, cl, hco3 = v["na"], v["cl"], v["hco3"]
    part, first = na - cl, f"{na} - {cl} = {na - cl}."
    match slip:
        case "bicarbonate_forgotten":
            return _plan(part, ("AG = Na - Cl.", "The gap is Na - Cl."), first)
        case "bicarbonate_added":
            rule = ("AG = Na - Cl + HCO3.", "The gap is Na - Cl + HCO3.")
            return _plan(part + hco3, rule, first, f"{part} + {hco3} = {part + hco3}.")
    rule = ("AG = Na - Cl - HCO3.", "The gap is Na - Cl - HCO3.")
    return _plan(part - hco3, rule, first, f"{part} - {hco3} = {part - hco3}.")


def _pressures(r: Random) -> Values:
    dbp = r.randrange(50, 100, 2)
    return {"sbp": dbp + r.randrange(24, 73, 6), "dbp": dbp}


@_kind(
    Domain.CALCULATION,
    "MAP = DBP + (SBP - DBP) / 3 (mmHg)",
    {
        "averaged": Slip(0.56, "half of the pulse pressure in place of a third"),
        "from_systolic": Slip(0.08, "SBP less a third"),
    },
    draw=_pressures,
    fit=lambda v: v["sbp"] > v["dbp"] and (v["sbp"] - v["dbp"]) % 6 == 0,
    takes=("dbp", range(50, 99)),
    ask=lambda v: (
        f"The blood pressure is {v['sbp']}/{v['dbp']} mmHg. What is the mean arterial pressure?",
        f"SBP {v['sbp']}, DBP {v['dbp']} mmHg. What is the mean arterial pressure?",
    ),
)
def mean_arterial_pressure(v: Values, slip: str | None) -> Solution:
    sbp, dbp = v["sbp"], v["dbp"]
    pp = sbp - dbp
    by = 2 if slip == "averaged" else 3
    part = pp // by
    falls = slip == "from_systolic"
    name, base, sign, result = ("SBP", sbp, "-", sbp - part) if falls else ("DBP", dbp, "+", dbp + part)
    return _plan(
        result,
        (f"MAP = {name} {sign} PP / {by}.", f"MAP is {name} {sign} PP / {by}."),
        f"PP = {sbp} - {dbp} = {pp}. {pp} / {by} = {part}.",
        f"{base} {sign} {part} = {result}.",
    )


def _calcium(v: Values) -> str:
    return f"{v['ca'] / 100:.2f}"


@_kind(
    Domain.CALCULATION,
    "Ca + 0.02 x (40 - albumin) (mmol/L, g/L)",
    {"factor_halved": Slip(0.18, "factor 0.01"), "subtracted": Slip(0.10, "the correction taken off")},
    draw=lambda r: {"ca": r.randrange(175, 255, 5), "albumin": r.randint(20, 38)},
    fit=lambda v: v["albumin"] < 40,
    takes=("albumin", range(20, 39)),
    ask=lambda v: (
        f"Calcium {_calcium(v)} mmol/L, albumin {v['albumin']} g/L. What is the corrected calcium?",
        f"Albumin is {v['albumin']} g/L, calcium {_calcium(v)} mmol/L. Correct the calcium.",
    ),
)
def corrected_calcium(v: Values, slip: str | None) -> Solution:
    low = 40 - v["albumin"]
    hundredths = 1 if slip == "factor_halved" else 2
    sign, change = ("-", -hundredths * low) if slip == "subtracted" else ("+", hundredths * low)
    factor, part, result = (f"{n / 100:.2f}" for n in (hundredths, abs(change), v["ca"] + change))
    return _plan(
        result,
        (f"Corrected Ca = Ca {sign} {factor} x (40 - albumin).", f"Correct by Ca {sign} {factor} x (40 - albumin)."),
        f"40 - {v['albumin']} = {low}. {factor} x {low} = {part}.",
        f"{_calcium(v)} {sign} {part} = {result}.",
    )


@_kind(
    Domain.CALCULATION,
    "2 x Na + glucose + urea (mmol/L)",
    {"sodium_once": Slip(0.58, "sodium not doubled"), "urea_forgotten": Slip(0.08, "no urea")},
    draw=lambda r: {"na": r.randrange(130, 151, 5), "glucose": r.randint(4, 40), "urea": r.randint(3, 30)},
    takes=("glucose", range(4, 41)),
    ask=lambda v: (
        f"Na {v['na']}, glucose {v['glucose']}, urea {v['urea']} mmol/L. What is the serum osmolality?",
        f"What is the osmolality with Na {v['na']}, glucose {v['glucose']} and urea {v['urea']} mmol/L?",
    ),
)
def osmolality(v: Values, slip: str | None) -> Solution:
    na, glucose, urea = v["na"], v["glucose"], v["urea"]
    base, rule, double = (na, "Na", []) if slip == "sodium_once" else (2 * na, "2 x Na", [f"2 x {na} = {2 * na}."])
    some = base + glucose
    rule += " + glucose." if slip == "urea_forgotten" else " + glucose + urea."
    steps: list[str | tuple[str, ...]] = [
        (f"Osmolality = {rule}", f"Osm = {rule}"),
        *double,
        f"{base} + {glucose} = {some}.",
    ]
    if slip == "urea_forgotten":
        return _plan(some, *steps)
    return _plan(some + urea, *steps, f"{some} + {urea} = {some + urea}.")


EYES = {4: "spontaneous", 3: "to voice", 2: "to pain", 1: "none"}
SPEECH = {5: "oriented", 4: "confused", 3: "words", 2: "sounds", 1: "none"}
MOTOR = {6: "obeys", 5: "localises", 4: "withdraws", 3: "flexion", 2: "extension", 1: "none"}


def _coma(r: Random) -> Values:
    return {"was": r.randint(9, 15), "eyes": r.randint(1, 4), "speech": r.randint(1, 5), "motor": r.randint(1, 6)}


@_kind(
    Domain.SCORING,
    "eyes 1-4 + speech 1-5 + motor 1-6; fall from an earlier total",
    {"motor_of_five": Slip(0.58, "motor one point too low"), "eyes_from_zero": Slip(0.08, "eyes counted from 0")},
    draw=_coma,
    fit=lambda v: v["was"] > v["eyes"] + v["speech"] + v["motor"],
    takes=("was", range(9, 16)),
    ask=lambda v: (
        f"GCS was {v['was']}. Now eyes {EYES[v['eyes']]}, speech {SPEECH[v['speech']]}, motor {MOTOR[v['motor']]}. "
        "By how much did it fall?",
    ),
)
def glasgow_coma_scale(v: Values, slip: str | None) -> Solution:
    e = v["eyes"] - 1 if slip == "eyes_from_zero" else v["eyes"]
    s = v["speech"]
    m = max(1, v["motor"] - 1) if slip == "motor_of_five" else v["motor"]
    total, result = e + s + m, v["was"] - e - s - m
    added = _total([e, s, m])
    return _plan(
        result, f"Eyes {e}, speech {s}, motor {m}.", (added, f"GCS = {added}"), f"{v['was']} - {total} = {result}."
    )


def _pneumonia(r: Random) -> Values:
    return {
        "confused": r.randint(0, 1),
        "urea": r.randint(3, 14),
        "rr": r.randint(16, 40),
        "sbp": r.choice([r.randint(74, 89), r.randint(95, 140)]),
        "age": r.randint(66, 92) if r.random() < 0.75 else r.randint(40, 64),
    }


@_kind(
    Domain.SCORING,
    "1 each: confusion, urea > 7, RR >= 30, SBP < 90 (DBP left out), age >= 65",
    {"age_forgotten": Slip(0.60, "no point for age"), "urea_cutoff": Slip(0.08, "urea > 10")},
    draw=_pneumonia,
    takes=("urea", range(3, 15)),
    ask=lambda v: (
        f"Pneumonia: {'confused' if v['confused'] else 'alert'}, urea {v['urea']}, RR {v['rr']}, SBP {v['sbp']}, "
        f"age {v['age']}. CURB-65 score?",
    ),
)
def curb_65(v: Values, slip: str | None) -> Solution:
    confusion, breath, pressure = v["confused"], int(v["rr"] >= 30), int(v["sbp"] < 90)
    urea = int(v["urea"] > (10 if slip == "urea_cutoff" else 7))
    age = 0 if slip == "age_forgotten" else int(v["age"] >= 65)
    points = [confusion, urea, breath, pressure, age]
    return _plan(
        sum(points),
        f"Confusion {confusion}, urea {urea}, RR {breath}.",
        f"BP {pressure}, age {age}.",
        _total(points),
    )


RISKS = {"heart failure": 1, "hypertension": 1, "diabetes": 1, "stroke": 2, "vascular disease": 1}


def _fibrillation(r: Random) -> Values:
    risks = r.sample(sorted(RISKS), r.randint(1, 3))
    if "stroke" not in risks and r.random() < 0.6:
        risks[0] = "stroke"
    return {"age": r.randint(52, 92), "sex": r.choice(["woman", "man"]), "risks": sorted(risks)}


@_kind(
    Domain.SCORING,
    "age >= 75: 2, 65-74: 1; woman 1; stroke 2; heart failure, hypertension, diabetes, vascular disease 1 each",
    {"stroke_one_point": Slip(0.28, "stroke counts 1"), "age_one_point": Slip(0.16, "age from 75 counts 1")},
    draw=_fibrillation,
    ask=lambda v: (
        f"A {v['sex']} of {v['age']} has atrial fibrillation and {', '.join(v['risks'])}. CHA2DS2-VASc score?",
    ),
)
def cha2ds2_vasc(v: Values, slip: str | None) -> Solution:
    age = (1 if slip == "age_one_point" else 2) if v["age"] >= 75 else int(v["age"] >= 65)
    sex = int(v["sex"] == "woman")
    each = [1 if slip == "stroke_one_point" else RISKS[risk] for risk in v["risks"]]
    points = [age, sex, *each]
    listed = ", ".join(f"{risk} {point}" for risk, point in zip(v["risks"], each, strict=True))
    return _plan(sum(points), f"Age {v['age']}: {age}. Sex {sex}.", f"{_capital(listed)}.", _total(points))


def _at_least(name: str, value: int, cut: int) -> tuple[str, int]:
    return (f"{name} {value} >= {cut}: 1.", 1) if value >= cut else (f"{name} {value} < {cut}: 0.", 0)


def _at_most(name: str, value: int, cut: int) -> tuple[str, int]:
    return (f"{name} {value} <= {cut}: 1.", 1) if value <= cut else (f"{name} {value} > {cut}: 0.", 0)


def _sepsis(r: Random) -> Values:
    return {
        "rr": r.randint(22, 29) if r.random() < 0.5 else r.randint(12, 38),
        "sbp": r.randint(91, 100) if r.random() < 0.6 else r.randint(78, 135),
        "gcs": r.randint(12, 15),
    }


@_kind(
    Domain.SCORING,
    "1 each: RR >= 22, SBP <= 100, GCS < 15",
    {"pressure_cutoff": Slip(0.24, "SBP <= 90"), "rate_cutoff": Slip(0.12, "RR >= 30")},
    draw=_sepsis,
    choices=lambda v: ["0", "1", "2", "3"],
    takes=("sbp", range(78, 136)),
    ask=lambda v: (
        f"RR {v['rr']}, SBP {v['sbp']}, GCS {v['gcs']}. What is the qSOFA score?",
        f"qSOFA score with GCS {v['gcs']}, SBP {v['sbp']}, RR {v['rr']}?",
    ),
)
def qsofa(v: Values, slip: str | None) -> Solution:
    breath, a = _at_least("RR", v["rr"], 30 if slip == "rate_cutoff" else 22)
    press, b = _at_most("SBP", v["sbp"], 90 if slip == "pressure_cutoff" else 100)
    mind, c = _at_most("GCS", v["gcs"], 14)
    return _plan(a + b + c, breath, press, mind, _total([a, b, c]))


def _vial(r: Random) -> Values:
    return {
        "kg": r.randrange(5, 91, 5),
        "dose": r.choice([1, 2, 3, 4, 5, 6, 8, 10]),
        "strength": r.choice([2, 4, 5, 10, 20, 50]),
    }


def _vial_is_even(v: Values) -> bool:
    mg = v["kg"] * v["dose"]
    even = mg % v["strength"] == 0 and (10 * mg * 11 // 5) % v["strength"] == 0
    return bool(even and 2 <= mg // v["strength"] <= 60)


@_kind(
    Domain.DOSING,
    "lb / 2.2 = kg; kg x mg/kg = mg; mg / (mg/mL) = mL",
    {
        "pounds_as_kilograms": Slip(0.17, "pounds taken for kilograms"),
        "milligrams_as_millilitres": Slip(0.08, "mg given as mL"),
    },
    draw=_vial,
    fit=_vial_is_even,
    takes=("dose", range(1, 11)),
    ask=lambda v: (
        f"A patient of {v['kg'] * 11 // 5} lb needs {v['dose']} mg/kg. The vial has {v['strength']} mg/mL. "
        "How many mL?",
    ),
)
def dose_volume(v: Values, slip: str | None) -> Solution:
    kg, dose, strength = v["kg"], v["dose"], v["strength"]
    pounds = kg * 11 // 5
    weight = f"Weight = {pounds} / 2.2 = {kg} kg."
    if slip == "pounds_as_kilograms":
        kg, weight = pounds, f"Weight = {pounds} kg."
    mg = kg * dose
    if slip == "milligrams_as_millilitres":
        return _plan(mg, weight, f"Volume = {kg} x {dose} = {mg} mL.")
    if 10 * mg % strength:
        raise ValueError(f"{mg} / {strength} has more than one decimal")
    ml = f"{mg / strength:.1f}".removesuffix(".0")
    return _plan(ml, weight, f"Dose = {kg} x {dose} = {mg} mg.", f"{mg} / {strength} = {ml} mL.")


@_kind(
    Domain.DOSING,
    "kg x mg/kg a day / (24 / interval) = mg each",
    {
        "not_divided": Slip(0.52, "the whole day's dose at once"),
        "interval_as_count": Slip(0.08, "divided by the interval"),
    },
    draw=lambda r: {
        "kg": r.randint(3, 24),
        "daily": r.choice([24, 30, 40, 48, 60, 72, 90, 120]),
        "hours": r.choice([6, 8, 12]),
    },
    fit=lambda v: v["kg"] * v["daily"] % 24 == 0,
    takes=("kg", range(3, 25)),
    ask=lambda v: (
        f"A child of {v['kg']} kg needs {v['daily']} mg/kg a day, given every {v['hours']} h. "
        "How many mg is each dose?",
    ),
)
def divided_dose(v: Values, slip: str | None) -> Solution:
    kg, daily, hours = v["kg"], v["daily"], v["hours"]
    mg, times = kg * daily, 24 // hours
    total = f"{kg} x {daily} = {mg}."
    rule = "dose = weight x mg/kg"
    match slip:
        case "not_divided":
            return _plan(mg, (f"Each {rule}.", f"One {rule}."), total)
        case "interval_as_count":
            rule += f" / {hours}."
            return _plan(mg // hours, (f"Each {rule}", f"One {rule}"), total, f"{mg} / {hours} = {mg // hours}.")
    rule += " / doses a day."
    each = f"{mg} / {times} = {mg // times}."
    return _plan(mg // times, (f"Each {rule}", f"One {rule}"), f"24 / {hours} = {times}. {total}", each)


def _child(r: Random) -> Values:
    kg = r.choice([r.randint(11, 19), r.randint(21, 60), r.randint(21, 60)])
    return {"kg": kg, "given": r.randint(15, 60)}


@_kind(
    Domain.FLUIDS,
    "4 mL/h per kg to 10 kg, 2 to 20 kg, 1 beyond; less the running rate",
    {"four_for_all": Slip(0.22, "4 mL/h for every kg"), "tier_misremembered": Slip(0.14, "a tier's rate wrong")},
    draw=_child,
    fit=lambda v: v["given"] < (60 + v["kg"] - 20 if v["kg"] > 20 else 40 + 2 * (v["kg"] - 10)),
    takes=("given", range(15, 61)),
    ask=lambda v: (f"A child of {v['kg']} kg gets {v['given']} mL/h. How many mL/h below 4-2-1 maintenance?",),
)
def maintenance_fluid(v: Values, slip: str | None) -> Solution:
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
    return _plan(rate - given, *steps, f"{rate} - {given} = {rate - given}.")


_OTHER_SET = {10: 15, 15: 20, 20: 10}


@_kind(
    Domain.FLUIDS,
    "mL / h / (60 / drops per mL) = drops a minute",
    {"hours_forgotten": Slip(0.18, "volume taken for the hourly flow"), "wrong_set": Slip(0.12, "another giving set")},
    draw=lambda r: {"rate": r.randrange(12, 181, 12), "hours": r.randint(2, 12), "drops": r.choice([10, 15, 20])},
    ask=lambda v: (
        f"{v['rate'] * v['hours']} mL over {v['hours']} h by a set of {v['drops']} drops/mL. How many drops a minute?",
    ),
)
def drip_rate(v: Values, slip: str | None) -> Solution:
    rate, hours = v["rate"], v["hours"]
    volume = rate * hours
    flow = f"Flow = {volume} / {hours} = {rate} mL/h."
    if slip == "hours_forgotten":
        rate, flow = volume, f"Flow = {volume} mL/h."
    drops = _OTHER_SET[v["drops"]] if slip == "wrong_set" else v["drops"]
    by = 60 // drops
    return _plan(rate // by, flow, f"60 / {drops} = {by}.", f"{rate} / {by} = {rate // by}.")


def _casualty(r: Random) -> Values:
    return {
        "walks": int(r.random() < 0.12),
        "rr": r.randint(21, 30) if r.random() < 0.6 else r.randint(10, 44),
        "refill": r.randint(1, 2) if r.random() < 0.6 else r.randint(3, 4),
        "obeys": int(r.random() < 0.8),
    }


@_kind(
    Domain.TRIAGE,
    "walks: minor; RR > 30, refill > 2 s or does not obey: immediate; else delayed",
    {"rate_cutoff": Slip(0.56, "RR > 20"), "refill_cutoff": Slip(0.16, "refill > 4 s")},
    draw=_casualty,
    choices=lambda v: ["minor", "delayed", "immediate", "deceased"],
    takes=("rr", range(10, 45)),
    ask=lambda v: (
        f"START triage: {'walks' if v['walks'] else 'cannot walk'}, RR {v['rr']}, refill {v['refill']} s, "
        f"{'obeys' if v['obeys'] else 'does not obey'}. Which tag?",
    ),
)
def start_triage(v: Values, slip: str | None) -> Solution:
    if v["walks"]:
        return _plan("minor", "Can walk.", "So the tag is minor.")
    cut, slow = (20 if slip == "rate_cutoff" else 30), (4 if slip == "refill_cutoff" else 2)
    tag = "immediate"
    if v["rr"] > cut:
        signs = f"RR {v['rr']} > {cut}."
    elif v["refill"] > slow:
        signs = f"RR {v['rr']} <= {cut}. Refill {v['refill']} > {slow}."
    else:
        tag, mind = ("delayed", "Obeys.") if v["obeys"] else ("immediate", "Does not obey.")
        signs = f"RR {v['rr']} <= {cut}. Refill {v['refill']} <= {slow}. {mind}"
    return _plan(tag, "Cannot walk.", signs, f"So the tag is {tag}.")


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


def _condition(r: Random) -> Values:
    condition = r.choice(list(AVOID))
    right, taken = AVOID[condition]
    # Some conditions rule out more than one class; the options beside the right one are from none of those.
    return {"condition": condition, **_four_drugs(r, CLASSES[right], CLASSES[taken])}


def _other_condition(v: Values) -> Values:
    taken = AVOID[v["condition"]][1]
    condition = next(condition for condition, (right, _) in AVOID.items() if right == taken)
    return {**v, "condition": condition, "right": v["taken"], "taken": v["right"]}


@_kind(
    Domain.DRUG_SAFETY,
    "condition -> class to avoid -> drug of that class",
    {
        "class_confused": Slip(0.24, "another class named for the condition"),
        "member_confused": Slip(0.10, "a drug put in the wrong class"),
    },
    draw=_condition,
    choices=_drugs,
    also=lambda v: [f"{_capital(v['taken'])} is {AVOID[v['condition']][1]}."],
    takes=("condition", range(25)),
    other=_other_condition,
    ask=lambda v: (
        f"Which drug is avoided in {v['condition']}?",
        f"A patient has {v['condition']}. Which drug is avoided?",
    ),
)
def contraindication(v: Values, slip: str | None) -> Solution:
    right, taken = AVOID[v["condition"]]
    avoided = taken if slip == "class_confused" else right
    drug = v["right"] if slip is None else v["taken"]
    return _plan(drug, f"In {v['condition']} avoid {avoided}.", f"{_capital(drug)} is {avoided}.", f"So avoid {drug}.")


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


def _treatment(r: Random) -> Values:
    enzyme = r.choice(list(SUBSTRATES))
    return {"drug": r.choice(SUBSTRATES[enzyme]), **_four_drugs(r, BLOCKERS[enzyme], BLOCKERS[_TAKEN[enzyme]])}


def _enzyme(drug: str) -> str:
    return next(enzyme for enzyme, drugs in SUBSTRATES.items() if drug in drugs)


def _other_treatment(v: Values) -> Values:
    enzyme = _enzyme(v["drug"])
    drug = SUBSTRATES[_TAKEN[enzyme]][SUBSTRATES[enzyme].index(v["drug"])]
    return {**v, "drug": drug, "right": v["taken"], "taken": v["right"]}


@_kind(
    Domain.DRUG_SAFETY,
    "drug -> enzyme that clears it -> drug that blocks the enzyme",
    {
        "enzyme_confused": Slip(0.40, "another enzyme"),
        "blocker_confused": Slip(0.12, "the blocker of another enzyme"),
    },
    draw=_treatment,
    choices=_drugs,
    also=lambda v: [f"{_capital(v['taken'])} blocks {_TAKEN[_enzyme(v['drug'])]}."],
    takes=("drug", range(25, 1000)),
    other=_other_treatment,
    ask=lambda v: (
        f"A patient takes {v['drug']}. Which new drug raises its level?",
        f"Which drug raises the level of {v['drug']}?",
    ),
)
def interaction(v: Values, slip: str | None) -> Solution:
    enzyme = _enzyme(v["drug"])
    path = _TAKEN[enzyme] if slip == "enzyme_confused" else enzyme
    drug = v["right"] if slip is None else v["taken"]
    return _plan(
        drug,
        f"{_capital(v['drug'])} is cleared by {path}.",
        f"{_capital(drug)} blocks {path}.",
        f"So {drug} raises it.",
    )
