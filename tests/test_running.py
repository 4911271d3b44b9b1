import pytest
import torch

from normwise import NormError, Running
from normwise.axes import SCHEMES, Scheme, parse
from normwise.reference import measure, normalize, split, wide
from normwise.running import Remembered, recall
from tolerances import TOLERANCES, assert_close, error

CHANNELS = 4
RAGGED = torch.tensor([5, 2, 0])[:, None, None] > torch.arange(5)


def fresh(dtype=torch.float64, *, counted=True, centres=True):
    """Buffers as a layer starts with them: mean 0, variance 1, no batch seen."""
    mean = torch.zeros(CHANNELS, dtype=dtype) if centres else None
    return Remembered(mean, torch.ones(CHANNELS, dtype=dtype), torch.tensor(0) if counted else None)


def batches(count, dtype=torch.float64):
    random = torch.Generator().manual_seed(0)
    x = torch.randn(count, 3, CHANNELS, 5, generator=random, dtype=dtype)
    return (x * torch.arange(1.0, count + 1)[:, None, None, None] + 2).unbind()


def moments_of(x, mask=None, scheme=SCHEMES["batch"]):
    return normalize(x, scheme, mask=mask)[1], scheme.pattern.fit(x.dim())


def unbiased_moments(x):
    """What each batch of a batch norm is worth: mean and unbiased variance of its channels."""
    return x.mean((0, 2)), x.var((0, 2), unbiased=True)


def after(policy, seen, remembered):
    for x in seen:
        policy.update(remembered, *moments_of(x))
    return remembered


def test_ema_from_the_unit():
    mean, var = torch.zeros(CHANNELS).double(), torch.ones(CHANNELS).double()
    for x in batches(3):
        batch_mean, batch_var = unbiased_moments(x)
        mean, var = 0.7 * mean + 0.3 * batch_mean, 0.7 * var + 0.3 * batch_var
    found = after(Running(momentum=0.3), batches(3), fresh())
    assert_close(found.mean, mean)
    assert_close(found.var, var)
    assert found.batches == 3


def test_ema_from_the_first_batch():
    (mean, var), *rest = map(unbiased_moments, batches(3))
    for batch_mean, batch_var in rest:
        mean, var = 0.7 * mean + 0.3 * batch_mean, 0.7 * var + 0.3 * batch_var
    found = after(Running(momentum=0.3, start="first-batch"), batches(3), fresh())
    assert_close(found.mean, mean)
    assert_close(found.var, var)


