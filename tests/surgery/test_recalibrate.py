"""Running statistics over data: every real element once, and nothing else changed."""

import copy

import pytest
import torch
from torch import nn

import normwise as nw


def data(count=10, channels=4, length=9):
    draw = torch.Generator().manual_seed(0)
    # An offset that float32 sums would lose digits to.
    return 3 * torch.randn(count, channels, length, generator=draw) + 1000


class Net(nn.Module):
    def __init__(self, norms=nn.BatchNorm1d):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv1d(4, 6, 3, padding=1), norms(6)
        self.drop, self.last, self.end = nn.Dropout(0.5), nn.Conv1d(6, 6, 1), norms(6)

    def forward(self, x):
        return self.end(self.last(self.drop(self.norm(self.conv(x)).relu())))


def seen(model, path, batches, *, lengths=None):
    """What a norm is given, over all batches, channels first: (C, elements)."""
    inputs = []
    handle = model.get_submodule(path).register_forward_pre_hook(
        lambda module, args: inputs.append(args[0].detach().double())
    )
    with torch.no_grad():
        for x in batches:
            model(x)
    handle.remove()
    if lengths is None:
        return torch.cat([x.transpose(0, 1).flatten(1) for x in inputs], 1)
    real = [
        x[i, :, :n] for x, some in zip(inputs, lengths, strict=True) for i, n in enumerate(some)
    ]
    return torch.cat(real, 1)


def state(model):
    return copy.deepcopy(model.state_dict())


def assert_same(model, before):
    after = model.state_dict()
    assert after.keys() == before.keys()
    for name, tensor in before.items():
        assert tensor.numpy().tobytes() == after[name].numpy().tobytes()


UNEVEN = [7, 2, 1]  # the last batch is one sample


@pytest.mark.parametrize("norms", [nn.BatchNorm1d, nw.BatchNorm1d, nw.BatchRenorm1d])
@pytest.mark.parametrize("training", [True, False])
def test_every_element_counts_once_whatever_the_batches(norms, training):
    model = Net(norms).train(training)
    before = state(model)
    batches = data().split(UNEVEN)
    new = nw.recalibrate(model, list(batches))
    assert_same(model, before)
    assert [m.training for m in new.modules()] == [m.training for m in model.modules()]
    values = seen(copy.deepcopy(model).eval(), "norm", batches)
    torch.testing.assert_close(new.norm.running_mean.double(), values.mean(1), rtol=1e-6, atol=0)
    torch.testing.assert_close(new.norm.running_var.double(), values.var(1), rtol=1e-6, atol=0)
    assert new.norm.num_batches_tracked == 3
    others = [name for name in before if "running" not in name and "tracked" not in name]
    assert all(torch.equal(new.state_dict()[name], before[name]) for name in others)


