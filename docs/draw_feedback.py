"""Take the pictures of the feedback page for these pages, from a real study in a real browser.

    python docs/draw_feedback.py --out docs [--chromium /usr/bin/chromium]

Needs the Python packages playwright and pillow, and Chromium.
"""

import argparse
import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

ROWS = [
    {
        "prompt": "My neighbour borrowed my drill in March and has not brought it back. Write a short, friendly note "
        "that asks for it without making him feel bad.",
        "completions": [
            "Hi Tom! I am putting up shelves this weekend and would love to have my drill back by Friday. I can come "
            "round and fetch it, whenever suits you. Thanks!",
            "Dear neighbour, I hope that you are well. If you are done with the drill, may I have it back when you get "
            "a moment? No hurry at all.",
            "Tom, you have had my drill since March. Bring it back today or I will never lend you anything again.",
            "Drills were invented in 1889 by Arthur James Arnot. They are useful for making holes in many materials.",
        ],
    },
    {
        "prompt": "Explain to a child of six why the moon changes its shape.",
        "completions": [
            "It does not really change! The sun lights one half of the moon, and we see that half from another side "
            "each night, as if you walked around a ball beside a lamp.",
            "The moon's synodic period is 29.53 days, which accounts for the variation in apparent illumination.",
            "The moon gets eaten by clouds and grows back.",
        ],
    },
    {"prompt": "Give me three ideas for a rainy Sunday with two bored children, using only things found in a kitchen."},
]


class Window:
    """A labeler's window."""

    def __init__(self, browser: Any, url: str, name: str, scheme: str, width: int, height: int) -> None:
        is_phone = width < 600
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, has_touch=is_phone,
            is_mobile=is_phone, device_scale_factor=2 if is_phone else 1, reduced_motion="reduce",
        )  # fmt: skip
        self.page, self.name = context.new_page(), name
        self.page.goto(url)
        self.page.keyboard.type(name)
        self.page.keyboard.press("Enter")
        self.at()

    def at(self, step: str = "") -> None:
        """Wait for a step."""
        self.page.wait_for_selector(f"[data-step{f'={step}' if step else ''}]")

    def keys(self, *keys: str) -> None:
        """Press keys one after the other."""
        for key in keys:
            self.page.keyboard.press(key)

    def rating(self) -> str:
        """What the person thinks of the completion that is shown."""
        return str(max(1, min(7, self.opinion(self.page.inner_text(".completion .text")))))

    def opinion(self, text: str) -> int:
        """Good texts stand first in their row; Ben is strict, and Cleo likes things short."""
        place = next(row["completions"].index(text) for row in ROWS if text in row.get("completions", ()))
        mood = {"Ben": -1, "Cleo": 1 if len(text) < 160 else -1}.get(self.name, 0)
        return (7, 6, 2, 1)[place] + mood

    def rate(self, n: int) -> None:
        """Rate so many completions."""
        self.at("rate")
        for _ in range(n):
            self.keys(self.rating(), "Enter")

    def rank(self, n: int) -> None:
        """Rank so many completions by what was thought of them; the same opinion is a tie."""
        self.at("rank")
        texts = [self.page.inner_text(f"#card-{at} .text") for at in range(self.page.locator(".rankable").count())]
        opinions = [self.opinion(text) for text in texts]
        for at in range(n):
            self.keys("abcd"[at], str(1 + sum(other > opinions[at] for other in opinions)))

    def shoot(self, path: Path) -> None:
        """Save what is seen."""
        self.page.wait_for_timeout(250)
        save(self.page.screenshot(), path)


def main() -> None:
    """Serve a study, label some of it, and take the pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        source = Path(folder) / "rows.jsonl"
        source.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        command = [
            sys.executable,
            "-m",
            "tunewell.pipelines.cli",
            "collect",
            "serve",
            str(Path(folder) / "helpful.sqlite"),
        ]
        server = subprocess.Popen(
            [*command, str(source), "--overlap", "3", "--port", "0"], stderr=subprocess.PIPE, text=True
        )
        try:
            links = []
            for line in server.stderr or ():
                links += re.findall(r"(http://\S+)", line)
                if len(links) == 2:
                    break
            browser = playwright.chromium.launch(executable_path=options.chromium, args=["--no-sandbox"])
            draw(browser, *links, options.out)
            browser.close()
        finally:
            server.terminate()
            server.wait(20)


def draw(browser: Any, url: str, results: str, out: Path) -> None:
    """Label as three people, with a picture of each view on the way."""
    ada = Window(browser, url, "Ada", "light", 1100, 800)
    ada.rate(2)
    ada.keys(ada.rating(), "d" if int(ada.rating()) > 4 else "a")  # keeps to the limit, or does not follow
    ada.shoot(out / "feedback-rate.png")
    ada.keys("Enter")
    ada.rate(1)
    ada.rank(3)
    ben = Window(browser, url, "Ben", "dark", 1100, 800)
    ben.rate(4)
    ben.rank(2)
    ben.shoot(out / "feedback-rank-dark.png")
    cleo = Window(browser, url, "Cleo", "light", 390, 780)
    cleo.keys(cleo.rating())
    cleo.shoot(out / "feedback-phone-rate.png")
    cleo.keys("Enter")
    cleo.rate(3)
    cleo.rank(2)
    cleo.shoot(out / "feedback-phone-rank.png")
    for window in (ada, ben, cleo):
        window.rank(4)
        window.keys("Enter")
        window.rate(3)
        window.rank(3)
        window.keys("Enter")
        window.at("demonstrate")
    ada.page.keyboard.type("1. Bake biscuits that look like each other.\n2. Make a band of pots, lids and spoons.\n3. ")
    ada.shoot(out / "feedback-write.png")
    page = browser.new_context(viewport={"width": 1100, "height": 900}, color_scheme="light").new_page()
    page.goto(results)
    page.wait_for_selector("#agreement td")
    save(page.screenshot(full_page=True), out / "feedback-results.png")


def save(shot: bytes, path: Path) -> None:
    """With few colours, which is a third of the size."""
    picture = Image.open(io.BytesIO(shot)).convert("RGB")
    picture.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
    print(path, path.stat().st_size // 1024, "kB")


if __name__ == "__main__":
    main()
