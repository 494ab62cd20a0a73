"""The paper's PGD climbs the MSE and finds a robust network; a sound PGD does not.

MSE also rises when all outputs fall together, which changes no decision. The margin, the largest
other output minus the right one, rises exactly when the decision comes nearer to a change.
"""

from cerebsim import PGD, Cerebellum, load_data, preset
from cerebsim.losses import margin, mse


def main(eps: float = 0.1) -> None:
    data = load_data("digits")
    x, y = data.test
    net = Cerebellum(mossy_fibers=64, granule_cells=5_000, fan_in=4, ltd=True, seed=0)
    # Batch 1, as in the paper's table 7: many updates and a noisy moving average.
    net.fit(data.train, epochs=4, batch_size=1)

    attacks = {
        "paper: MSE, last iterate": PGD(eps, **preset("paper").attack),
        "sound: margin, best iterate": PGD(eps, loss="margin"),
    }
    print(f"{'eps ' + str(eps):30}{'accuracy':>10}{'MSE':>10}{'margin':>10}")
    logits = net(x).detach()
    right = (logits.argmax(1) == y).float().mean().item()
    print(f"{'clean':30}{right:10.1%}{mse(logits, y).mean():10.3f}{margin(logits, y).mean():10.3f}")
    for name, attack in attacks.items():
        result = attack.attack(net, x, y)
        logits = net(result.adversarial).detach()
        losses = f"{mse(logits, y).mean():10.3f}{margin(logits, y).mean():10.3f}"
        print(f"{name:30}{result.accuracy:10.1%}{losses}")


if __name__ == "__main__":
    main()
