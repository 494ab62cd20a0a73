"""The attacks take any nn.Module that maps pictures to logits: here a small convolutional net."""

import torch
from torch import nn

from cerebsim import FGSM, PGD, Noise, evaluate, load_data


def train(net: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int = 8) -> None:
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()


def main() -> None:
    torch.manual_seed(0)
    data = load_data("digits")
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.2),  # evaluate() puts the module in eval mode, and back
        nn.Linear(512, 10),
    )
    train(net, *data.train)
    eps = [0.02, 0.1]
    attacks = [Noise(eps), FGSM(eps, loss="ce"), PGD(eps, loss="ce"), PGD(eps, loss="margin")]
    print(evaluate(net, data.test, attacks=attacks, limit=100))

    # One attack alone gives the pictures; targeted, the labels are those that the net shall see.
    zeros = data.test.x[data.test.y == 0]
    ones = torch.ones(len(zeros), dtype=torch.int64)
    result = PGD(eps=0.3, targeted=True).attack(net, zeros, ones)
    print(f"{int(result.success.sum())} of {len(zeros)} zeros are taken for ones at eps 0.3")


if __name__ == "__main__":
    main()
