import pytest
from hypothesis import given
from hypothesis import strategies as st

from normwise import NormError
from normwise.axes import SCHEMES, Axis, Fitted, parse, part_sizes, trailing

FITS = [
    # pattern, rank: splits, averaged, samples, remembered, features
    ("n c [...]", 3, (), (2,), (0,), ((1, "c"),), (1,)),
    ("n c [...]", 5, (), (2, 3, 4), (0,), ((1, "c"),), (1,)),
    ("n c [...]", 2, (), (), (0,), ((1, "c"),), (1,)),
    ("[n] c [...]", 2, (), (0,), (), ((1, "c"),), (1,)),
    ("[n] c [...]", 4, (), (0, 2, 3), (), ((1, "c"),), (1,)),
    ("n [c] ...", 4, (), (1,), (0,), ((2, "..."), (3, "...")), (1,)),
    ("... [c]", 3, (), (2,), (), ((0, "..."), (1, "...")), (2,)),
    ("... [c1 c2]", 3, (), (1, 2), (), ((0, "..."),), (1, 2)),
    ("n (g [c]) [t]", 3, ((1, ("g", "c")),), (2, 3), (0,), ((1, "g"),), (1,)),
    (
        *("(n [ghost]) (g c) [t]", 3),
        *(((1, ("g", "c")), (0, ("n", "ghost"))), (1, 4), (0,), ((2, "g"), (3, "c")), (1,)),
    ),
]

WRONG = [
    # pattern, position of the mark, sentence
    ("n C [t]", 2, "'C' has no meaning here; use names, ..., [ ] and ( )"),
    ("n,  c [t]", 1, "',' has no meaning here; use names, ..., [ ] and ( )"),
    ("n c  8 [t]", 5, "'8' has no meaning here; use names, ..., [ ] and ( )"),
    ("n .. [t]", 2, "'.' has no meaning here; use names, ..., [ ] and ( )"),
    ("n [c [t]]", 5, "'[' inside '['; one level is enough"),
    ("n (g (c [d]))", 5, "'(' inside '('; one level is enough"),
    ("n [(g c)] t", 3, "brackets go inside the parentheses: write (g [c])"),
    ("n c] [t]", 3, "']' closes nothing"),
    ("n c) [t]", 3, "')' closes nothing"),
    ("n (g [c) t]", 5, "this bracket is still open at the )"),
    ("n (c) [t]", 4, "parentheses split a dimension in two or more: (g [c])"),
    ("n () [t]", 3, "parentheses split a dimension in two or more: (g [c])"),
    ("n n [t]", 2, "'n' is named twice"),
    ("n (g g) [t]", 5, "'g' is named twice"),
    ("... c [...]", 7, "'...' is named twice"),
    ("n (g ...) [t]", 5, "... cannot be part of one dimension"),
    ("n c [t", 4, "'[' is never closed"),
    ("n (g [c] ", 2, "'(' is never closed"),
    ("n c t", 0, "nothing is averaged; put brackets around what is: n c [t]"),
    ("n c []", 0, "nothing is averaged; put brackets around what is: n c [t]"),
    ("", 0, "nothing is averaged; put brackets around what is: n c [t]"),
]

UNFITTING = [
    ("n c [t]", 2, "names 3 dimensions, and x has 2"),
    ("n c [t]", 4, "names 3 dimensions, and x has 4"),
    ("n c [...]", 1, "names at least 2 dimensions, and x has 1"),
    ("n (g [c]) [t]", 4, "names 3 dimensions, and x has 4"),
]

WRONG_PARTS = [
    (("g", "c"), 6, {}, "(g c) needs a size for all but one of its parts: g=…"),
    (("g", "h", "c"), 6, {"g": 2}, "(g h c) needs a size for all but one of its parts: h=…"),
    (("g", "c"), 6, {"g": 4}, "(g c) with g=4 does not fit a dimension of 6"),
    (("g", "c"), 6, {"g": 2, "c": 2}, "(g c) with g=2, c=2 does not fit a dimension of 6"),
    (("g", "c"), 6, {"g": 0}, "(g c) with g=0 does not fit a dimension of 6"),
    (("g", "c"), 6, {"g": -2, "c": -3}, "(g c) with g=-2, c=-3 does not fit a dimension of 6"),
]


@pytest.mark.parametrize(
    ("text", "rank", "splits", "averaged", "samples", "remembered", "features"), FITS
)
def test_a_pattern_laid_over_a_tensor(text, rank, splits, averaged, samples, remembered, features):
    dimensions = len(averaged) + len(samples) + len(remembered)
    fitted = Fitted(rank, dimensions, splits, averaged, samples, remembered, features)
    assert parse(text).fit(rank) == fitted


@pytest.mark.parametrize(("text", "position", "sentence"), WRONG)
def test_a_wrong_pattern_is_refused_with_a_mark_under_the_fault(text, position, sentence):
    with pytest.raises(NormError) as caught:
        parse(text)
    assert str(caught.value) == f"pattern {text!r}: {sentence}\n    {text}\n    {' ' * position}^"