def test_a_pass_for_each_norm_is_what_evaluation_sees():
    batches = data().split(UNEVEN)
    new = nw.recalibrate(Net(), list(batches), passes="each").eval()
    for path in ("norm", "end"):
        values, norm = seen(new, path, batches), new.get_submodule(path)
        torch.testing.assert_close(norm.running_mean.double(), values.mean(1), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(norm.running_var.double(), values.var(1), rtol=1e-5, atol=1e-6)


def test_one_pass_over_one_batch_is_what_training_saw():
    model = Net()
    model.drop.p = 0.0
    for norm in (model.norm, model.end):
        norm.momentum = 1.0
    wanted = copy.deepcopy(model)
    wanted(data())
    new = nw.recalibrate(model, [data()])
    for path in ("norm", "end"):
        for name in ("running_mean", "running_var"):
            torch.testing.assert_close(
                getattr(new.get_submodule(path), name), getattr(wanted.get_submodule(path), name),
                rtol=1e-4, atol=1e-4,
            )  # fmt: skip


def test_padding_does_not_count():
    model = Net(nw.BatchNorm1d)
    batches, lengths = data().split([7, 3]), ([9, 5, 4, 3, 2, 1, 9], [6, 6, 1])
    padded = []
    for x, some in zip(batches, lengths, strict=True):
        mask = nw.lengths_to_mask(some, 9)
        # NaN where nothing was recorded, behind the convolution, which sees zeros
        padded.append((torch.where(mask[:, None], x, 0.0), torch.zeros(len(x)), torch.tensor(some)))
    new = nw.recalibrate(model, padded)
    inputs = [x for x, _, _ in padded]
    values = seen(copy.deepcopy(model).eval(), "norm", inputs, lengths=lengths)
    torch.testing.assert_close(new.norm.running_mean.double(), values.mean(1), rtol=1e-6, atol=0)
    torch.testing.assert_close(new.norm.running_var.double(), values.var(1), rtol=1e-6, atol=0)


def test_norms_of_each_sample_take_the_average_over_samples():
    model = nn.Sequential(nn.InstanceNorm1d(4, track_running_stats=True))
    new = nw.recalibrate(model, list(data().split(UNEVEN)))
    x = data().double()
    torch.testing.assert_close(new[0].running_mean.double(), x.mean(2).mean(0), rtol=1e-6, atol=0)
    torch.testing.assert_close(new[0].running_var.double(), x.var(2).mean(0), rtol=1e-6, atol=0)


OTHERS = [
    nw.Norm("[n] c [t]", running=nw.Running(), c=4),
    nw.Norm("[n] c t", running=nw.Running(), c=4, t=9),
    nw.Norm("[n] c [t]", running=nw.Running(), centres=False, c=4),
    nw.Norm("n c [t]", running=nw.Running(average="cumulative"), c=4),
    nw.EvoNormB01d(4),
    nw.SwitchableNorm1d(4),
    nw.GhostBatchNorm1d(5, 4),
    nw.SyncBatchNorm(4),
]


@pytest.mark.parametrize("norm", OTHERS, ids=repr)
def test_every_layer_that_remembers(norm):
    """One batch: what a momentum of 1 would remember, up to the ghosts' averaging."""
    x = data()
    new = nw.recalibrate(nn.Sequential(norm), [x])[0]
    wide = x.double()
    over = {"[n] c t": (0,), "n c [t]": (2,)}.get(
        norm.scheme.pattern.text if isinstance(norm, nw.Norm) else "", (0, 2)
    )
    mean, var = wide.mean(over), wide.var(over)
    if over == (2,):
        mean, var = mean.mean(0), var.mean(0)
    if new.running_mean is None:
        var = (
            wide.square().mean(over) if isinstance(norm, nw.Norm) else wide.var(over, correction=0)
        )
    else:
        torch.testing.assert_close(new.running_mean.double(), mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(new.running_var.double(), var, rtol=1e-5, atol=0)
    assert new.num_batches_tracked == 1


def test_a_loader_of_anything():
    model = Net()
    wanted = nw.recalibrate(model, [data()]).norm.running_mean
    forms = {
        "tuple": [(data(), torch.zeros(10))],
        "mapping": [{"x": data()}],
        "DataLoader": torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(data(), torch.zeros(10)), batch_size=10
        ),
        "generator": (x for x in [data()]),
    }
    for loader in forms.values():
        assert torch.equal(nw.recalibrate(model, loader).norm.running_mean, wanted)
    odd = nw.recalibrate(
        model, [{"signal": data()}], forward=lambda model, batch: model(batch["signal"])
    )
    assert torch.equal(odd.norm.running_mean, wanted)


def test_where_and_what_is_frozen():
    model = nw.freeze(Net(), "norm")
    new = nw.recalibrate(model, [data()])
    assert torch.equal(new.norm.running_mean, model.norm.running_mean)
    assert new.end.num_batches_tracked == 1
    new = nw.recalibrate(Net(), [data()], "end")
    assert (new.norm.num_batches_tracked, new.end.num_batches_tracked) == (0, 1)


def raising():
    yield data()
    raise OSError("the disk is gone")


def refusing(model, batch):
    model(batch)
    if batch.shape[0] == 3:
        raise RuntimeError("no")


NAN = data().index_fill(0, torch.tensor([3]), float("nan"))
FAILURES = [
    (raising, {}, OSError, "the disk is gone"),
    (lambda: data().split([7, 3]), {"forward": refusing}, RuntimeError, "no"),
    (lambda: [data(), NAN], {}, nw.NormError, "what norm saw has no finite mean and variance"),
    (lambda: [data(), NAN], {"passes": "each"}, nw.NormError, "what norm saw has no finite"),
    (list, {}, nw.NormError, "the loader has no batch, or the model calls none of its norms"),
    (list, {"passes": "each"}, nw.NormError, "no batch reached norm, end; where=… leaves"),
    (lambda: [3], {}, nw.NormError, "a batch must be x, (x, y), (x, y, lengths) or a mapping of"),
    (lambda: [data()], {"passes": "two"}, nw.NormError, "passes='two' is not known; write 'one'"),
    (lambda: [data()], {"where": "x"}, nw.NormError, "nothing to recalibrate: where='x' matches"),
    (raising, {"passes": "each"}, nw.NormError, "generator can be gone through once, and this"),
    (lambda: [data()[:, :3]], {}, RuntimeError, "Given groups=1"),
]


@pytest.mark.parametrize("inplace", [True, False])
@pytest.mark.parametrize(("loader", "options", "kind", "sentence"), FAILURES)
def test_a_failure_leaves_every_byte_as_it_was(loader, options, kind, sentence, inplace):
    model = Net()
    model.end.eval()
    model(data())
    before, modes = state(model), [m.training for m in model.modules()]
    with pytest.raises(kind) as caught:
        nw.recalibrate(model, loader(), inplace=inplace, **options)
    assert str(caught.value).startswith(sentence)
    assert_same(model, before)
    assert [m.training for m in model.modules()] == modes
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_nothing_to_recalibrate():
    with pytest.raises(nw.NormError, match="nothing to recalibrate: 0: it remembers nothing"):
        nw.recalibrate(nn.Sequential(nn.LayerNorm(4)), [data()])
    with pytest.raises(nw.NormError, match="ReLU has no normalization layer to recalibrate"):
        nw.recalibrate(nn.ReLU(), [data()])


def test_progress_is_shown_on_request(capsys):
    nw.recalibrate(Net(), [data()] * 3, progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    nw.recalibrate(Net(), iter([data()] * 3), progress=True)
    nw.recalibrate(Net(), [data()])
    assert capsys.readouterr().out == ""


# -- adapt -----------------------------------------------------------------------------


def blobs(count=120, seed=0, shift=0.0):
    """Two classes that a batch norm network tells apart, and the same with another level."""
    draw = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 2
    x = torch.randn(count, 4, generator=draw) + 2.0 * y[:, None] - 1
    return x * (1 + shift) + 3 * shift, y


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16), nn.BatchNorm1d(16),
        nn.ReLU(), nn.Linear(16, 2),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    x, y = blobs()
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval()


def accuracy(model, x, y):
    with torch.no_grad():
        return float((model(x).argmax(1) == y).double().mean())


@pytest.mark.parametrize("method", ["adabn", "blend", "tent"])
def test_a_shifted_domain_is_read_again(trained, method):
    x, y = blobs(seed=1, shift=2.0)
    before = state(trained)
    options = {"source_weight": 0.1} if method == "blend" else {}
    adapted = nw.adapt(trained, list(zip(x.split(40), y.split(40), strict=True)), method, **options)
    assert accuracy(trained, x, y) < 0.7
    assert accuracy(adapted, x, y) > 0.9
    assert_same(trained, before)
    assert not adapted.training
    assert all(p.requires_grad and p.grad is None for p in adapted.parameters())


def test_a_blend_lies_between(trained):
    x, _ = blobs(seed=1, shift=2.0)
    new = nw.adapt(trained, [x])
    for weight in (0.0, 0.25, 1.0):
        blend = nw.adapt(trained, [x], "blend", source_weight=weight)
        for name in ("running_mean", "running_var"):
            old, target = (getattr(m[1], name) for m in (trained, new))
            torch.testing.assert_close(
                getattr(blend[1], name), weight * old + (1 - weight) * target
            )


def test_tent_makes_predictions_more_certain_and_trains_the_norms_alone(trained):
    x, _ = blobs(seed=1, shift=2.0)
    batches = list(x.split(40))
    adapted, start = nw.adapt(trained, batches, "tent", epochs=5), nw.adapt(trained, batches)

    def entropy(model):
        p = model(x).detach().softmax(1)
        return float(torch.special.entr(p).sum(1).mean())

    assert entropy(adapted) < entropy(start)
    changed = [
        n for n, p in adapted.named_parameters() if not torch.equal(p, start.get_parameter(n))
    ]
    assert changed == ["1.weight", "1.bias", "4.weight", "4.bias"]


def test_tent_works_without_running_statistics():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 2))
    adapted = nw.adapt(model, [blobs()[0]], "tent")
    assert not torch.equal(adapted[1].weight, model[1].weight)


