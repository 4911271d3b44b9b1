import copy
import threading
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import normwise as nw
from normwise.layers.lengths import length_after
from tolerances import assert_close

LENGTHS = [9, 4, 6, 1]


def speech(size=9, channels=3, junk=float("nan")):
    """(N, C, T) with junk in the padding, and each series alone."""
    random = torch.Generator().manual_seed(0)
    series = [torch.randn(1, channels, n, generator=random).double() for n in LENGTHS]
    x = torch.full((len(LENGTHS), channels, size), junk).double()
    for i, alone in enumerate(series):
        x[i, :, : LENGTHS[i]] = alone[0]
    return x, series


def causal_network(norm):
    """Its convolution sees the past alone, so that what is real does not read padding."""
    return torch.nn.Sequential(
        norm(3), torch.nn.ZeroPad1d((2, 0)), torch.nn.Conv1d(3, 4, 3), norm(4), torch.nn.ReLU()
    ).double()


def seen_by(layer):
    """The masks that a layer gets, read off what it leaves of ones: a list that fills itself."""
    masks = []
    layer.register_forward_hook(lambda _, args, y: masks.append(y[:, 0] != 0))
    return masks


class Ones(torch.nn.Module):
    """Ones, with 0 where masked."""

    def __init__(self):
        super().__init__()
        self.norm = nw.Identity(1)
        self.masks = seen_by(self.norm)

    def forward(self, x):
        self.norm(torch.ones_like(x))
        return x


class EverySecond(torch.nn.Module):
    """A stride that is no layer of torch.nn's."""

    def forward(self, x):
        return x[..., ::2]


# -- masks from lengths ------------------------------------------------------


@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=5), spare=st.none() | st.integers(0, 3)
)
def test_a_mask_is_true_before_each_length(lengths, spare):
    size = None if spare is None else max(lengths) + spare
    mask = nw.lengths_to_mask(lengths, size)
    width = max(lengths) if size is None else size
    assert mask.tolist() == [[t < length for t in range(width)] for length in lengths]
    assert torch.equal(mask, nw.lengths_to_mask(torch.tensor(lengths), size))


def test_no_series_at_all():
    assert nw.lengths_to_mask([], 5).shape == (0, 5)
    assert nw.lengths_to_mask(torch.empty(0, dtype=torch.int64)).shape == (0, 0)


NO_NUMBERS = "lengths must be whole numbers, one for each series: (N,); received "
WRONG_LENGTHS = [
    ([[1, 2]], None, NO_NUMBERS + "(1, 2) int64"),
    ([1.0, 2.0], None, NO_NUMBERS + "(2,) float32"),
    ([True, False], None, NO_NUMBERS + "(2,) bool"),
    (3, None, NO_NUMBERS + "() int64"),
    ([3, -1], None, "a length cannot be negative; received -1"),
    (
        *([3, 5], 4),
        "a length of 5 does not fit in 4 positions; lengths are counted in samples of the "
        "last dimension, or of the one before features",
    ),
]


@pytest.mark.parametrize(("lengths", "size", "sentence"), WRONG_LENGTHS)
def test_lengths_that_make_no_sense_are_refused(lengths, size, sentence):
    for call in (nw.lengths_to_mask, lambda *arguments: nw.padding(*arguments).__enter__()):
        with pytest.raises(nw.NormError) as caught:
            call(lengths, size)
        assert str(caught.value) == sentence


# -- models ------------------------------------------------------------------


@pytest.mark.parametrize("norm", [nw.InstanceNorm1d, nw.LayerNorm1d, nw.RMSNorm1d, nw.BatchNorm1d])
@pytest.mark.parametrize("size", [9, 12])
def test_padding_changes_nothing_for_what_is_real(norm, size):
    model = causal_network(norm).eval()
    x, series = speech(size, junk=1e6)
    with nw.padding(LENGTHS):
        y = model(x)
    for i, alone in enumerate(series):
        if alone.shape[-1] > 1 or norm is not nw.InstanceNorm1d:
            assert_close(y[i : i + 1, :, : LENGTHS[i]], model(alone))
        assert not y[i, :, LENGTHS[i] :].any()


def test_batch_statistics_in_training_are_of_real_positions():
    x, series = speech()
    padded, real = nw.BatchNorm1d(3).double(), nw.BatchNorm1d(3).double()
    with nw.padding(LENGTHS):
        y = padded(x)
    together = real(torch.cat(series, dim=-1))
    assert_close(torch.cat([y[i, :, :n] for i, n in enumerate(LENGTHS)], dim=-1), together[0])
    for name, buffer in padded.named_buffers():
        torch.testing.assert_close(buffer, real.get_buffer(name), rtol=1e-12, atol=0)


