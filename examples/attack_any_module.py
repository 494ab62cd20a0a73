"""The attacks take any nn.Module that maps pictures to logits: here a small convolutional net."""

import torch
from torch import nn

from cerebsim import FGSM, PGD, Noise, evaluate, load_data


def train(net: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int = 15) -> None:
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
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.2),  # evaluate() puts the module in eval mode, and back
        nn.Linear(512, 10),
    )
    train(net, *data.train)
    eps = [0.02, 0.05, 0.1]
    attacks = [Noise(eps), FGSM(eps, loss="ce"), PGD(eps, loss="ce"), PGD(eps, loss="margin")]
    print(evaluate(net, data.test, attacks=attacks))

    # One attack alone gives the pictures; a loss may be any function (B, c), (B,) -> (B,).
    def zeros_look_like_ones(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return logits[:, 1] - logits[:, 0]

    zeros = data.test.y == 0
    attack = PGD(eps=0.2, loss=zeros_look_like_ones)
    result = attack.attack(net, data.test.x[zeros], data.test.y[zeros])
    print(f"{len(result.success)} zeros now look like {result.decisions.tolist()}")


if __name__ == "__main__":
    main()