def test_tent_stops_before_it_collapses(trained):
    x, y = blobs(seed=1, shift=2.0)
    with pytest.warns(UserWarning, match=r"tent stopped at step \d+: the predictions were"):
        adapted = nw.adapt(trained, list(x.split(20)), "tent", learning_rate=1.0, epochs=20)
    predictions = adapted(x).argmax(1)
    assert float((predictions == y).double().mean()) > 0.1
    assert len(predictions.unique()) == 2


REFUSED = [
    ({"method": "tend"}, "method='tend' is not known; write 'adabn', 'blend' or 'tent'"),
    ({"source_weight": 2.0}, "source_weight=2.0 must lie between 0 and 1"),
    ({"where": "x"}, "nothing to recalibrate: where='x' matches no norm"),
]


@pytest.mark.parametrize(("options", "sentence"), REFUSED)
def test_what_adapt_refuses(trained, options, sentence):
    with pytest.raises(nw.NormError) as caught:
        nw.adapt(trained, [blobs()[0]], **options)
    assert str(caught.value).startswith(sentence)


def test_tent_refuses_what_are_no_scores():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    with pytest.raises(nw.NormError, match="tent needs a model that returns scores of classes"):
        nw.adapt(model, [blobs()[0]], "tent")
    plain = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False), nn.Linear(4, 2))
    with pytest.raises(nw.NormError, match="tent trains weight and bias of the norms"):
        nw.adapt(plain, [blobs()[0]], "tent")
    with pytest.raises(nw.NormError, match="can be gone through once"):
        nw.adapt(plain, iter([blobs()[0]]), "tent")
