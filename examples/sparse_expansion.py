"""The granule layer as a fast sparse expansion inside an ordinary torch network.

10,000 cells that read 4 random inputs each make a linear readout as good as a trained hidden layer;
the gradient flows on to the layer before, here a small convolution that learns with the readout.
"""

import torch
from torch import nn

from cerebsim import GranuleLayer, accuracy, load_data


def main() -> None:
    torch.manual_seed(0)
    data = load_data("digits")
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.Flatten(),
        GranuleLayer(mossy_fibers=256, granule_cells=10_000, fan_in=4, threshold=0.5, seed=0),
        nn.Linear(10_000, 10),
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    x, y = data.train
    for epoch in range(3):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
        print(f"epoch {epoch + 1}: test accuracy {accuracy(net, data.test):.1%}")

    with torch.no_grad():
        active = (net[:3](data.test.x) > 0).float().mean().item()
    print(f"{active:.1%} of the granule cells are active for a picture")


if __name__ == "__main__":
    main()
