"""y = W (h - mu), alone and with the gradient to x."""


def test_forward(measure):
    measure("circuit")


def test_forward_and_input_gradient(measure):
    measure("circuit_gradient")
