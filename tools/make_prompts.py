"""Build src/normwise/data/prompts.zip from Debian's packages of recorded prompts.

    apt-get download asterisk-core-sounds-{en,es,fr,it,ru}-wav asterisk-prompt-it-menardi-wav
    for package in asterisk-*.deb; do dpkg-deb -x $package prompts; done
    python tools/make_prompts.py prompts/usr/share/asterisk/sounds

The archive holds language/voice/prompt.opus: of the prompts that all six voices speak, those
of 0.5 to 2.2 s, without letters, ordinal numbers and what is no speech of the language.
"""

import io
import re
import sys
import zipfile
from pathlib import Path

import soundfile

TARGET = Path(__file__).parent.parent / "src/normwise/data/prompts.zip"
VOICES = {  # folders of the packages, and where they go
    "en_US_f_Allison": "en/Allison",
    "es_MX_f_Allison": "es/Allison",
    "fr_CA_f_June": "fr/June",
    "it_IT_m_Carlo": "it/Carlo",
    "it_IT_f_Menardi": "it/Menardi",
    "ru_RU_f_IvrvoiceRU": "ru/Ivrvoice",
}
LEFT_OUT = re.compile("letters|phonetic|silence|spy-|beep|tone|demo|digits/h-")
DURATION_S = 0.5, 2.2


def durations(folder: Path) -> dict[str, float]:
    """Seconds of every prompt of a voice, by its path without suffix."""
    return {
        path.relative_to(folder).with_suffix("").as_posix(): soundfile.info(path).duration
        for path in folder.rglob("*.wav")
        if path.stat().st_size > 100
    }


def main(folder: Path) -> None:
    every = [durations(folder / voice) for voice in VOICES]
    prompts = [
        prompt
        for prompt in sorted(set.intersection(*map(set, every)))
        if not LEFT_OUT.search(prompt)
        and all(DURATION_S[0] <= voice[prompt] <= DURATION_S[1] for voice in every)
    ]
    with zipfile.ZipFile(TARGET, "w") as archive:
        for voice, place in VOICES.items():
            for prompt in prompts:
                samples, rate = soundfile.read(folder / voice / f"{prompt}.wav")
                packed = io.BytesIO()
                soundfile.write(
                    packed, samples, rate, format="OGG", subtype="OPUS", compression_level=1.0
                )
                name = f"{place}/{prompt.replace('/', '-')}.opus"
                archive.writestr(zipfile.ZipInfo(name), packed.getvalue())
    size = TARGET.stat().st_size / 1024
    print(f"{TARGET.name}: {len(prompts)} prompts of {len(VOICES)} voices, {size:.0f} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