def test_gradients_of_padding_are_0():
    x = speech(junk=5.0)[0].requires_grad_()
    with nw.padding(LENGTHS):
        nw.GroupNorm(1, 3).double()(x).square().sum().backward()
    mask = nw.lengths_to_mask(LENGTHS)[:, None].expand_as(x)
    assert not x.grad[~mask].any()
    assert x.grad[0].any()


@pytest.mark.parametrize(
    ("between", "lengths"),
    [
        (torch.nn.Conv1d(1, 1, 1), [9, 4, 6, 1]),
        (torch.nn.Conv1d(1, 1, 1, stride=2), [5, 2, 3, 1]),
        (torch.nn.MaxPool1d(3), [3, 1, 2, 1]),  # one position at least
        (torch.nn.AdaptiveAvgPool1d(1), [1, 1, 1, 1]),
        (torch.nn.AdaptiveAvgPool1d(5), [5, 3, 4, 1]),  # ceil(length * 5 / 9)
        (EverySecond(), [5, 3, 4, 1]),
        (torch.nn.Upsample(scale_factor=2), [18, 8, 12, 2]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, torch.nn.Module) else "",
)
def test_lengths_follow_strides_and_pooling(between, lengths):
    ones = Ones()
    with nw.padding(LENGTHS):
        torch.nn.Sequential(between, ones)(torch.ones(4, 1, 9))
    assert torch.equal(ones.masks[0], nw.lengths_to_mask(lengths, ones.masks[0].shape[-1]))


FOLLOWED = [
    torch.nn.Conv1d(2, 2, 3),
    torch.nn.Conv1d(2, 2, 3, stride=2, padding=1, dilation=2),
    torch.nn.Conv1d(2, 2, 5, padding="same"),
    torch.nn.Conv1d(2, 2, 2, stride=3, padding="valid"),
    torch.nn.ConvTranspose1d(2, 2, 3, stride=2, padding=1, output_padding=1),
    torch.nn.ConvTranspose1d(2, 2, 2, dilation=3),
    torch.nn.MaxPool1d(3, stride=2, padding=1),
    torch.nn.MaxPool1d(2, ceil_mode=True),
    torch.nn.MaxPool1d(3, stride=2, padding=1, ceil_mode=True),
    torch.nn.MaxPool1d(2, dilation=2),
    torch.nn.AvgPool1d(3, stride=2, padding=1, ceil_mode=True),
    torch.nn.AvgPool1d(2),
    torch.nn.LPPool1d(2, 3, stride=2),
    torch.nn.ZeroPad1d((2, 1)),
    torch.nn.ConstantPad1d((-1, 0), 0.0),
    torch.nn.ReflectionPad1d(2),
    torch.nn.Upsample(scale_factor=2.5),
    torch.nn.Sequential(torch.nn.Conv1d(2, 2, 3, stride=2), torch.nn.MaxPool1d(2)),
    torch.nn.Sequential(torch.nn.ZeroPad1d((2, 0)), torch.nn.Conv1d(2, 2, 3)),
]


@pytest.mark.parametrize("layer", FOLLOWED, ids=str)
@pytest.mark.parametrize("size", [23, 24])
def test_behind_a_layer_a_length_is_what_it_would_be_alone(layer, size):
    lengths = [size, 22, 17, 16, 9, 8]
    alone = [layer(torch.zeros(1, 2, length)).shape[-1] for length in lengths]
    norm = nw.Identity(2)
    masks = seen_by(norm)
    with nw.padding(lengths), torch.no_grad():
        y = layer(torch.zeros(len(lengths), 2, size))
        norm(torch.ones_like(y))
    assert masks[0].sum(1).tolist() == alone


def network(*between):
    """A norm before each layer, which reads zeros where a series alone would end."""
    layers = [(nw.InstanceNorm1d(2, affine=True), layer) for layer in between]
    return torch.nn.Sequential(
        *(layer for pair in layers for layer in pair), nw.GroupNorm1d(1, 2)
    ).double()


STRIDED = [
    (torch.nn.Conv1d(2, 2, 3, padding=1), torch.nn.Conv1d(2, 2, 3, stride=2, padding=1)),
    (torch.nn.Conv1d(2, 2, 3), torch.nn.Conv1d(2, 2, 4, stride=2), torch.nn.Conv1d(2, 2, 2)),
    (torch.nn.MaxPool1d(2), torch.nn.Conv1d(2, 2, 3, padding=1), torch.nn.AvgPool1d(2)),
    (torch.nn.Conv1d(2, 2, 2, stride=2), torch.nn.ConvTranspose1d(2, 2, 2, stride=2)),
    (torch.nn.ZeroPad1d((4, 0)), torch.nn.Conv1d(2, 2, 3, dilation=2)),
]


@pytest.mark.parametrize("between", STRIDED, ids=lambda layers: "-".join(map(str, layers)))
@pytest.mark.parametrize("size", [23, 24, 30])
def test_a_padded_series_is_as_it_would_be_alone_behind_strides(between, size):
    lengths = [23, 22, 17, 12]
    torch.manual_seed(0)
    model = network(*between)
    whole = torch.randn(4, 2, size).double().requires_grad_()
    with nw.padding(lengths):
        y = model(whole)
    slope = torch.randn(y.shape).double()
    for i, length in enumerate(lengths):
        alone = whole.detach()[i : i + 1, :, :length].requires_grad_()
        expected = model(alone)
        real = expected.shape[-1]
        assert_close(y[i : i + 1, :, :real], expected)
        assert not y[i, :, real:].any()
        (found,) = torch.autograd.grad((y[i] * slope[i]).sum(), whole, retain_graph=True)
        (wanted,) = torch.autograd.grad((expected[0] * slope[i, :, :real]).sum(), alone)
        assert_close(found[i, :, :length], wanted[0], backward=True)
        found[i, :, :length] = 0
        assert not found.any()


class Transposed(torch.nn.Module):
    """Takes (N, T, C), and works on (N, C, T)."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = torch.nn.Sequential(*layers)

    def forward(self, x):
        return self.layers(x.mT).mT


class Shifted(torch.nn.Module):
    """A causal convolution whose padding is no layer."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = torch.nn.Conv1d(17, 5, 3), nw.LayerNorm1d(5)

    def forward(self, x):
        return self.norm(self.conv(torch.nn.functional.pad(x, (2, 0))))


# (model, input without N and T): T is where the model has it, and the features are no T.
LAYOUTS = [
    (torch.nn.Sequential(torch.nn.Linear(17, 5), nw.LayerNorm(5)), -2),
    (torch.nn.Sequential(nw.RMSNorm(17)), -2),
    (torch.nn.Sequential(torch.nn.Dropout(0.0), nw.LayerNorm(17)), -2),
    (Transposed(torch.nn.Conv1d(17, 5, 1), nw.BatchNorm1d(5)), -2),
    (Transposed(nw.InstanceNorm1d(17)), -2),
    (torch.nn.TransformerEncoderLayer(17, 1, 5, batch_first=True, norm_first=True), -2),
    (torch.nn.Sequential(torch.nn.Conv1d(17, 5, 1), nw.BatchNorm1d(5)), -1),
    (Shifted(), -1),
    (nw.LayerNorm1d(17), -1),
    (nw.RMSNorm1d(17), -1),
    (nw.GroupNorm(1, 17), -1),
    (nw.Norm("n [c] t", c=17), -1),
    (nw.Norm("n t [c]", c=17), -2),
]


@pytest.mark.parametrize(("model", "time"), LAYOUTS)
@pytest.mark.parametrize("size", [12, 17, 20])  # above and below the 17 features
def test_time_is_where_the_first_layer_that_knows_has_it(model, time, size):
    model = nw.swap(model, "same") if isinstance(model, torch.nn.TransformerEncoderLayer) else model
    norm = next(m for m in model.modules() if isinstance(m, nw.Normalization))
    outputs = []
    handle = norm.register_forward_hook(lambda module, args, y: outputs.append(y))
    lengths = [size, size // 2, 3]
    x = torch.randn(3, 17, size, generator=torch.Generator().manual_seed(0))
    with nw.padding(lengths), torch.no_grad():
        model(x if time == -1 else x.mT)
    handle.remove()
    features = norm.scheme.pattern.fit(3).features
    assert (outputs[0] != 0).any(features[0]).sum(1).tolist() == lengths


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_lengths_of_any_whole_dtype_reach_behind_strides(dtype):
    ones = Ones()
    with nw.padding(torch.tensor([120, 60]).to(dtype)):
        torch.nn.Sequential(torch.nn.Conv1d(1, 1, 1, stride=2), ones)(torch.ones(2, 1, 120))
    assert ones.masks[0].sum(1).tolist() == [60, 30]


def test_the_size_may_be_given_where_the_model_does_not_see_it():
    ones = Ones()
    with nw.padding(LENGTHS, size=18):
        ones(torch.ones(4, 1, 9))
    assert ones.masks[0].sum(1).tolist() == [5, 2, 3, 1]


def test_the_last_dimension_of_an_image_is_padded():
    image = torch.ones(4, 1, 2, 9)
    with nw.padding(LENGTHS):
        y = nw.Identity(1)(image)
    assert torch.equal(y[:, 0] != 0, nw.lengths_to_mask(LENGTHS)[:, None].expand(4, 2, 9))


def test_features_last_with_layer_norm():
    x, series = speech()
    layer = nw.LayerNorm(3).double()
    with nw.padding(LENGTHS, size=9):
        y = layer(x.mT)
    for i, alone in enumerate(series):
        assert_close(y[i, : LENGTHS[i]], layer(alone.mT)[0])
        assert not y[i, LENGTHS[i] :].any()


def test_layers_that_see_no_time_take_every_row():
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    for layer in (nw.BatchNorm1d(3), nw.LayerNorm(3), nw.RMSNorm1d(3), nw.Identity(3)):
        with nw.padding(LENGTHS, size=9):
            inside = layer(x)
        assert torch.equal(inside, layer(x))


def test_a_mask_of_a_layers_own_goes_before():
    x, own = torch.ones(4, 1, 9), torch.zeros(4, 9, dtype=torch.bool)
    own[:, 3] = True
    with nw.padding(LENGTHS):
        y = nw.Identity(1)(x, own)
    assert torch.equal(y[:, 0] != 0, own)


# -- blocks ------------------------------------------------------------------


def lengths_in_force(count=4):
    """What a layer takes as real now; None where it takes everything."""
    y = nw.Identity(1)(torch.ones(count, 1, 9))
    return None if y.all() else y[:, 0].sum(1).int().tolist()


def test_blocks_nest_and_end():
    assert lengths_in_force() is None
    with nw.padding(LENGTHS):
        assert lengths_in_force() == LENGTHS
        with nw.padding([2, 2]):
            assert lengths_in_force(2) == [2, 2]
        assert lengths_in_force() == LENGTHS
    assert lengths_in_force() is None


def test_an_exception_ends_a_block():
    with pytest.raises(KeyError), nw.padding(LENGTHS):
        raise KeyError
    assert lengths_in_force() is None
    assert not torch.nn.modules.module._global_forward_pre_hooks


def test_a_block_is_of_its_thread():
    entered, done = threading.Event(), threading.Event()
    elsewhere = {}

    def other():
        entered.wait()
        elsewhere["outside"] = lengths_in_force()
        with nw.padding([3, 3, 3, 3]):
            elsewhere["inside"] = lengths_in_force()
        done.set()

    thread = threading.Thread(target=other)
    thread.start()
    with nw.padding(LENGTHS):
        entered.set()
        done.wait()
        assert lengths_in_force() == LENGTHS
    thread.join()
    assert elsewhere == {"outside": None, "inside": [3, 3, 3, 3]}


def test_each_block_reads_its_size_anew():
    for size in (9, 12):
        with nw.padding(LENGTHS):
            y = nw.Identity(1)(torch.ones(4, 1, size))
        assert y[:, 0].sum(1).tolist() == LENGTHS


WRONG_CALLS = [
    (
        nw.InstanceNorm1d(3),
        (2, 3, 9),
        "nw.padding was given 4 lengths, and a layer received a batch of 2: x (2, 3, 9); "
        "give one length for each series",
    ),
    (
        nw.InstanceNorm1d(3),
        (4, 3, 8),
        "a length of 9 does not fit in 8 positions; lengths are counted in samples of the "
        "last dimension, or of the one before features",
    ),
]


@pytest.mark.parametrize(("layer", "shape", "sentence"), WRONG_CALLS)
def test_a_batch_that_does_not_fit_the_lengths_is_refused(layer, shape, sentence):
    with pytest.raises(nw.NormError) as caught, nw.padding(LENGTHS):
        layer(torch.ones(shape))
    assert str(caught.value) == sentence
    assert lengths_in_force() is None


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "size",
    [
        9,
        pytest.param(
            None,  # a hook reads the size of every module's input, and torch.compile says so
            marks=pytest.mark.filterwarnings("ignore:Using `torch.compile:UserWarning"),
        ),
    ],
)
def test_a_compiled_model_takes_the_block_into_account(training, size):
    torch._dynamo.reset()
    x, _ = speech(junk=1e6)
    eager = causal_network(nw.BatchNorm1d).train(training)
    compiled = torch.compile(copy.deepcopy(eager), fullgraph=True, backend="eager")
    for lengths in (None, LENGTHS, [9, 9, 2, 3], None):
        with nullcontext() if lengths is None else nw.padding(lengths, size):
            assert_close(compiled(x), eager(x))


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 3, 1), (3, 4, 1), (1, 5, 0)])
def test_the_last_window_of_a_pooling_begins_on_the_series(kernel, stride, padding):
    pool = torch.nn.MaxPool1d(kernel, stride, padding, ceil_mode=True)
    lengths = torch.arange(3, 20)
    alone = [pool(torch.zeros(1, 1, length)).shape[-1] for length in lengths.tolist()]
    assert length_after(pool, lengths).tolist() == alone
