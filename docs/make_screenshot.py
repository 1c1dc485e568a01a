"""Make the README's pictures of the report, light and dark, from a page that `make demo` wrote.

python docs/make_screenshot.py train_reranker/finetune_results.html
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from browser import browser, find_browser

WIDTH, HEIGHT = 1180, 700


def main() -> None:
    """Take the first screen of the page."""
    program = find_browser()
    if program is None:
        sys.exit("no browser: install chromium-headless-shell, or name one by CHROMIUM")
    with browser(program) as page:
        for dark in (False, True):
            page.open(Path(sys.argv[1]).resolve(), WIDTH, HEIGHT, dark)
            bottom = page.run("document.querySelector('header').getBoundingClientRect().bottom")
            clip = {"x": 0, "y": 0, "width": WIDTH, "height": bottom + 12, "scale": 2}
            path = ROOT / "docs" / "images" / f"report-{'dark' if dark else 'light'}.webp"
            page.picture(path, format="webp", quality=80, clip=clip)
            print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
