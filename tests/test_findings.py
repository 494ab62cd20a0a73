"""docs/findings.md says what the records under results/ say."""

import json
import re
from pathlib import Path

import pytest

from cerebsim import study, study_report

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "findings.md"
FC, WIDER, RC = "FC m=1,000", "FC m=5,970", "RC k=4"


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


def test_the_table_is_made_of_the_records(page, records, tmp_path):
    chosen = [
        records[circuit, "moving average", training]
        for circuit in (FC, WIDER, RC)
        for training in study.TRAININGS
    ]
    table, _ = study_report.write(chosen, tuple(study.ATTACKS), study.EPS, tmp_path)
    assert table in page
    assert table in (ROOT / "results" / "study" / "study.md").read_text()


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

    average, exact = "moving average", "exact mean"
    one, fifty, matched = "batch 1", "batch 50", "batch 1, as many updates"
    sparse = RC, average, one
    path = records[sparse]["trajectory"]

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
        f"the fully connected one {kept(FC, 'none', one)} (batch 1) and "
        f"{kept(FC, 'none', fifty)} (batch 50), the sparse one {kept(RC, 'none', fifty)} (batch "
        f"50). With the moving average they keep {kept(FC, average, one)}, "
        f"{kept(FC, average, fifty)} and {kept(RC, average, fifty)}, and the sparse one "
        f"{kept(*sparse)} at batch 1. (A fully connected circuit of 5,970 cells: "
        f"{kept(WIDER, 'none', one)} and {kept(WIDER, 'none', fifty)} without, "
        f"{kept(WIDER, average, one)} and {kept(WIDER, average, fifty)} with.)",
        f"they keep {kept(FC, exact, one)}, {kept(FC, exact, fifty)} and "
        f"{kept(RC, exact, fifty)}. **So",
        f"Its worst case there is {kept(RC, exact, fifty, attack='worst')}.",
        f"keeps {kept(FC, average, matched)} (moving average) and {kept(FC, exact, matched)} "
        f"(exact mean), and the sparse circuit {kept(RC, average, matched)} and "
        f"{kept(RC, exact, matched)}.",
        f"keep {kept(FC, average, one, attack='PGD mse 0.1')} and "
        f"{kept(*sparse, attack='PGD mse 0.1')} where steps of 0.01 leave "
        f"{kept(FC, average, one)} and {kept(*sparse)}.",
    ]
    assert min(path["own"][0] - path["own"][-1], path["best"][0] - path["best"][-1]) > 3.5
    plain = " ".join(page.split())
    for sentence in sentences:
        assert sentence in plain, sentence
    for circuit in (FC, WIDER, RC):
        assert kept(circuit, average, one, attack="worst") == "0.0 %"
    for (_, ltd, _), record in records.items():
        assert ltd != "none" or record["accuracy"]["PGD mse 0.01_0.1"] < 0.2


def test_it_is_no_longer_than_two_pages(page):
    assert len(page.split()) < 1100