@pytest.mark.parametrize(("text", "rank", "sentence"), UNFITTING)
def test_a_pattern_that_does_not_fit_is_refused(text, rank, sentence):
    with pytest.raises(NormError) as caught:
        parse(text).fit(rank)
    advice = "give x one dimension for each name"
    assert str(caught.value) == f"pattern {text!r} {sentence}; {advice}"


def test_spaces_mean_nothing_but_the_end_of_a_name():
    tight, loose = parse("n(g[c])[t]"), parse("  n ( g [ c ] )  [ t ]  ")
    assert tight.dimensions == loose.dimensions


def test_a_pattern_is_read_and_fitted_once():
    assert parse("n c [t]") is parse("n c [t]")
    assert parse("n c [...]").fit(3) is parse("n c [...]").fit(3)


@pytest.mark.parametrize(
    ("name", "feature"),
    [("c", True), ("c1", True), ("c12", True), ("channel", False), ("n", False), ("c_1", False)],
)
def test_which_names_are_features(name, feature):
    assert Axis(name, averaged=False).is_feature is feature


@pytest.mark.parametrize(
    ("count", "text"), [(1, "... [c]"), (2, "... [c1 c2]"), (3, "... [c1 c2 c3]")]
)
def test_trailing_dimensions_as_torch_counts_them(count, text):
    assert str(trailing(count)) == text


def test_the_table_reads_as_the_documentation_has_it():
    rows = {name: (str(s.pattern), s.centres, s.remembers) for name, s in SCHEMES.items()}
    assert rows == {
        "batch": ("[n] c [...]", True, True),
        "instance": ("n c [...]", True, False),
        "group": ("n (g [c]) [...]", True, False),
        "layer": ("n [c] ...", True, False),
        "rms": ("n [c] ...", False, False),
        "sample": ("n [c ...]", True, False),
        "ghost": ("(n [g]) c [...]", True, True),
        "response": ("n c [...]", False, False),
    }


@st.composite
def patterns(draw):
    """A pattern's dimensions, each a list of (name, averaged): composites have several."""
    names = iter(["n", "c", "t", "h", "w", "g", "d", "u"])
    widths = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3).filter(lambda w: sum(w) <= 7))
    dimensions = [[(next(names), draw(st.booleans())) for _ in range(width)] for width in widths]
    place = draw(st.none() | st.integers(0, len(dimensions)))
    if place is not None:
        dimensions.insert(place, [("...", draw(st.booleans()))])
    if not any(averaged for dimension in dimensions for _, averaged in dimension):
        name, _ = dimensions[0][0]
        dimensions[0][0] = (name, True)
    return dimensions


def written(dimensions):
    def axis(name, averaged):
        return f"[{name}]" if averaged else name

    texts = [" ".join(axis(*a) for a in dimension) for dimension in dimensions]
    return " ".join(
        f"({text})" if len(dimension) > 1 else text
        for text, dimension in zip(texts, dimensions, strict=True)
    )


@given(dimensions=patterns(), spread=st.integers(0, 3))
def test_any_pattern_fits_the_ranks_it_names(dimensions, spread):
    pattern = parse(written(dimensions))
    assert pattern.open is any(d[0][0] == "..." for d in dimensions)

    laid = [d for d in dimensions for _ in range(spread if d[0][0] == "..." else 1)]
    flat = [axis for dimension in laid for axis in dimension]
    fitted = pattern.fit(len(laid))

    assert fitted.rank == len(laid)
    assert fitted.averaged == tuple(i for i, (_, averaged) in enumerate(flat) if averaged)
    kept = {i: name for i, (name, averaged) in enumerate(flat) if not averaged}
    assert {*fitted.samples} == {i for i, name in kept.items() if name == "n"}
    assert dict(fitted.remembered) == {i: name for i, name in kept.items() if name != "n"}
    assert dict(fitted.splits) == {
        i: tuple(name for name, _ in d) for i, d in enumerate(laid) if len(d) > 1
    }
    assert [i for i, _ in fitted.splits] == sorted((i for i, _ in fitted.splits), reverse=True)
    assert fitted.features == tuple(
        i for i, d in enumerate(laid) if any(name == "c" for name, _ in d)
    )

    with pytest.raises(NormError, match="give x one dimension for each name"):
        pattern.fit(len(dimensions) - 2 if pattern.open else len(dimensions) + 1)


@given(sizes=st.lists(st.integers(1, 5), min_size=2, max_size=4), data=st.data())
def test_the_one_part_that_is_not_given_is_found(sizes, data):
    names = tuple("ghkc"[: len(sizes)])
    total = 1
    for size in sizes:
        total *= size
    unknown = data.draw(st.none() | st.sampled_from(names))
    given_sizes = {n: s for n, s in zip(names, sizes, strict=True) if n != unknown}
    assert part_sizes(names, total, given_sizes) == tuple(sizes)


@pytest.mark.parametrize(("names", "total", "sizes", "sentence"), WRONG_PARTS)
def test_parts_that_do_not_fit_are_refused(names, total, sizes, sentence):
    with pytest.raises(NormError) as caught:
        part_sizes(names, total, sizes)
    assert str(caught.value) == sentence
