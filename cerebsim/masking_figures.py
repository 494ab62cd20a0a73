"""Floor 8: the figure of every check, drawn from its numbers alone: nothing is computed here.

Each function draws on a part of a matplotlib figure (a SubFigure); figures are light in meaning:
blue is the attack under examination, grey what it is compared with, red a limit.
"""

OURS, OTHER, LIMIT, THIRD = "#0072B2", "#999999", "#D55E00", "#E69F00"


def table_of_preconditions(part, n: dict) -> None:
    def yes(value: bool) -> str:
        return "yes" if value else "NO"

    found = "-" if n["accuracy"] is None else f"{n['accuracy']:.2%}"
    _table(part, [
        [f"{n['forwards']} forward passes equal", yes(n["forwards_equal"])],
        ["eval mode", yes(n["eval"])],
        ["network unchanged by the attack", yes(n["frozen"])],
        ["largest change of a pixel", f"{n['distance']:.8f} (eps {n['eps']:g})"],
        ["pixels of the saved pictures", f"{n['low']:g} to {n['high']:g}"],
        ["accuracy, as reported", f"{n['accuracy_reported']:.2%}"],
        ["accuracy, float64 from the file", found],
    ])  # fmt: skip


def gradient_scatter(part, n: dict) -> None:
    axes = _axes(part, "gradient in float64, relative to the largest", "gradient used")
    axes.axline((0, 0), slope=1, color=LIMIT, lw=1)
    axes.plot(n["exact"], n["fast"], ".", ms=3, color=OURS, alpha=0.6)


def norms_over_steps(part, n: dict) -> None:
    left, right = part.subplots(1, 2)
    _dress(left, "step", "norm of the gradient")
    low, middle, high = zip(*n["norms"], strict=True)
    steps = range(1, len(low) + 1)
    left.fill_between(steps, low, high, color=OURS, alpha=0.25, lw=0, label="5 to 95 %")
    left.plot(steps, middle, color=OURS, label="median")
    left.set_yscale("symlog", linthresh=1e-6)
    left.legend(frameon=False, fontsize=8)
    _dress(right, "step", "pixels without a gradient, %")
    right.bar(steps, [100 * share for share in n["zero_pixels"]], color=OURS, width=0.9)
    right.axhline(100 * n["unread"] + 1, color=LIMIT, lw=1, label="most allowed")
    right.legend(frameon=False, fontsize=8)


def fgsm_bars(part, n: dict) -> None:
    axes = _axes(part, f"on the loss {n['loss']}", "accuracy, %")
    _bars(axes, {"no attack": n["clean"], "FGSM, one step": n["fgsm"], "PGD": n["pgd"]}, "PGD")


def steps_curve(part, n: dict) -> None:
    axes = _axes(part, "iterations", "accuracy, %")
    _curve(axes, n["steps"], n["accuracies"], n["examined"])
    axes.set_xscale("log", base=2)
    axes.set_xticks(n["steps"], [str(s) for s in n["steps"]])


def step_size_curve(part, n: dict) -> None:
    axes = _axes(part, "step / eps", "accuracy, %")
    _curve(axes, n["ratios"], n["accuracies"], n["examined"])
    axes.set_xscale("log")
    axes.set_xticks(n["ratios"], [f"{r:.3g}" for r in n["ratios"]])
    axes.minorticks_off()


def restarts_curve(part, n: dict) -> None:
    axes = _axes(part, "random starts", "accuracy, %")
    _curve(axes, range(1, len(n["accuracies"]) + 1), n["accuracies"])
    axes.xaxis.get_major_locator().set_params(integer=True)


def eps_curve(part, n: dict) -> None:
    axes = _axes(part, "eps", "accuracy, %")
    _curve(axes, n["eps"], n["accuracies"])
    axes.plot([0.5], [100 * n["chance"]], "_", ms=16, mew=2, color=LIMIT, label="chance")
    axes.plot([0], [100 * n["clean"]], "x", ms=8, mew=2, color="black", label="no attack")
    axes.legend(frameon=False, fontsize=8)


def loss_bars(part, n: dict) -> None:
    left, right = part.subplots(1, 2, width_ratios=(1.4, 1))
    _dress(left, "loss climbed", "accuracy, %")
    bars = {"none": n["clean"], **n["accuracies"], "worst case": n["worst"]}
    _bars(left, bars, n["loss"])
    _dress(right, "", "mean output")
    right.set_title(f"{n['survivors']} survivors", fontsize=9)
    names, colours = ("right", "best other", "all others"), (OURS, LIMIT, OTHER)
    if n["logits"]["clean"] is None:
        right.text(0.5, 0.5, "none", transform=right.transAxes, ha="center", color=OTHER)
        right.set_xticks([])
        right.set_yticks([])
        return
    for i, (name, colour) in enumerate(zip(names, colours, strict=True)):
        values = [n["logits"][when][i] for when in ("clean", "attacked")]
        right.plot(["clean", "attacked"], values, marker="o", color=colour, label=name)
    right.margins(x=0.25)
    right.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.12),
                 ncols=3, handlelength=1, columnspacing=1)  # fmt: skip


