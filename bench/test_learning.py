"""One training step: forward, LTD, delta rule, RMSprop."""


def test_step(measure):
    measure("learn")
