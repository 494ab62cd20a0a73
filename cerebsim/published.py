"""Floor 0: the numbers that the paper printed, as data.

"Evaluating Adversarial Robustness in Simulated Cerebellum" (Liu, Li, Chen), MNIST: tables 2, 6 and
7. All three begin with the same line, a "Baseline CNN".
"""

from dataclasses import dataclass

COLUMNS = ("clean", "fgsm_0.1", "fgsm_0.3", "pgd_0.1", "pgd_0.3")
RC, FC = "random", "full"
REPEATED = "table 6's figures again, not measured at batch 1"
UNKNOWN = "of a network that the paper does not describe"


class _Printed:
    """What every line of a table has."""

    printed: tuple[float, ...]
    doubt: str

    @property
    def accuracy(self) -> dict[str, float]:
        return dict(zip(COLUMNS, self.printed, strict=True))


@dataclass(frozen=True)
class Circuit:
    """What the paper varies of a circuit."""

    wiring: str
    fan_in: int
    granule_cells: int
    ltd: bool

    @property
    def anatomy(self) -> tuple[str, int, int, bool]:
        return self.wiring, self.fan_in, self.granule_cells, self.ltd


@dataclass(frozen=True)
class Row(Circuit, _Printed):
    """A circuit, and the accuracies in percent that the paper printed for it, as in COLUMNS."""

    printed: tuple[float, ...]
    doubt: str = ""
    """Why the figures are no measurement of this circuit."""


@dataclass(frozen=True)
class Baseline(_Printed):
    """A network that is no circuit; `baselines` says which one stands in for it."""

    printed: tuple[float, ...]
    doubt: str = UNKNOWN


@dataclass(frozen=True)
class Table:
    """Rows by name; all circuits learned with batches of one size."""

    batch_size: int
    rows: dict[str, Row | Baseline]

    @property
    def circuits(self) -> dict[str, Row]:
        return {name: row for name, row in self.rows.items() if isinstance(row, Row)}


