"""The viewer: what is marked, that nothing of a model's text becomes markup, and how it looks."""

import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from hicra.planning.trace_page import rollout_html, save_html, trace_html

TOKENS = [" Wait", ", let", " me", " see", ": ", "2", " +", " 2", " is", " 4"]
PLANNING = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
ENTROPIES = [2.0, 0.1, 0.1, 0.1, 0.1, 1.5, 0.1, 0.1, 1.0, 0.1]


class _Marks(HTMLParser):
    """Text by class, outside the legend, and every tag."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.open, self.found, self.skip = [], [], {}, False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        kind = dict(attrs).get("class", "")
        self.skip = kind == "legend" or (self.skip and kind != "text")
        self.open.append(kind)

    def handle_endtag(self, tag):
        self.open.pop()

    def handle_data(self, text):
        if not self.skip and self.open:
            marks = " ".join(kind for kind in self.open if kind in ("p", "h"))
            self.found.setdefault(marks or self.open[-1], []).append(text)


def test_planning_and_high_entropy_tokens_are_marked():
    marks = _Marks(trace_html(TOKENS, PLANNING, ENTROPIES)).found  # 3 of 10 tokens are high-entropy
    assert marks["p h"] == [" Wait"]
    assert marks["p"] == [", let me see"]
    assert marks["h"] == ["2", " is"]
    assert "".join(marks["text"]) == ":  + 2 4"


def test_text_of_a_model_is_shown_and_never_run():
    evil = "<script>document.title='run'</script>"
    page = trace_html([evil, "&amp;"], [1, 0], [0.0, 1.0], title=evil, prompt=evil)
    marks = _Marks(page)
    assert set(marks.tags) == {"style", "div", "p", "span", "strong", "br", "b", "u"}
    assert marks.found["p"] == [evil]
    assert marks.found["h"] == ["&amp;"]
    assert marks.found["prompt"] == [evil]


def test_the_marks_stay_where_a_page_s_style_is_dropped():
    page = trace_html(TOKENS, PLANNING, ENTROPIES).partition("</style>")[2]
    assert '<b class="p"><u class="h"> Wait</u></b><b class="p">, let me see</b>' in page
    assert '<u class="h">2</u>' in page


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="2 tokens, 1 planning marks, 2 entropies"):
        trace_html(["a", "b"], [1], [0.0, 0.0])


def test_a_rollout_of_a_record():
    row = {"tokens": TOKENS, "planning": PLANNING, "entropy": ENTROPIES, "step": 3, "prompt": "Q"}
    assert "step 3: right" in rollout_html({**row, "reason": "right", "error": None})
    assert "step 3: wrong (planning error)" in rollout_html({**row, "reason": "wrong", "error": "planning"})


def _chromium():
    return shutil.which("chromium") or shutil.which("google-chrome")


def _screenshot(page: Path, folder: Path, *flags) -> np.ndarray:
    shot = folder / "shot.png"
    command = [_chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *flags]
    command += [
        "--disable-background-networking",
        "--disable-quic",
        "--no-first-run",
        "--window-size=800,300",
    ]
    command += [f"--user-data-dir={folder / 'profile'}", f"--screenshot={shot}", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return matplotlib.image.imread(shot)[..., :3]  # (H, W, 3) in [0, 1]


@pytest.mark.skipif(_chromium() is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("dark", [False, True])
def test_it_reads_in_light_and_dark(tmp_path, dark):
    page = tmp_path / "trace.html"
    save_html([trace_html(TOKENS, PLANNING, ENTROPIES, title="<script>")], page, title="a trace")
    flags = (
        ["--blink-settings=preferredColorScheme=0"] if dark else ["--blink-settings=preferredColorScheme=1"]
    )
    image = _screenshot(page, tmp_path, *flags)
    backdrop = np.median(image.reshape(-1, 3), axis=0)
    assert (backdrop.mean() < 0.2) if dark else (backdrop.mean() > 0.9)
    tint = np.array([0x5C, 0x43, 0x00] if dark else [0xFF, 0xE2, 0xA8]) / 255
    assert (np.abs(image - tint).max(axis=2) < 0.02).sum() > 500  # planning tokens stand on their tint
    contrast = np.abs(image - backdrop).max(axis=2)
    assert (contrast > 0.6).sum() > 300  # and text is far from the backdrop
