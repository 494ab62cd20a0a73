"""Train a cerebellum on real digits, attack it, keep it."""

import sys
from pathlib import Path

from cerebsim import PGD, Cerebellum, Noise, evaluate, load_data


def main(folder: str = "runs/example") -> None:
    data = load_data("digits")
    net = Cerebellum(mossy_fibers=64, granule_cells=10_000, fan_in=4, ltd=True, seed=0)
    history = net.fit(data.train, data.test, epochs=5, batch_size=50)
    print(f"test accuracy after each epoch: {[round(a, 3) for a in history.test_accuracy]}")

    # An eps is the largest change of any pixel, on the scale 0..1.
    attacks = [Noise(eps=[0.02, 0.05]), PGD(eps=[0.02, 0.05], loss="margin")]
    print(evaluate(net, data.test, attacks=attacks))

    net.save(Path(folder))
    again = Cerebellum.load(Path(folder))
    assert again(data.test.x).equal(net(data.test.x))
    print(f"kept in {folder}")


if __name__ == "__main__":
    main(*sys.argv[1:])
