"""How accuracy and robustness change with the number of granule cells, on the CPU or a GPU.

python examples/width_scan.py --device cuda --granule-cells 1e3 1e4 1e5 1e6 1e7 --data mnist

The cells of a small network are the first of a large one with the same seed, so what a line adds
to the line before is cells and nothing else.
"""

import argparse
import time

import torch

from cerebsim import PGD, Cerebellum, evaluate, load_data


def peak_memory(device: str) -> str:
    """Of the device since the last call, in GB; the CPU's allocator does not say."""
    if torch.device(device).type != "cuda":
        return "-"
    peak = torch.cuda.max_memory_allocated(device) / 1e9
    torch.cuda.reset_peak_memory_stats(device)
    return f"{peak:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--granule-cells", type=float, nargs="+", default=[1e2, 1e3, 1e4])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data", default="digits", help="digits or mnist")
    parser.add_argument("--data-dir", help="the folder that holds MNIST/raw")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--eps", type=float, default=0.05)
    parser.add_argument("--limit", type=int, default=100, help="pictures to attack")
    args = parser.parse_args()

    data = load_data(args.data, args.data_dir)
    d, c = data.train.x[0].numel(), len(data.classes)
    attacks = [PGD(args.eps, loss="mse"), PGD(args.eps, loss="margin")]
    print(
        f"{'m':>12} {'clean':>8} {'MSE':>8} {'margin':>8} {'learning':>10} {'attacks':>9} {'GB':>6}"
    )
    for m in map(int, args.granule_cells):
        net = Cerebellum(d, m, c, fan_in=4, ltd=True, seed=0, device=args.device)
        began = time.perf_counter()
        net.fit(data.train, epochs=args.epochs, batch_size=50, progress=False)
        learned = time.perf_counter()
        found = evaluate(net, data.test, attacks, limit=args.limit, progress=False)
        seconds = f"{learned - began:9.1f}s {time.perf_counter() - learned:8.1f}s"
        shares = " ".join(
            f"{share:8.1%}" for share in (found.clean, *(r.accuracy for r in found.rows))
        )
        print(f"{m:12,} {shares} {seconds} {peak_memory(args.device):>6}")


if __name__ == "__main__":
    main()