_BASELINE = {"Baseline CNN": Baseline((99.2, 77.6, 8.4, 48.2, 0.0))}
_TABLE2 = _BASELINE | {
    "Base": Row(FC, 784, 5970, False, (96.5, 36.8, 18.1, 14.8, 1.2)),
    "Base + LTD": Row(FC, 784, 5970, True, (96.7, 44.2, 21.8, 14.5, 1.2)),
    "Base + RC": Row(RC, 4, 200000, False, (96.0, 48.3, 18.2, 17.6, 0.5)),
    "Cerebellum": Row(RC, 4, 200000, True, (96.1, 62.0, 23.4, 55.8, 4.9)),
}
_TABLE6 = _BASELINE | {
    "FC m=1,000": Row(FC, 784, 1000, False, (94.1, 20.4, 10.5, 9.0, 1.3)),
    "FC m=2,000": Row(FC, 784, 2000, False, (95.4, 27.6, 14.2, 13.8, 1.8)),
    "FC m=5,000": Row(FC, 784, 5000, False, (96.3, 37.5, 20.1, 15.7, 1.3)),
    "FC m=10,000": Row(FC, 784, 10000, False, (96.8, 38.4, 18.8, 16.4, 1.0)),
    "FC m=20,000": Row(FC, 784, 20000, False, (97.1, 42.9, 21.1, 16.2, 0.9)),
    "FC m=50,000": Row(FC, 784, 50000, False, (97.2, 43.9, 22.1, 15.6, 0.6)),
    "FC m=100,000": Row(FC, 784, 100000, False, (97.2, 45.6, 23.1, 15.3, 0.7)),
    "FC m=200,000": Row(FC, 784, 200000, False, (97.1, 45.2, 22.9, 15.3, 0.6)),
    "FC + LTD m=1,000": Row(FC, 784, 1000, True, (94.4, 21.2, 10.9, 9.5, 1.4)),
    "FC + LTD m=2,000": Row(FC, 784, 2000, True, (95.6, 29.7, 15.6, 12.3, 1.4)),
    "FC + LTD m=5,000": Row(FC, 784, 5000, True, (96.6, 41.8, 21.2, 14.4, 1.3)),
    "FC + LTD m=10,000": Row(FC, 784, 10000, True, (97.0, 48.3, 22.6, 13.0, 1.0)),
    "FC + LTD m=20,000": Row(FC, 784, 20000, True, (97.3, 55.7, 28.2, 16.1, 1.0)),
    "FC + LTD m=50,000": Row(FC, 784, 50000, True, (97.3, 59.2, 29.2, 16.2, 0.8)),
    "FC + LTD m=100,000": Row(FC, 784, 100000, True, (97.3, 61.0, 29.4, 17.8, 0.8)),
    "FC + LTD m=200,000": Row(FC, 784, 200000, True, (97.4, 62.0, 30.4, 19.6, 0.7)),
    "RC k=784": Row(RC, 784, 5970, False, (96.5, 33.8, 15.9, 13.9, 1.3)),
    "RC k=200": Row(RC, 200, 21818, False, (97.1, 43.6, 22.3, 15.1, 1.0)),
    "RC k=50": Row(RC, 50, 68571, False, (97.2, 46.1, 23.9, 16.3, 0.6)),
    "RC k=10": Row(RC, 10, 160000, False, (96.7, 44.2, 19.5, 12.1, 0.2)),
    "RC k=4": Row(RC, 4, 200000, False, (96.0, 48.3, 18.2, 17.6, 0.5)),
    "RC k=2": Row(RC, 2, 218182, False, (94.2, 54.2, 14.9, 24.2, 2.0)),
    "RC k=1": Row(RC, 1, 228571, False, (85.8, 68.4, 28.3, 20.2, 9.7)),
    "RC + LTD k=784": Row(RC, 784, 5970, True, (96.9, 42.4, 20.4, 13.2, 0.9)),
    "RC + LTD k=200": Row(RC, 200, 21818, True, (97.2, 55.6, 27.4, 14.8, 0.8)),
    "RC + LTD k=50": Row(RC, 50, 68571, True, (97.3, 60.0, 29.3, 17.6, 0.6)),
    "RC + LTD k=10": Row(RC, 10, 160000, True, (96.9, 60.2, 24.5, 24.4, 0.3)),
    "RC + LTD k=4": Row(RC, 4, 200000, True, (96.1, 62.0, 23.4, 55.8, 4.9)),
    "RC + LTD k=2": Row(RC, 2, 218182, True, (94.5, 61.4, 19.4, 57.3, 16.0)),
    "RC + LTD k=1": Row(RC, 1, 228571, True, (86.6, 70.1, 33.1, 33.6, 17.7)),
}
# In three rows (RC + LTD, k = 784, 4, 2) PGD lies above FGSM at 0.1, which a sound PGD cannot.
_TABLE7 = _BASELINE | {
    "FC m=1,000": Row(FC, 784, 1000, False, (94.1, 20.4, 10.5, 9.0, 1.3), REPEATED),
    "FC m=2,000": Row(FC, 784, 2000, False, (95.4, 27.6, 14.2, 13.8, 1.8), REPEATED),
    "FC m=5,000": Row(FC, 784, 5000, False, (96.3, 37.5, 20.1, 15.7, 1.3), REPEATED),
    "FC m=10,000": Row(FC, 784, 10000, False, (96.8, 38.4, 18.8, 16.4, 1.0), REPEATED),
    "FC m=20,000": Row(FC, 784, 20000, False, (97.1, 42.9, 21.1, 16.2, 0.9), REPEATED),
    "FC m=50,000": Row(FC, 784, 50000, False, (97.2, 43.9, 22.1, 15.6, 0.6), REPEATED),
    "FC m=100,000": Row(FC, 784, 100000, False, (97.2, 45.6, 23.1, 15.3, 0.7), REPEATED),
    "FC m=200,000": Row(FC, 784, 200000, False, (97.1, 45.2, 22.9, 15.3, 0.6), REPEATED),
    "FC + LTD m=1,000": Row(FC, 784, 1000, True, (94.4, 21.2, 10.9, 9.5, 1.4), REPEATED),
    "FC + LTD m=2,000": Row(FC, 784, 2000, True, (95.6, 29.7, 15.6, 12.3, 1.4), REPEATED),
    "FC + LTD m=5,000": Row(FC, 784, 5000, True, (96.6, 41.8, 21.2, 14.4, 1.3), REPEATED),
    "FC + LTD m=10,000": Row(FC, 784, 10000, True, (97.0, 48.3, 22.6, 13.0, 1.0), REPEATED),
    "FC + LTD m=20,000": Row(FC, 784, 20000, True, (97.3, 55.7, 28.2, 16.1, 1.0), REPEATED),
    "FC + LTD m=50,000": Row(FC, 784, 50000, True, (97.3, 59.2, 29.2, 16.2, 0.8), REPEATED),
    "FC + LTD m=100,000": Row(FC, 784, 100000, True, (97.3, 61.0, 29.4, 17.8, 0.8), REPEATED),
    "FC + LTD m=200,000": Row(FC, 784, 200000, True, (97.4, 62.0, 30.4, 19.6, 0.7), REPEATED),
    "RC k=784": Row(RC, 784, 5970, False, (96.7, 35.0, 16.9, 13.8, 1.5)),
    "RC k=200": Row(RC, 200, 21818, False, (97.6, 40.4, 20.3, 15.4, 1.6)),
    "RC k=50": Row(RC, 50, 68571, False, (97.9, 46.9, 21.4, 15.2, 0.9)),
    "RC k=10": Row(RC, 10, 160000, False, (97.7, 42.1, 17.6, 33.6, 6.9)),
    "RC k=4": Row(RC, 4, 200000, False, (97.0, 48.2, 19.2, 33.9, 3.3)),
    "RC k=2": Row(RC, 2, 218182, False, (96.1, 56.3, 21.8, 19.0, 1.2)),
    "RC k=1": Row(RC, 1, 228571, False, (83.7, 65.4, 26.8, 19.3, 9.8)),
    "RC + LTD k=784": Row(RC, 784, 5970, True, (97.0, 82.2, 56.0, 83.7, 27.9)),
    "RC + LTD k=200": Row(RC, 200, 21818, True, (97.8, 84.1, 65.0, 72.1, 11.6)),
    "RC + LTD k=50": Row(RC, 50, 68571, True, (98.0, 86.1, 70.0, 75.8, 11.4)),
    "RC + LTD k=10": Row(RC, 10, 160000, True, (97.7, 88.9, 71.2, 88.3, 18.7)),
    "RC + LTD k=4": Row(RC, 4, 200000, True, (97.2, 89.0, 67.6, 95.2, 48.0)),
    "RC + LTD k=2": Row(RC, 2, 218182, True, (96.2, 85.2, 65.0, 94.1, 63.3)),
    "RC + LTD k=1": Row(RC, 1, 228571, True, (84.9, 69.3, 36.1, 55.6, 26.7)),
}
TABLES = {"table2": Table(50, _TABLE2), "table6": Table(50, _TABLE6), "table7": Table(1, _TABLE7)}
FIGURES = {"figure2": "table6", "figure3": "table7"}
"""The table whose models a figure draws."""


def printed(batch_size: int, model: Circuit | Baseline) -> Row | Baseline | None:
    """What the paper printed of this circuit, learned with this batch size, in any table.

    A baseline's line is the same in all of them.
    """
    if isinstance(model, Baseline):
        return model
    for table in TABLES.values():
        for row in table.circuits.values():
            if row.anatomy == model.anatomy and table.batch_size == batch_size:
                return row
    return None
