import re
from importlib.metadata import metadata
from pathlib import Path

import pytest
import torch

from normwise import data
from normwise.data import japanese_vowels, prompts


@pytest.fixture(scope="module")
def parts():
    return japanese_vowels()


@pytest.mark.parametrize(("part", "count", "longest"), [(0, 270, 26), (1, 370, 29)])
def test_the_vowels_are_as_their_docstring_says(parts, part, count, longest):
    x, speakers, lengths = parts[part]
    assert x.shape == (count, 12, longest)
    assert x.dtype == torch.float32
    assert speakers.dtype == lengths.dtype == torch.int64
    assert speakers.shape == lengths.shape == (count,)
    assert speakers.unique().tolist() == list(range(9))
    assert lengths.min() == 7
    assert lengths.max() == longest
    assert x.isfinite().all()
    assert x.is_contiguous()


@pytest.mark.parametrize("part", [0, 1])
def test_padding_is_0_and_speech_is_not(parts, part):
    x, _, lengths = parts[part]
    real = torch.arange(x.shape[2]) < lengths[:, None]
    frames = x.movedim(1, 2)
    assert not frames[~real].any()
    assert frames[real].any(dim=1).all()


def test_each_call_gives_tensors_of_its_own(parts):
    x = japanese_vowels()[0].x
    x.zero_()
    assert japanese_vowels()[0].x.any()
    assert parts[0].x.any()


def test_every_prompt_is_there_in_every_voice():
    languages = {language.name: language for language in prompts().iterdir()}
    assert set(languages) == {"en", "es", "fr", "it", "ru"}
    voices = [voice for language in languages.values() for voice in language.iterdir()]
    assert len(voices) == 6
    names = [{path.name for path in voice.iterdir()} for voice in voices]
    assert len(names[0]) == 102
    assert all(of_a_voice == names[0] for of_a_voice in names)


def test_the_packages_licence_names_those_of_the_data():
    notice = (Path(data.__file__).parent / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"creativecommons\.org/licenses/([a-z-]+)/(\d\.\d)/([a-z]*)", notice)
    of_data = {"-".join(["CC", *filter(None, parts)]).upper() for parts in links}
    about = metadata("normwise")
    named = {one.removeprefix("LicenseRef-") for one in about["License-Expression"].split(" AND ")}
    assert len(of_data) == 4
    assert of_data < named
    assert about.get_all("License-File") == ["LICENSE", "src/normwise/data/README.md"]
