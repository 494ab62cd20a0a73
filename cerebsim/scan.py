"""Floor 9: accuracy over the size of a circuit, beyond the circuits of the paper's tables.

As in tables 6 and 7 a scan over the width varies m, and a scan over the sparsity varies k while
the synapses m (k + 2c) stay as many. Preset, attacks, records and the names of circuits are the
tables', so that both may work on one folder and neither runs again what the other has.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from . import paper, tables
from .data import Data
from .errors import expect, expect_choice, expect_integer
from .paper import Reproduction, scaled, tabulate
from .published import FC, RC, TABLES, Circuit

BUDGET = 4_800_000  # synapses
GRANULE_CELLS = (1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000)
FAN_INS = (1, 2, 4, 10, 50, 200, 784)
SCANS = {"width": ("granule_cells", "fan_in"), "sparsity": ("fan_in", "granule_cells")}
"""What each varies, and what it keeps."""


def scan(
    by: str,
    data: Data,
    granule_cells: Sequence[int] = (),
    fan_in: Sequence[int] = (),
    ltd: bool = True,
    seeds: Sequence[int] = (0,),
    out: str | Path = "runs/scan",
    limit: int | None = None,
    sound_limit: int | None = None,
    epochs: int = 10,
    batch_size: int = 50,
    device: str = "cpu",
    jobs: int = 1,
) -> Reproduction:
    """Train and attack circuits of several sizes; write out/width.csv, .md, .png or sparsity.*.

    by, granule_cells, fan_in, ltd: as for `circuits`; all else as for `paper.reproduce`, whose
    promises hold here too. Raises ArgumentError or CerebsimError (a record that cannot be read).
    """
    models = circuits(by, data, granule_cells, fan_in, ltd)
    fixed = [f"k = {k}" for k in fan_in] if by == "width" else [f"m = {m:,}" for m in granule_cells]
    title = " with ".join([f"{by.title()} scan", *fixed])
    draw = partial(tables.draw_scan, size=SCANS[by][0])
    settings = data, seeds, out, limit, sound_limit, epochs, batch_size, device, jobs
    return tabulate(by, title, models, draw, *settings)


def circuits(
    by: str,
    data: Data,
    granule_cells: Sequence[int] = (),
    fan_in: Sequence[int] = (),
    ltd: bool = True,
) -> dict[str, Circuit]:
    """The circuits of a scan by their names: a row of table 6 that is the same circuit has its own.

    by: "width": granule_cells are the m, or the paper's `GRANULE_CELLS`; a cell reads all d fibres
    (FC) or the one number given in fan_in (RC). "sparsity": fan_in are the k, or those of the
    paper's `FAN_INS` below d and d itself; m is the one number given in granule_cells, or
    `BUDGET` / (k + 2c). What is given is taken as it is; where m is not given it is on the embedded
    digits as in the tables on them, a twentieth. Raises ArgumentError.
    """
    expect_choice(by, "by", tuple(SCANS))
    given = {"granule_cells": granule_cells, "fan_in": fan_in}
    for name, values in given.items():
        for value in values:
            expect_integer(value, name, 1, "Leave it out for the paper's.")
    (_, kept), (other,) = SCANS[by], SCANS.keys() - {by}
    one, remedy = f"one value in a {by} scan", f"A {other} scan takes several."
    expect(len(given[kept]) <= 1, kept, list(given[kept]), one, remedy)
    d, c = data.train.x[0].numel(), len(data.classes)
    for k in fan_in:
        expect(k <= d, "fan_in", k, f"at most the {d} fibres of {data.name}", "Lower it.")
    share = paper.DIGITS_SHARE if data.name == "digits" else 1
    if by == "sparsity":
        ks = fan_in or (*(k for k in FAN_INS if k < d), d)
        (m,) = granule_cells or (None,)
        found = [Circuit(RC, k, m or round(BUDGET / share / (k + 2 * c)), ltd) for k in ks]
    elif fan_in:
        ms = granule_cells or [round(m / share) for m in GRANULE_CELLS]
        found = [Circuit(RC, fan_in[0], m, ltd) for m in ms]
    elif granule_cells:
        found = [Circuit(FC, d, m, ltd) for m in granule_cells]
    else:
        found = [scaled(Circuit(FC, 784, m, ltd), data) for m in GRANULE_CELLS]
    return {_name(circuit, data): circuit for circuit in found}


def _name(circuit: Circuit, data: Data) -> str:
    for name, row in TABLES["table6"].circuits.items():  # table 7's are called alike
        if scaled(row, data).anatomy == circuit.anatomy:
            return name
    kind = "FC" if circuit.wiring == FC else "RC"
    ltd = " + LTD" if circuit.ltd else ""
    return f"{kind}{ltd} k={circuit.fan_in} m={circuit.granule_cells:,}"
