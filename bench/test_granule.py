"""h = relu(J^T x), alone and with the gradient to x."""


def test_forward(measure):
    measure("granule")


def test_forward_and_input_gradient(measure):
    measure("granule_gradient")
