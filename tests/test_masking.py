import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cerebsim import PGD, Cerebellum, Noise, Square, load_data, masking, results
from cerebsim import masking_binary as binary
from cerebsim import masking_gradient as gradient
from cerebsim import masking_losses as losses
from cerebsim import masking_others as others
from cerebsim import masking_report as report_
from cerebsim import masking_search as search
from cerebsim.ascent import HasLossGradient
from cerebsim.cli import main
from cerebsim.config import PRESETS
from cerebsim.errors import ArgumentError
from cerebsim.losses import margin
from cerebsim.masking_case import Case, Effort, NotRun, exactly, rescaled

EPS = 0.3
SHORT = Effort(doublings=3, restarts=4, queries=200, draws=30, source_cells=200, source_epochs=1,
               binarized=8, inner_points=99, landscapes=4, grid=11)  # fmt: skip
TINY = replace(SHORT, restarts=2, doublings=1, queries=20, draws=5, binarized=2)
SOUND, PAPER = PGD(EPS), PGD(EPS, **PRESETS["paper"].attack)


@pytest.fixture(scope="module", autouse=True)
def without_autoattack():
    """Installed or not: it takes ten seconds where a gradient is masked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "pyautoattack", None)
        yield


@pytest.fixture(autouse=True)
def one_thread(two_threads):
    """On networks as small as these, threads only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def data():
    return load_data("digits")


@pytest.fixture(scope="module")
def pictures(data):
    return data.test.first(40)


def circuit(data, batch_size):
    torch.set_num_threads(1)
    net = Cerebellum(64, 500, replacement=True)
    net.fit(data.train, epochs=10, batch_size=batch_size, progress=False)
    return net


@pytest.fixture(scope="module")
def plain(data):
    return circuit(data, 50)


@pytest.fixture(scope="module")
def batch_1(data):
    return circuit(data, 1)


