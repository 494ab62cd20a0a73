"""Runs the benchmarks and prints their ratios: python bench/report.py [--device cuda] [RESULT.json]

Without a result: runs them all (14 minutes on 2 cores, some 4 on a GPU) and writes JSON and
Markdown to --out. With one: prints the tables of a result that was written before.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
US = "cerebsim"
TITLES = {
    "granule": "Granule cells, forward",
    "granule_gradient": "Granule cells, forward + input gradient",
    "circuit": "Circuit, forward",
    "circuit_gradient": "Circuit, forward + input gradient",
    "pgd": "PGD step",
    "learn": "Training step",
}
PEERS = (
    "cerebsim, triton",
    "eager gather",
    "torch.compile",
    "embedding_bag",
    "torch CSR",
    "scipy CSR",
    "dense",
)
d, c, FLOAT = 784, 10, 4


def measure(device: str) -> tuple[dict, int]:
    """Runs pytest and distils its JSON; also pytest's exit status."""
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.json"
        pytest = [sys.executable, "-m", "pytest", str(HERE), "-q", "--benchmark-quiet"]
        pytest += ["--device", device]
        status = subprocess.run([*pytest, f"--benchmark-json={raw}"]).returncode
        found = json.loads(raw.read_text())
    times = [distilled(row["extra_info"], row["stats"]) for row in found["benchmarks"]]
    return {"machine": found["machine"], "times": times, "left_out": found["left_out"]}, status


def distilled(info: dict, stats: dict) -> dict:
    """The times of one step of a peer, and the median of ours that were taken in turn with them."""
    info = dict(info)
    steps, beside = info["steps"], info.pop("beside_seconds")
    return {
        **info,
        "median_seconds": stats["median"] / steps,
        "min_seconds": stats["min"] / steps,
        "rounds": stats["rounds"],
        "our_median_seconds": statistics.median(beside) / steps if beside else None,
    }


def key(row: dict) -> tuple:
    return row["operation"], row["B"], row["m"], row["k"]


def tables(result: dict) -> str:
    """Every ratio (a peer's median over ours beside it), as Markdown."""
    seconds = {(*key(row), row["peer"]): row["median_seconds"] for row in result["times"]}
    beside = {(*key(row), row["peer"]): row["our_median_seconds"] for row in result["times"]}
    reasons = {(*key(row), row["peer"]): reason(row) for row in result["left_out"]}
    sizes = sorted({key(row)[1:] for row in result["times"]}, key=lambda s: (s[1], s[2], s[0]))
    lines = [machine(result["machine"])]
    peers = [peer for peer in PEERS if any(key[-1] == peer for key in {**seconds, **reasons})]
    for operation, title in TITLES.items():
        head = ["B", "m", "k", f"{US}, ms", "MB", "of copy", "G mul-adds", "of peak", *peers]
        lines += [f"\n## {title}\n", row_of(head), row_of(["---:"] * len(head))]
        for size in sizes:
            ours = seconds.get((operation, *size, US))
            cells = [f"{number:,}" for number in size]
            cells += [f"{1000 * ours:.3g}" if ours else reasons.get((operation, *size, US), "")]
            cells += shares(operation, *size, ours, result["machine"])
            for peer in peers:
                theirs = seconds.get((operation, *size, peer))
                if theirs:
                    cells.append(f"{theirs / beside[(operation, *size, peer)]:.3g}x")
                else:
                    cells.append(reasons.get((operation, *size, peer), ""))
            lines.append(row_of(cells))
    return "\n".join(lines)


def row_of(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def reason(row: dict) -> str:
    if "needs_bytes" in row:
        return f"does not fit: needs {row['needs_bytes'] / 1e9:.1f} GB"
    if "expected_seconds" in row:
        return f"about {row['expected_seconds']:.0f} s"
    if "budget_seconds" in row:
        return f"no time left of {row['budget_seconds']} s"
    if "unchecked_h" in row:
        return "too large to check in float64"
    return "WRONG"


def machine(m: dict) -> str:
    if m["device"] == "cuda":
        name = (
            f"{m['gpu']}, driver {m['driver']}, {m['gpu_memory_bytes'] / 2**30:.0f} GiB, CUDA "
            f"{m['cuda']}, triton {m['triton']}; on {m['cpu']}"
        )
        peak = "float32, of torch's matrix product"
    else:
        name = (
            f"{m['cpu']}, {m['threads']} threads on {m['cores']} cores, "
            f"{m['memory_bytes'] / 2**30:.0f} GiB"
        )
        one = m["multiply_adds_per_second_of_one_thread"] / 1e9
        peak = f"float32, from registers; one thread alone {one:.0f} G"
    return (
        f"{name}; {m['multiply_adds_per_second'] / 1e9:.0f} G multiply-adds/s ({peak}), "
        f"copy {m['copied_bytes_per_second'] / 1e9:.1f} GB/s read + written; "
        f"torch {m['torch']}, scipy {m['versions']['scipy']}; commit {m['git_commit']}.\n"
        "Times are medians; a ratio is a peer's over ours, taken in turn with the same inputs. "
        "A training step is one of several in a row, as an epoch runs them: 16 at B=1, 4 "
        'at B=50. "about N s": not run, foretold from a smaller batch or fan-in. MB and G mul-adds '
        "are the least that our operation must move and do, with every array read or written "
        "once; their shares are of the ceilings above. Caches may hold a part, so that a share of "
        "the copy can pass 100 %."
    )


def least(operation: str, B: int, m: int, k: int) -> tuple[int, int]:
    """Bytes (16-bit indices) and multiply-adds that one call cannot do without."""
    J, x, y, h = 6 * k * m, FLOAT * B * d, FLOAT * B * c, FLOAT * B * m
    W, mu = FLOAT * c * m, FLOAT * m
    cell = B * m
    return {
        "granule": (J + x + h, cell * k),
        "granule_gradient": (J + 2 * x + 2 * h, cell * 2 * k),
        "circuit": (J + W + mu + x + y, cell * (k + c)),
        "circuit_gradient": (J + W + mu + 2 * x + 2 * y, cell * 2 * (k + c)),
        "pgd": (J + W + mu + 3 * x + y, cell * 2 * (k + c)),
        "learn": (J + 4 * W + 2 * mu + x + 2 * y, cell * (k + 2 * c)),
    }[operation]


def shares(operation: str, B: int, m: int, k: int, seconds: float | None, ceiling: dict) -> list:
    moved, done = least(operation, B, m, k)
    cells = [f"{moved / 1e6:.3g}", "", f"{done / 1e9:.3g}", ""]
    if seconds:
        cells[1] = f"{moved / seconds / ceiling['copied_bytes_per_second']:.0%}"
        cells[3] = f"{done / seconds / ceiling['multiply_adds_per_second']:.0%}"
    return cells


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("result", nargs="?", type=Path)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    args = parser.parse_args()
    if args.result:
        print(tables(json.loads(args.result.read_text())))
        return 0
    result, status = measure(args.device)
    m = result["machine"]
    name = m["gpu"] if args.device == "cuda" else f"{m['cpu']} {m['threads']} threads"
    written = args.out / (re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") + ".json")
    args.out.mkdir(parents=True, exist_ok=True)
    written.write_text(json.dumps(result, indent=1) + "\n")
    written.with_suffix(".md").write_text(tables(result) + "\n")
    print(tables(result))
    print(f"\n{written}\n{written.with_suffix('.md')}")
    return status


if __name__ == "__main__":
    sys.exit(main())
