"""Pages that are written by a script are what the script writes."""

import runpy
from pathlib import Path

import normwise as nw

DOCS = Path(__file__).parents[1] / "docs"
CATALOGUE = runpy.run_path(str(DOCS / "write_catalogue.py"))


def test_the_catalogue_is_up_to_date():
    written = (DOCS / "catalogue.md").read_text(encoding="utf-8")
    assert written == CATALOGUE["page"](), "run python docs/write_catalogue.py"


def test_the_catalogue_has_a_formula_for_every_norm():
    for entry in nw.catalogue().values():
        section = CATALOGUE["section"](entry)
        assert f"## `{entry.usage}`" in section
        assert entry.when in section
        assert "```text\ny" in section
        for layer in CATALOGUE["classes"](entry):
            assert f"`{layer.__name__}`" in section