def scale_curve(part, n: dict) -> None:
    axes = _axes(part, "outputs", "accuracy, %")
    for (loss, values), style in zip(n["accuracies"].items(), ("o-", "s--"), strict=False):
        names = sorted(values, key=lambda name: float(name[2:]) if name[0] == "x" else 1e99)
        shares = [100 * values[name] for name in names]
        axes.plot(names, shares, style, color=OURS if loss == "margin" else THIRD, label=loss)
    axes.set_ylim(-3, 103)
    axes.legend(frameon=False, fontsize=8)


def loss_scatter(part, n: dict) -> None:
    axes = _axes(part, f"final loss ({n['loss']})", "margin (above 0: fooled)")
    for wrong, colour, name in ((False, OTHER, "decided right"), (True, OURS, "fooled")):
        points = [p for p in zip(n["final"], n["margins"], strict=True) if (p[1] > 0) == wrong]
        if points:
            axes.plot(*zip(*points, strict=True), ".", ms=4, color=colour, label=name)
    axes.axhline(0, color=LIMIT, lw=1)
    axes.legend(frameon=False, fontsize=8)


def square_curve(part, n: dict) -> None:
    axes = _axes(part, "queries", "accuracy, %")
    axes.plot(n["queries"], [100 * a for a in n["accuracies"]], color=THIRD, label="Square")
    axes.axhline(100 * n["attack"], color=OURS, label="the attack")
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xlim(left=0)
    axes.set_ylim(-3, 103)
    axes.legend(frameon=False, fontsize=8)


def noise_strip(part, n: dict) -> None:
    axes = _axes(part, "", "margin (above 0: fooled)")
    for i, (name, values) in enumerate(n["margins"].items()):
        spots = [i - 0.3 + 0.6 * ((j * 0.618034) % 1) for j in range(len(values))]  # no overlaps
        axes.plot(spots, values, ".", ms=3, color=OURS if name == "the attack" else OTHER)
    axes.axhline(0, color=LIMIT, lw=1)
    axes.set_xticks(range(len(n["margins"])), list(n["margins"]), fontsize=8)


def transfer_map(part, n: dict) -> None:
    axes = part.subplots()
    values = [[100 * a for a in row] for row in n["accuracies"]]
    axes.imshow(values, vmin=0, vmax=100, cmap="Blues", aspect="auto")
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            colour = "white" if value > 60 else "black"
            axes.text(j, i, f"{value:.1f}", ha="center", va="center", color=colour, fontsize=8)
    names = [name[-14:] for name in n["names"]]  # of a path the end tells more
    axes.set_xticks(range(len(values)), names, fontsize=8)
    axes.set_yticks(range(len(values)), names, fontsize=8)
    axes.set_xlabel("accuracy (%) of")
    axes.set_ylabel("pictures made on")


def autoattack_table(part, n: dict) -> None:
    _table(part, [
        ["no attack", f"{n['clean']:.2%}"],
        ["the attack", f"{n['attack']:.2%}"],
        ["AutoAttack, standard", f"{n['theirs']:.2%}"],
    ])  # fmt: skip


def binarization_scatter(part, n: dict) -> None:
    axes = _axes(part, "score that random noise finds", "score that the attack finds")
    axes.plot(n["random_scores"], n["scores"], ".", color=OURS)
    axes.axhline(0, color=LIMIT, lw=1)
    axes.axvline(0, color=LIMIT, lw=1)
    axes.set_title("one point per picture; above 0: found", fontsize=9)


def landscape_contours(part, n: dict) -> None:
    axes = _axes(part, "along random signs", "along the gradient's signs")
    eps, grid = n["eps"], n["grid"]
    ticks = [eps * (2 * i / (len(grid) - 1) - 1) for i in range(len(grid))]
    filled = axes.contourf(ticks, ticks, grid, levels=20, cmap="viridis")
    part.colorbar(filled, ax=axes, label="loss, one picture")


def _axes(part, across: str, up: str):
    axes = part.subplots()
    _dress(axes, across, up)
    return axes


def _dress(axes, across: str, up: str) -> None:
    axes.set_xlabel(across, fontsize=9)
    axes.set_ylabel(up, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _bars(axes, shares: dict[str, float], ours: str) -> None:
    values = [100 * share for share in shares.values()]
    colours = [OURS if name == ours else OTHER for name in shares]
    drawn = axes.bar(list(shares), values, color=colours, width=0.7)
    axes.bar_label(drawn, fmt="%.1f", fontsize=8, padding=2)
    axes.set_ylim(0, 112)
    axes.set_yticks(range(0, 101, 20))


def _curve(axes, across, shares, examined: list | None = None) -> None:
    axes.plot(list(across), [100 * share for share in shares], "o-", ms=4, color=OURS)
    axes.set_ylim(-3, 103)
    if examined is not None:
        x, share = examined
        axes.plot([x], [100 * share], "D", ms=7, mfc="none", color=LIMIT, label="as examined")
        axes.legend(frameon=False, fontsize=8)


def _table(part, rows: list[list[str]]) -> None:
    axes = part.subplots()
    axes.axis("off")
    table = axes.table(rows, loc="center", cellLoc="left", colWidths=(0.6, 0.4))
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    table.scale(1, 1.5)
