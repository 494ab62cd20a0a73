"""docs/findings.md says what the records under results/ say."""

import json
import re
from itertools import product
from pathlib import Path

import pytest

from cerebsim import study, study_report

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "findings.md"
FC, WIDER, RC = "FC m=1,000", "FC m=5,970", "RC k=4"
NONE, AVERAGE, EXACT = LTDS = "none", "moving average", "exact mean"
FIFTY, ONE, MATCHED = TRAININGS = "batch 50", "batch 1", "batch 1, as many updates"


def percent(printed: str) -> float:
    return float(printed.removesuffix(" %"))


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text()


@pytest.fixture(scope="module")
def records() -> dict:
    """By circuit, LTD and training."""
    found = {}
    for path in sorted((ROOT / "results" / "study" / "records").glob("*.json")):
        record = json.loads(path.read_text())
        recipe = record["recipe"]
        found[recipe["model"].replace(" + LTD", ""), recipe["ltd"], recipe["training"]] = record
    return found


def test_the_tables_are_made_of_the_records(page, records, tmp_path):
    def table(ltds: tuple, trainings: tuple) -> str:
        chosen = [
            records[circuit, ltd, training]
            for circuit in (FC, WIDER, RC)
            for ltd in ltds
            for training in trainings
        ]
        return study_report.write(chosen, tuple(study.ATTACKS), study.EPS, tmp_path)[0]

    assert table(LTDS, TRAININGS) in (ROOT / "results" / "study" / "study.md").read_text()
    assert table((AVERAGE,), (FIFTY, ONE)) in page
    for circuit in (FC, WIDER, RC):
        for ltd in LTDS:
            row = [records[circuit, ltd, training]["accuracy"] for training in TRAININGS]
            cells = [100 * accuracy["PGD mse 0.01_0.1"] for accuracy in row]
            cells.append(100 * max(accuracy["worst_0.1"] for accuracy in row))
            printed = [circuit, ltd, *(f"{cell:.1f}" for cell in cells)]
            lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines()]
            assert printed in lines


def test_what_it_links_to_is_there(page):
    links = re.findall(r"\]\((\S+?)\)", page)
    assert len(links) >= 3
    for link in links:
        assert (PAGE.parent / link).exists(), link


def test_its_sentences_are_the_records(page, records):
    def kept(*of: str, attack: str = "PGD mse 0.01") -> str:
        if attack == "transfer":
            return f"{100 * records[of]['transfer']:.1f} %"
        return f"{100 * records[of]['accuracy'][f'{attack}_0.1']:.1f} %"

    sparse = RC, AVERAGE, ONE
    path = records[sparse]["trajectory"]
    far = records[RC, EXACT, ONE]["trajectory"]
    dense, centred, single = (FC, WIDER), (AVERAGE, EXACT), (ONE, MATCHED)

    def low(circuits, ltds, trainings) -> str:
        return min((kept(*of) for of in product(circuits, ltds, trainings)), key=percent)

    def high(circuits, ltds, trainings, attack: str = "PGD mse 0.01") -> str:
        found = (kept(*of, attack=attack) for of in product(circuits, ltds, trainings))
        return max(found, key=percent)

    def at(name: str, step: int, digits: int = 2) -> str:
        return f"{path[name][step]:.{digits}f}"

    assert kept(*sparse, attack="PGD ce 0.01") == kept(*sparse, attack="PGD margin 0.01")
    sentences = [
        f"On the network with {kept(*sparse)} under the paper's PGD the same 40 steps leave "
        f"{kept(*sparse, attack='PGD ce 0.01')} when",
        f"a thousand queries of Square, leaves {kept(*sparse, attack='Square')};",
        f"batches of 50, leave {kept(*sparse, attack='transfer')} too.",
        f"The {path['survivors']} survivors have the right output at {at('own', 0)} when clean and "
        f"the best of the others at {at('best', 0)}.",
        f"they are at {at('own', -1)} and {at('best', -1)}:",
        f"from {at('loss', 0)} to {at('loss', -1, 0)};",
        f"from {at('distance', 0)} to {at('distance', -1)},",
        f"it is {at('distance', 2)} after the first of them.",
        f"Without LTD the fully connected ones keep {low(dense, [NONE], TRAININGS)} to "
        f"{high(dense, [NONE], TRAININGS)}, the sparse one {low([RC], [NONE], TRAININGS)} to "
        f"{high([RC], [NONE], TRAININGS)}.",
        f"the fully connected ones keep {low(dense, centred, single)} to "
        f"{high(dense, centred, single)}, but {low(dense, centred, [FIFTY])} to "
        f"{high(dense, centred, [FIFTY])} at batch 50;",
        f"centring alone leaves {kept(RC, AVERAGE, FIFTY)} and {kept(RC, EXACT, FIFTY)} there.",
        f"12,000, leave {low([*dense, RC], centred, [MATCHED])} to "
        f"{high([*dense, RC], centred, [MATCHED])} in the centred circuits.",
        f"circuits keep {kept(FC, AVERAGE, ONE, attack='PGD mse 0.1')}, "
        f"{kept(WIDER, AVERAGE, ONE, attack='PGD mse 0.1')} and "
        f"{kept(*sparse, attack='PGD mse 0.1')} at batch 1.",
        f"keeps {kept(RC, EXACT, ONE)}, less than without LTD.",
        f"The outputs of its survivors fall by {far['own'][0] - far['own'][-1]:.0f} where those of "
        f"the paper's circuit fall by {path['own'][0] - path['own'][-1]:.0f}:",
        f"no network of the 27 keeps more than {high([*dense, RC], LTDS, TRAININGS, 'worst')}, "
        f"and those of table 7 keep {kept(*sparse, attack='worst')}.",
    ]
    assert min(path["own"][0] - path["own"][-1], path["best"][0] - path["best"][-1]) > 3.5
    plain = " ".join(page.split())
    for sentence in sentences:
        assert sentence in plain, sentence
    assert len(records) == 27
    for circuit in (FC, WIDER, RC):
        assert kept(circuit, AVERAGE, ONE, attack="worst") == "0.0 %"
    assert percent(kept(RC, EXACT, ONE)) < percent(kept(RC, NONE, ONE))


def test_it_is_no_longer_than_two_pages(page):
    assert len(page.split()) < 1100