class FourBits(nn.Module):
    """The network behind a picture of 16 grey levels: rounding has no gradient."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net((x * 15).round() / 15)


@pytest.fixture(scope="module")
def sound(plain, pictures, data):
    return masking.examine(plain, pictures, SOUND, data=data, effort=SHORT)


@pytest.fixture(scope="module")
def papers(batch_1, pictures):
    return masking.examine(batch_1, pictures, PAPER, effort=SHORT)


@pytest.fixture(scope="module")
def quantised(plain, pictures):
    return masking.examine(FourBits(plain), pictures, SOUND, effort=SHORT)


# It passes and fails where it must: the last paragraph of the protocol.


def test_margin_pgd_on_the_plain_model_passes_all_that_run(sound):
    assert sound.numbers_of("failed") == sound.numbers_of("warning") == []
    assert sound.numbers_of("not run") == [14] and sound.verdict == "trusted on condition"
    assert sound.accuracy == sound.worst_case == 0 and sound.clean > 0.9
    assert sound.findings[15].numbers["fitted"] == SHORT.binarized
    assert sound.findings[10].numbers["against"] == sound.findings[10].numbers["lost"] == 0


def test_the_papers_attack_on_a_batch_1_model_fails(papers):
    assert {8, 10} <= set(papers.numbers_of("failed"))
    assert papers.verdict == "not to be trusted" and "8" in papers.reason
    assert papers.accuracy > 0.3 and papers.worst_case == 0
    numbers = papers.findings[10].numbers
    assert numbers["auroc"] < 0.5 and losses.LEAST_AUROC == 0.9
    clean, attacked = (papers.findings[8].numbers["logits"][k] for k in ("clean", "attacked"))
    assert all(after < before for before, after in zip(clean, attacked, strict=True))


def test_a_quantised_model_fails(quantised):
    assert {2, 11} <= set(quantised.numbers_of("failed"))
    assert quantised.findings[2].numbers["pictures_without"] == 1
    assert set(quantised.findings[2].numbers["zero_pixels"]) == {1.0}
    assert quantised.verdict == "not to be trusted" and quantised.accuracy > 0.8
    assert quantised.findings[11].numbers["accuracies"][-1] < 0.1


# The verdict.


def finding(number, status):
    return masking.Finding(number, "a check", status, "A sentence.", {})


def report(*statuses):
    findings = [finding(number, status) for number, status in enumerate(statuses)]
    return masking.Report(SOUND.__dict__, 100, 0.95, 0.1, 0.05, {}, findings)


def test_a_check_that_did_not_run_makes_trust_conditional():
    assert report("passed", "passed").verdict == "trusted"
    assert report("passed", "warning").verdict == "trusted"
    conditional = report("passed", "not run", "not run", "passed", "not run")
    assert conditional.verdict == "trusted on condition"
    assert "checks 1, 2 and 4, not run" in conditional.reason
    assert report("not run", "failed").verdict == "not to be trusted"


def test_a_report_survives_its_record(papers):
    text = json.dumps(papers.as_dict(), allow_nan=False)
    again = masking.Report.from_dict(json.loads(text))
    assert again.as_dict() == json.loads(text) and str(again) == str(papers)
    assert str(papers).startswith("NOT TO BE TRUSTED: PGD on mse reports ")
    assert len(str(papers).splitlines()) == 2 + len(masking.CHECKS)


def test_the_checks_are_the_protocols():
    assert [check.number for check in masking.CHECKS] == list(range(17))
    assert [check.number for check in masking.CHECKS if check.only_warns] == [16]
    effort = Effort()
    assert (effort.forwards, effort.gradients, effort.restarts) == (5, 256, 20)
    assert (effort.queries, effort.draws, effort.inner_points) == (5000, 1000, 999)
    assert search.FIRST_STEPS * 2**effort.doublings == 160 and effort.grid == 21


def test_the_tolerance_is_that_of_the_number_of_pictures(plain, monkeypatch):
    seen = []

    def note(case):
        seen.append(case.tolerance)
        raise NotRun("enough")

    only = (replace(masking.CHECKS[0], computation=note),)
    monkeypatch.setattr(masking, "CHECKS", only)
    for n in (1000, 10_000):
        masking.examine(plain, (torch.zeros(n, 64), torch.zeros(n).long()), PGD(0.1, steps=1))
    assert seen == [0.02, 0.005]


def test_examine_leaves_the_network_alone_and_says_what_it_does(plain, pictures):
    before, said = {k: v.clone() for k, v in plain.state_dict().items()}, []
    plain.train()
    masking.examine(plain, pictures.first(3), PGD(0.1, steps=2), effort=TINY, progress=said.append)
    assert plain.training
    plain.eval()
    assert all(torch.equal(before[k], v) for k, v in plain.state_dict().items())
    assert [s for s in said if s in [f"{c.number} {c.name}" for c in masking.CHECKS]] == [
        f"{c.number} {c.name}" for c in masking.CHECKS
    ]


@pytest.mark.parametrize("attack", [PGD([0.1, 0.2]), Noise(0.1), PGD(0.1, targeted=True),
                                    PGD(0.1, loss=margin)])  # fmt: skip
def test_examine_wants_one_pgd_on_a_named_loss(attack, plain, pictures):
    with pytest.raises(ArgumentError, match="attack: got"):
        masking.examine(plain, pictures, attack)


# The checks one by one, where the three models above do not make them fail.


class Drifting(nn.Module):
    """A network that is another one at every call."""

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.net(x) * (1 + 1e-3 * self.calls)


def test_nothing_is_run_where_the_preconditions_fail(plain, pictures):
    found = masking.examine(Drifting(plain), pictures.first(5), SOUND, effort=SHORT)
    assert found.numbers_of("failed") == [0] and len(found.numbers_of("not run")) == 16
    assert "5 forward passes of the same pictures differ" in found.findings[0].sentence
    assert "the attack changed the network" in found.findings[0].sentence
    assert found.verdict == "not to be trusted"


def test_preconditions_name_every_fault():
    good = {"forwards": 5, "forwards_equal": True, "eval": True, "frozen": True, "faults": [],
            "distance": 0.1, "accuracy": 0.5, "accuracy_reported": 0.5,
            "tolerance": 0.02}  # fmt: skip
    assert gradient.preconditions_hold(good)[0]
    for change in ({"forwards_equal": False}, {"eval": False}, {"frozen": False},
                   {"faults": ["a pixel moved"]}, {"accuracy_reported": 0.47}):  # fmt: skip
        assert not gradient.preconditions_hold(good | change)[0]


def test_a_wrong_gradient_is_found(plain, pictures):
    class Wrong(Cerebellum):
        def loss_gradient(self, x, output_gradient):
            logits, g = super().loss_gradient(x, output_gradient)
            return logits, g + 0.05 * g.abs().amax() * (x > 0.5)

    wrong = Wrong(64, 500, replacement=True)
    wrong.load_state_dict(plain.state_dict())
    for net, good in ((plain, True), (wrong, False)):
        numbers = gradient.gradient_agreement(Case(net, *pictures, SOUND))
        assert gradient.gradient_is_right(numbers)[0] == good


def test_pixels_that_no_cell_reads_are_no_fault(pictures):
    few = Cerebellum(64, 60, fan_in=2).eval()
    numbers = gradient.zero_gradients(Case(few, *pictures, PGD(0.1, steps=3)))
    assert numbers["unread"] == pytest.approx((1 - 1 / 64) ** 120)
    assert len(numbers["zero_pixels"]) == len(numbers["norms"]) == 3
    there = numbers | {"zero_pixels": [numbers["unread"] + 0.009]}
    assert gradient.gradients_are_there(there)[0]
    assert not gradient.gradients_are_there(there | {"unread": 0.0})[0]
    assert not gradient.gradients_are_there(there | {"pictures_without": 0.01})[0]


def test_a_trace_is_the_attack_step_by_step(plain, pictures):
    x, y = pictures.first(10)
    case = Case(plain, x, y, replace(SOUND, steps=4), batch_size=4)
    trace = case.trace
    assert trace.logits.shape == (5, 10, 10) and trace.norms.shape == trace.zeros.shape == (4, 10)
    last = replace(case.attack, keep="last").attack(plain, x, y)
    torch.testing.assert_close(trace.losses[-1], last.loss)
    two = replace(case.attack, keep="last", steps=2, alpha=2.5 * EPS / 4).attack(plain, x, y)
    torch.testing.assert_close(trace.losses[2], two.loss)
    start = replace(PAPER, steps=2)
    assert not Case(plain, x, y, start).trace.wrong(Case(plain, x, y, start))[0].any()


RULES = [
    (search.pgd_is_stronger, {"pgd": 0.52, "fgsm": 0.5, "tolerance": 0.02}, {"pgd": 0.53}),
    (search.steps_suffice, {"steps": [80, 160], "accuracies": [0.105, 0.1], "moving": 0.05},
     {"accuracies": [0.11, 0.1]}),
    (search.steps_suffice, {"steps": [80, 160], "accuracies": [0.1, 0.1], "moving": 0.05},
     {"moving": 0.06}),
    (search.step_size_is_good, {"examined": [0.1, 0.11], "accuracies": [0.5, 0.1]},
     {"examined": [0.1, 0.12]}),
    (search.restarts_gain_nothing, {"accuracies": [0.9] + 9 * [0.105] + 10 * [0.1]},
     {"accuracies": [0.9] + 9 * [0.106] + 10 * [0.1]}),
    (search.accuracy_falls_to_nothing,
     {"eps": [0.0, 0.2, 0.5, 1.0], "accuracies": [0.9, 0.5, 0.1, 0.001], "clean": 0.9,
      "chance": 0.1}, {"accuracies": [0.9, 0.5, 0.1, 0.002]}),
    (search.accuracy_falls_to_nothing,
     {"eps": [0.0, 0.2, 0.5, 1.0], "accuracies": [0.9, 0.05, 0.05, 0.0], "clean": 0.9,
      "chance": 0.1}, {"accuracies": [0.9, 0.04, 0.05, 0.0]}),
    (search.noise_never_wins, {"only_noise": 0, "tried": 7}, {"only_noise": 1}),
    (losses.scale_does_not_matter, {"accuracies": {"dlr": {"x 1": 0.5, "x 1000": 0.501}}},
     {"accuracies": {"dlr": {"x 1": 0.5, "x 1000": 0.502}}}),
    (losses.loss_follows_success,
     {"loss": "mse", "keep": "last", "auroc": 0.9, "against": 0.05, "lost": 0.05},
     {"auroc": 0.89}),
    (losses.loss_follows_success,
     {"loss": "mse", "keep": "best", "auroc": None, "against": 0.0, "lost": 0.0},
     {"lost": 0.01}),
    (others.square_is_no_better,
     {"attack": 0.102, "accuracies": [1.0, 0.1], "queries": [0, 5000]}, {"attack": 0.103}),
    (others.transfer_is_no_better,
     {"attack": 0.1, "names": ["a", "this network"], "accuracies": [[0.0, 0.1], [1.0, 0.1]]},
     {"attack": 0.11}),
    (others.ours_is_close, {"attack": 0.12, "theirs": 0.1}, {"attack": 0.13}),
    (binary.the_findable_is_found, {"fitted": 100, "found": 0.95, "random": 0.0},
     {"found": 0.94}),
    (gradient.landscape_is_smooth, {"mean_variability": 0.1}, {"mean_variability": 0.11}),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "good", "change"), RULES)
def test_every_rule_has_the_protocols_threshold(rule, good, change):
    assert rule(good)[0] and not rule(good | change)[0]
    assert all(rule(n)[1].endswith(".") for n in (good, good | change))


def test_a_fixed_step_grows_with_eps():
    x, y = torch.zeros(1, 4), torch.zeros(1).long()
    fixed = Case(nn.Linear(4, 2), x, y, PGD(0.1, alpha=0.01))
    assert fixed.at(1.0).alpha == pytest.approx(0.1) and fixed.at(0.0).alpha == 0.01
    assert Case(nn.Linear(4, 2), x, y, PGD(0.1)).at(1.0).alpha is None


def test_auroc_is_the_share_of_ordered_pairs():
    assert losses.auroc([3, 4], [1, 2]) == 1 and losses.auroc([1], [2]) == 0
    assert losses.auroc([2, 1], [1, 2]) == 0.5 and losses.auroc([1], [1]) == 0.5
    assert losses.auroc([], [1]) is None


def test_rescaled_has_the_gradient_of_the_rescaled_outputs(plain, pictures):
    x, y = pictures.first(5)
    assert not isinstance(rescaled(FourBits(plain)), HasLossGradient)
    net = rescaled(plain, 3.0, 2.0)
    torch.testing.assert_close(net(x), 3 * plain(x) + 2)
    pull = torch.rand(5, 10)
    logits, g = net.loss_gradient(x, lambda logits: pull * logits)
    x = x.clone().requires_grad_()
    out = net(x)
    (expected,) = torch.autograd.grad(out, x, pull * out.detach())
    torch.testing.assert_close(g, expected)
    torch.testing.assert_close(logits, out.detach())


def test_exactly_is_a_copy_in_float64(plain, pictures):
    with exactly(plain) as exact:
        assert exact(pictures.x[:2].double()).dtype == torch.float64
    assert plain.W.dtype == torch.float32


# Binarization, transfer, and networks that are no cerebellum.


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_refitted_readout_tells_the_boundary_point_from_the_others(plain, pictures, wrapped):
    net = FourBits(plain) if wrapped else plain
    points = (pictures.x[0] + 0.2 * torch.randn(30, 1, 8, 8)).clamp(0, 1)
    said = binary._Refitted(net).fit(points)(points).argmax(1)
    assert said.tolist() == 29 * [0] + [1]
    assert len(plain.W) == 10 and plain.mu is not None


def test_any_module_can_be_examined(pictures):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 30), nn.ReLU(), nn.Linear(30, 2))
    x, y = pictures.first(20)
    y = net(x).argmax(1)
    found = masking.examine(net, (x, y), SOUND, effort=TINY)
    assert found.numbers_of("failed") == [] and found.verdict == "trusted on condition"
    assert set(found.numbers_of("not run")) == {13, 14}
    assert "margin" in found.findings[8].numbers["accuracies"]
    assert "dlr" not in found.findings[8].numbers["accuracies"]


def test_what_makes_no_sense_is_not_run(plain, pictures):
    x, y = pictures.first(5)
    flat = Case(plain, x.flatten(1), y, SOUND)
    with pytest.raises(NotRun, match=r"shape \(5, 64\), expected pictures of shape \(N, C, H, W\)"):
        others.square(flat)
    with pytest.raises(NotRun, match=r"pip install cerebsim\[attacks\]$"):
        others.autoattack(Case(plain, x, y, SOUND))
    with pytest.raises(NotRun, match=r"within 0\.\.1"):
        others.autoattack(Case(plain, x, y, PGD(EPS, bounds=(-1, 1))))
    with pytest.raises(NotRun, match="no other networks"):
        others.transfer(flat)
    with pytest.raises(NotRun, match="at least 3"):
        others.transfer(Case(plain, x, y, SOUND, sources={"one": plain}))
    with pytest.raises(NotRun, match="three outputs"):
        binary.binarization(Case(plain, x, y, PGD(EPS, loss="dlr")))
    with pytest.raises(NotRun, match="no readout"):
        binary.binarization(Case(nn.Flatten(), x, y, SOUND))
    with pytest.raises(NotRun, match="repeat each other"):
        search.restarts(Case(plain, x, y, replace(SOUND, random_start=False)))


def test_autoattack_is_compared_where_it_is_installed(batch_1, pictures, monkeypatch):
    class AutoAttack:
        def __init__(self, net, **settings):
            self.net, self.settings = net, settings
            self.apgd_targeted, self.fab = SimpleNamespace(), SimpleNamespace()

        def run_standard_evaluation(self, x, y, *, batch_size):
            made = PGD(self.settings["eps"]).attack(self.net, x, y).adversarial
            return made, None

    monkeypatch.setitem(sys.modules, "pyautoattack", SimpleNamespace(AutoAttack=AutoAttack))
    numbers = others.autoattack(Case(batch_1, *pictures, PAPER))
    assert numbers["theirs"] == 0 and not others.ours_is_close(numbers)[0]
    with pytest.raises(NotRun, match="expected pictures of shape"):
        others.autoattack(Case(batch_1, pictures.x.flatten(1), pictures.y, PAPER))
    three = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(NotRun, match="model: got 3 outputs, expected at least 4"):
        others.autoattack(Case(three, pictures.x, pictures.y % 3, PAPER))


def test_square_counts_for_the_worst_case(plain, pictures):
    x, y = pictures.first(20)
    case = Case(plain, x, y, SOUND, effort=SHORT)
    numbers = others.square(case)
    attack = Square(EPS, SHORT.queries)
    result = attack.attack(plain, x, y)
    assert numbers["queries"][0] == 0 and numbers["queries"][-1] == SHORT.queries
    assert numbers["accuracies"][0] == case.clean_accuracy
    assert numbers["accuracies"][-1] == result.accuracy == case.tried["Square"]
    assert result.accuracy < case.clean_accuracy
    assert torch.equal(case.fooled, result.success | case.result.success)


def test_transfer_from_networks_that_are_given(plain, batch_1, pictures):
    x, y = pictures.first(30)
    weak = PGD(0.05, loss="mse", steps=1, keep="last")
    sources = {"a": batch_1, "b": batch_1, "itself": plain}
    numbers = others.transfer(Case(plain, x, y, replace(weak, steps=20), sources=sources))
    assert numbers["names"] == [*sources, "this network"] and not numbers["trained_here"]
    assert numbers["accuracies"][2] == numbers["accuracies"][3]
    assert numbers["accuracies"][2][3] < numbers["accuracies"][0][3]


# The report and the command.


def test_the_report_is_a_pdf_of_every_check_that_ran(papers, sound, tmp_path):
    assert report_.save(papers, "a title", tmp_path / "a.pdf").read_bytes()[:5] == b"%PDF-"
    drawn = sum(bool(finding.numbers) for finding in sound.findings)
    assert len(report_.pages(sound, "a title")) == 1 + -(-drawn // report_.PER_PAGE)


def test_the_command_keeps_record_and_report(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "small"
    train = ["train", "--data", "digits", "--granule-cells", "200", "--epochs", "1"]
    assert main([*train, "--out", str(folder)]) == 0
    monkeypatch.setattr("cerebsim.cli_masking.Effort", lambda: TINY)
    words = ["masking", str(folder), "--attack", "paper", "--eps", "0.2", "--limit", "10"]
    capsys.readouterr()
    assert main(words) == 0
    out = capsys.readouterr().out
    checks, record, pdf = sorted((folder / "masking").iterdir())
    assert checks.name == "checks" and len(results.read_all(checks)) == 17
    assert pdf.suffix == ".pdf" and f"Record: {record}\nReport: {pdf}\n" in out
    found = results.read(record)
    assert found["verdict"].upper() in out and len(found["findings"]) == 17
    assert found["recipe"]["limit"] == 10 and found["attack"]["loss"] == "mse"
    monkeypatch.setattr(masking, "examine", lambda *a, **k: pytest.fail("examines again"))
    assert main(words) == 0 and capsys.readouterr().out == out
    assert main([*words[:2], "--eps", "0"]) == 2
    assert "eps: got 0" in capsys.readouterr().err


def test_a_stopped_examination_goes_on_with_the_next_check(plain, pictures):
    x, y = pictures.first(10)
    arguments = {"attack": replace(SOUND, steps=5), "effort": TINY}
    whole = masking.examine(plain, (x, y), **arguments).as_dict()
    done, ran = {}, []

    def stopped_at_8(name, run):
        if name == "check 8" and "check 8" not in ran:
            ran.append(name)
            raise KeyboardInterrupt
        if name not in done:
            ran.append(name)
            done[name] = json.loads(json.dumps(run()))
        return done[name]

    with pytest.raises(KeyboardInterrupt):
        masking.examine(plain, (x, y), **arguments, kept=stopped_at_8)
    report = masking.examine(plain, (x, y), **arguments, kept=stopped_at_8).as_dict()
    assert ran.count("check 8") == 2 and ran.count("check 3") == ran.count("check 9") == 1
    for finding in whole["findings"] + report["findings"]:
        finding.pop("seconds")
    assert json.dumps(report) == json.dumps(whole)
