"""Runs the benchmarks and prints their ratios: python bench/report.py [RESULT.json]

Without an argument: runs them all (10 to 15 minutes on 2 cores) and writes bench/results/ as JSON
and Markdown. With one: prints the tables of a result that was written before.
"""

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
PEERS = ("eager gather", "torch.compile", "embedding_bag", "torch CSR", "scipy CSR", "dense")


def measure() -> tuple[dict, int]:
    """Runs pytest and distils its JSON; also pytest's exit status."""
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.json"
        pytest = [sys.executable, "-m", "pytest", str(HERE), "-q", "--benchmark-quiet"]
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
    for operation, title in TITLES.items():
        head = ["B", "m", "k", f"{US}, ms", *PEERS]
        lines += [f"\n## {title}\n", row_of(head), row_of(["---:"] * len(head))]
        for size in sizes:
            ours = seconds.get((operation, *size, US))
            cells = [f"{number:,}" for number in size]
            cells += [f"{1000 * ours:.3g}" if ours else reasons.get((operation, *size, US), "")]
            for peer in PEERS:
                theirs = seconds.get((operation, *size, peer))
                if theirs:
                    cells.append(f"{theirs / beside[(operation, *size, peer)]:.3g}x")
                else:
                    cells.append(reasons.get((operation, *size, peer), ""))
            lines.append(row_of(cells))
    lines += ["\n## Against the machine\n", *ceilings(result["machine"], seconds)]
    return "\n".join(lines)


def row_of(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def reason(row: dict) -> str:
    if "needs_bytes" in row:
        return f"does not fit: needs {row['needs_bytes'] / 1e9:.1f} GB"
    if "expected_seconds" in row:
        return f"about {row['expected_seconds']:.0f} s"
    return "WRONG"


def machine(m: dict) -> str:
    return (
        f"{m['cpu']}, {m['threads']} threads on {m['cores']} cores, "
        f"{m['memory_bytes'] / 2**30:.0f} GiB; "
        f"{m['multiply_adds_per_second'] / 1e9:.0f} G multiply-adds/s (float32, from registers), "
        f"copy {m['copied_bytes_per_second'] / 1e9:.1f} GB/s read + written; "
        f"torch {m['torch']}, scipy {m['versions']['scipy']}; commit {m['git_commit']}.\n"
        "Times are medians; a ratio is a peer's over ours, taken in turn with the same inputs. "
        "A training step is one of several in a row, as an epoch runs them: 16 at B=1, 4 "
        'at B=50. "about N s": not run, foretold from a smaller batch or fan-in.'
    )


def ceilings(m: dict, seconds: dict) -> list[str]:
    """What share of the machine's ceilings we reach at m = 200,000, k = 4."""
    cells, k, c = 200_000, 4, 10
    said = []
    for B in (50, 256):
        if forward := seconds.get(("circuit", B, cells, k, US)):
            share = B * cells * (k + c) / forward / m["multiply_adds_per_second"]
            said.append(f"- Circuit, forward, B={B}: {share:.0%} of the multiply-adds.")
    if learn := seconds.get(("learn", 1, cells, k, US)):
        # W, its square average and mu are read and written, J is read (16-bit indices).
        bytes_moved = cells * (8 * c + 8 * c + 8 + 6 * k)
        share = bytes_moved / learn / m["copied_bytes_per_second"]
        said.append(
            f"- Training step, B=1: {share:.0%} of the copy bandwidth "
            f"({bytes_moved / 1e6:.0f} MB; caches may hold a part of them)."
        )
    return said


def main() -> int:
    if len(sys.argv) > 1:
        print(tables(json.loads(Path(sys.argv[1]).read_text())))
        return 0
    result, status = measure()
    m = result["machine"]
    name = re.sub(r"[^a-z0-9]+", "-", f"{m['cpu']} {m['threads']} threads".lower()).strip("-")
    written = HERE / "results" / f"{name}.json"
    written.parent.mkdir(exist_ok=True)
    written.write_text(json.dumps(result, indent=1) + "\n")
    written.with_suffix(".md").write_text(tables(result) + "\n")
    print(tables(result))
    print(f"\n{written}\n{written.with_suffix('.md')}")
    return status


if __name__ == "__main__":
    sys.exit(main())