@pytest.mark.parametrize("start", ["unit", "first-batch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cumulative_is_the_plain_average_of_all_batches(start, dtype):
    seen = batches(7, dtype)
    found = after(Running(average="cumulative", start=start), seen, fresh(dtype))
    means, variances = zip(*map(unbiased_moments, (x.double() for x in seen)), strict=True)
    assert_close(found.mean, torch.stack(means).mean(0))
    assert_close(found.var, torch.stack(variances).mean(0))


@pytest.mark.parametrize("counted", [True, False])
def test_a_momentum_of_1_keeps_the_last_batch_and_0_the_first_state(counted):
    *_, last = seen = batches(3)
    found = after(Running(momentum=1.0), seen, fresh(counted=counted))
    assert_close(found.mean, last.mean((0, 2)))
    untouched = after(Running(momentum=0.0), seen, fresh(counted=counted))
    assert not untouched.mean.any()
    assert (untouched.var == 1).all()


@pytest.mark.parametrize("policy", [Running(average="cumulative"), Running(start="first-batch")])
def test_a_policy_that_counts_batches_needs_a_counter(policy):
    with pytest.raises(NormError) as caught:
        after(policy, batches(1), fresh(counted=False))
    assert str(caught.value) == (
        f"Running(average={policy.average!r}, start={policy.start!r}) counts batches, "
        "and there is no counter to count them in"
    )


@pytest.mark.parametrize(
    "policy",
    [Running(), Running(average="cumulative"), Running(start="first-batch"), Running(momentum=1.0)],
)
@pytest.mark.parametrize(("shape", "masked"), [((3, CHANNELS, 5), True), ((0, CHANNELS, 5), False)])
def test_a_batch_without_real_positions_changes_nothing(policy, shape, masked):
    remembered = after(policy, batches(2), fresh())
    before = [buffer.clone() for buffer in remembered]
    nothing = torch.zeros(shape[0], 1, shape[2], dtype=torch.bool) if masked else None
    x = torch.full(shape, torch.nan, dtype=torch.float64)
    policy.update(remembered, *moments_of(x, nothing))
    for now, then in zip(remembered, before, strict=True):
        assert torch.equal(now, then)


def test_an_empty_first_batch_leaves_the_next_one_first():
    policy, remembered = Running(start="first-batch"), fresh()
    x, empty = batches(1)[0], torch.zeros(3, 1, 5, dtype=torch.bool)
    policy.update(remembered, *moments_of(x, empty))
    policy.update(remembered, *moments_of(x))
    assert_close(remembered.mean, x.mean((0, 2)))
    assert remembered.batches == 1


def test_only_real_positions_are_remembered():
    (x,) = batches(1)
    remembered = fresh()
    dirty = torch.where(RAGGED, x, torch.nan)
    Running(momentum=1.0).update(remembered, *moments_of(dirty, RAGGED))
    real = torch.cat([x[0], x[1, :, :2]], dim=1)
    assert_close(remembered.mean, real.mean(1))
    assert_close(remembered.var, real.var(1, unbiased=True))


def test_statistics_of_samples_are_averaged_over_the_samples_that_have_any():
    (x,) = batches(1)
    remembered = fresh()
    Running(momentum=1.0).update(remembered, *moments_of(x, RAGGED, SCHEMES["instance"]))
    real = [x[0], x[1, :, :2]]
    assert_close(remembered.mean, torch.stack([r.mean(1) for r in real]).mean(0))
    assert_close(remembered.var, torch.stack([r.var(1, unbiased=True) for r in real]).mean(0))


def test_where_nothing_is_centred_the_mean_square_is_remembered():
    (x,) = batches(1)
    scheme = Scheme(parse("[n] c [t]"), centres=False)
    remembered = fresh(centres=False)
    Running(momentum=1.0).update(remembered, *moments_of(x, scheme=scheme))
    assert_close(remembered.var, x.square().mean((0, 2)))


def test_gradients_do_not_reach_what_is_remembered():
    x = batches(1)[0].requires_grad_()
    remembered = fresh()
    Running().update(remembered, *moments_of(x))
    assert not remembered.mean.requires_grad
    assert not remembered.var.requires_grad


@pytest.mark.parametrize("momentum", [0.1, 0.9, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_buffers_are_those_of_torch(momentum, dtype):
    policy = Running(average="cumulative") if momentum is None else Running(momentum=momentum)
    remembered = fresh(dtype)
    truth = torch.nn.BatchNorm1d(CHANNELS, momentum=momentum, dtype=torch.float64)
    for x in batches(5, dtype):
        policy.update(remembered, *moments_of(x))
        truth(x.double())
    assert_close(remembered.mean, truth.running_mean)
    assert_close(remembered.var, truth.running_var)
    assert remembered.batches == truth.num_batches_tracked


@pytest.mark.parametrize("scheme", [SCHEMES["batch"], SCHEMES["instance"]])
def test_recalled_moments_standardise_each_channel_by_its_own(scheme):
    (x,) = batches(1)
    remembered = Remembered(torch.arange(4.0), torch.arange(1.0, 5.0), None)
    y, _ = normalize(x, scheme, given=recall(remembered, scheme.pattern.fit(3)), eps=0.0)
    assert_close(
        y, (x - torch.arange(4.0)[:, None]) / torch.arange(1.0, 5.0).double().sqrt()[:, None]
    )


def test_recalled_moments_of_groups():
    fitted = parse("[n] (g [c]) [t]").fit(3)
    remembered = Remembered(None, torch.tensor([4.0, 9.0]), None)
    moments = recall(remembered, fitted)
    assert moments.var.flatten().tolist() == [4.0, 9.0]
    assert split(torch.ones(3, 4, 5), fitted, {"g": 2}).dim() == moments.var.dim()
    assert moments.mean == 0


@pytest.mark.parametrize(
    ("policy", "share"),
    [
        (Running(), 1.0),
        (Running(inference="batch"), 0.0),
        (Running(inference="blend"), 0.5),
        (Running(inference="blend", running_weight=0.25), 0.25),
        (Running(inference="blend", running_weight=0.0), 0.0),
        (Running(inference="blend", running_weight=1.0), 1.0),
    ],
)
def test_which_moments_inference_uses(policy, share):
    (x,) = batches(1)
    remembered = Remembered(torch.full((4,), 3.0).double(), torch.full((4,), 7.0).double(), None)
    batch, fitted = moments_of(x)
    used = policy.infer(remembered, batch, fitted)
    mean, var = x.mean((0, 2)), x.var((0, 2), unbiased=False)
    assert_close(used.mean.flatten(), share * 3 + (1 - share) * mean)
    assert_close(used.var.flatten(), share * 7 + (1 - share) * var)


def test_a_blend_far_from_0_keeps_its_digits():
    x = batches(1, torch.float32)[0] + 1e6
    batch, fitted = moments_of(x)
    remembered = Remembered(torch.full((4,), 1e6), torch.ones(4), None)
    used = Running(inference="blend").infer(remembered, batch, fitted)
    y, _ = normalize(x, SCHEMES["batch"], given=used, eps=0.0)
    truth = x.double()
    mean = (truth.mean((0, 2)) + 1e6) / 2
    var = (truth.var((0, 2), unbiased=False) + 1) / 2
    assert error(y, (truth - mean[:, None]) / var[:, None].sqrt()) <= TOLERANCES[x.dtype].forward


def test_measuring_and_remembering_take_any_precision():
    x = batches(1, torch.float32)[0].half()
    remembered = fresh(torch.float16)
    moments = measure(wide(x), (0, 2))
    Running(momentum=1.0).update(remembered, moments, SCHEMES["batch"].pattern.fit(3))
    assert remembered.mean.dtype == torch.float16
    assert_close(remembered.mean, x.double().mean((0, 2)))


WRONG = [
    ({"average": "mean"}, "Running(average='mean') is not known; write one of 'ema', 'cumulative'"),
    ({"start": "zero"}, "Running(start='zero') is not known; write one of 'unit', 'first-batch'"),
    (
        {"inference": "eval"},
        "Running(inference='eval') is not known; write one of 'running', 'batch', 'blend'",
    ),
    ({"momentum": 1.5}, "Running(momentum=1.5): must lie between 0 and 1"),
    ({"momentum": -0.1}, "Running(momentum=-0.1): must lie between 0 and 1"),
    ({"momentum": float("nan")}, "Running(momentum=nan): must lie between 0 and 1"),
    (
        {"momentum": None},
        "Running(momentum=None): must lie between 0 and 1; "
        "for the plain average write average='cumulative'",
    ),
    ({"running_weight": 2}, "Running(running_weight=2): must lie between 0 and 1"),
    ({"running_weight": "half"}, "Running(running_weight='half'): must lie between 0 and 1"),
    ({"running_weight": None}, "Running(running_weight=None): must lie between 0 and 1"),
]


@pytest.mark.parametrize(("arguments", "sentence"), WRONG)
def test_a_policy_that_can_never_be_valid_is_refused(arguments, sentence):
    with pytest.raises(NormError) as caught:
        Running(**arguments)
    assert str(caught.value) == sentence
