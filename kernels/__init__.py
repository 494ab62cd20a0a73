"""The source folder of `cerebsim.kernels`."""

if __name__ != "cerebsim.kernels":
    raise ImportError(
        f"{__name__!r} is the source folder of cerebsim.kernels and not a package of its own. "
        "Install the package (pip install -e .) and import cerebsim.kernels."
    )
