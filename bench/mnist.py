"""The whole job on MNIST, timed: python bench/mnist.py --device cuda [--data-dir D] [--out FOLDER]

Learns with the paper's settings and attacks all 10,000 test pictures with its PGD and with one on
the margin, at batch 50 and at batch 1; then, on a GPU, once with 10,000,000 granule cells. Writes
one JSON file; accuracies can be compared with results/, times are of this machine.
"""

import argparse
import json
import re
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch
from machine import describe

from cerebsim import PGD, Cerebellum, History, load_data, preset
from cerebsim.data import Data
from cerebsim.trials import served_by

EPS = 0.1
PAPER = preset("paper")


def job(data: Data, device: str, cells: int, batch_size: int, epochs: int, attacked: int) -> dict:
    """One network: what it was told, how long it took and how often it was right."""
    began = time.perf_counter()
    net = Cerebellum(784, cells, 10, fan_in=4, ltd=True, seed=0, device=device, **PAPER.circuit)
    drawn = time.perf_counter()
    settings = PAPER.learning | {"epochs": epochs, "batch_size": batch_size}
    history: History = net.fit(data.train, data.test, seed=0, progress=False, **settings)
    learned = time.perf_counter()
    x, y = (tensor.to(device) for tensor in data.test.first(attacked))
    attacks = {"paper": PGD(EPS, **PAPER.attack), "margin": PGD(EPS, loss="margin")}
    found = {name: attack.attack(net, x, y, batch_size=1024) for name, attack in attacks.items()}
    return {
        "granule_cells": cells,
        "batch_size": batch_size,
        **served_by(net, data.test),
        "drawing_seconds": drawn - began,
        "learning_seconds": learned - drawn,
        "history": asdict(history),
        "attacked_pictures": attacked,
        "pgd_seconds": {name: result.seconds for name, result in found.items()},
        "pgd_accuracy": {name: result.accuracy for name, result in found.items()},
        "pgd_settings": {name: result.settings for name, result in found.items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--data-dir", default="../shared/data")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    data = load_data("mnist", args.data_dir)
    plan = [(200_000, 50, 10, 10_000), (200_000, 1, 10, 10_000)]
    if args.device == "cuda":
        plan.append((10_000_000, 50, 1, 100))
    jobs = []
    for cells, batch_size, epochs, attacked in plan:
        jobs.append(job(data, args.device, cells, batch_size, epochs, attacked))
        if args.device == "cuda":
            jobs[-1]["peak_bytes"] = torch.cuda.max_memory_allocated()
            torch.cuda.reset_peak_memory_stats()
        print(json.dumps({name: v for name, v in jobs[-1].items() if name != "pgd_settings"}))
    machine = describe(args.device)
    name = re.sub(r"[^a-z0-9]+", "-", f"mnist {machine.get('gpu', machine['cpu'])}".lower())
    args.out.mkdir(parents=True, exist_ok=True)
    written = args.out / f"{name.strip('-')}.json"
    written.write_text(json.dumps({"machine": machine, "jobs": jobs}, indent=1) + "\n")
    print(written)
    return 0


if __name__ == "__main__":
    sys.exit(main())
