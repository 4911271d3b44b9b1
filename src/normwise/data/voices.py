"""Recorded prompts of telephone systems, in five languages: sound, small enough to ship."""

from pathlib import Path
from zipfile import Path as ZipPath

VOICES = (
    "Voices: Allison Smith (theivrvoice.com), June Wallack, Carlo Flora, Marco Menardi and Paola "
    "Dal Zot (http://www.voip.ammdomus.it), ivrvoice.ru; CC BY and CC BY-SA 3.0, Debian's packages."
)


def prompts() -> ZipPath:
    """102 short prompts, each in English, Spanish, French, Russian and, by two voices, Italian.

    A folder of folders, language/voice/prompt.opus, of 8 kHz: en/Allison, es/Allison (the
    same woman), fr/June, it/Carlo, it/Menardi, ru/Ivrvoice. 612 files, 10 minutes. `VOICES`
    is to be shown wherever they are used.

    Source: Debian, asterisk-core-sounds 1.6.1 and asterisk-prompt-it-menardi 1.4.22; who
    recorded them, and under which licence, is in README.md beside this file.
    """
    return ZipPath(str(Path(__file__).with_name("prompts.zip")))
