"""One step of PGD up the squared error: forward, gradient to x, step, projection."""


def test_step(measure):
    measure("pgd")
