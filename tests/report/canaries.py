"""What data might hold to do harm in a page, and ways to see whether it does."""

from __future__ import annotations

import html

RAN = "document.title='ran'"
SHORT = f"\"'><img src=x onerror={RAN}>"
CANARIES = (
    f"{SHORT}</p></details></title></style><style>@import url(http://canary.invalid/i.css);"
    "body{background:url(http://canary.invalid/b.png)}</style>"
    f'<script>{RAN}</script><script src="http://canary.invalid/s.js"></script>'
    f'<img src="http://canary.invalid/p.png" onerror="{RAN}"><svg onload="{RAN}"></svg>'
    f'<iframe src="javascript:{RAN}"></iframe><iframe src="http://canary.invalid/f"></iframe>'
    '<link rel="stylesheet" href="http://canary.invalid/l.css">'
    f'<a href="javascript:{RAN}">javascript:{RAN}</a> http://canary.invalid/text '
    f"<details open ontoggle=\"{RAN}\"></details>' style='--x:url(http://canary.invalid/a)"
)
MEASURE = """
<script>
addEventListener("load", () => {
  const found = {};
  for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument;
    page.querySelectorAll("details").forEach((one) => { one.open = true; });
    const root = page.documentElement;
    found[frame.id] = [frame.clientWidth, root.clientWidth, root.scrollWidth];
  }
  document.title = JSON.stringify(found);
});
</script>
"""


def unguarded(page: str) -> str:
    """The page without its policy, so that nothing but escaping protects it."""
    start = page.index('<meta http-equiv="Content-Security-Policy"')
    return page[:start] + page[page.index(">", start) + 1 :]


def framed(pages: dict[str, str], width: int) -> str:
    """Pages beside each other, each as wide as a screen of that width."""
    frames = (
        f'<iframe id="{name}" style="border:0;width:{width}px;height:900px" '
        f'srcdoc="{html.escape(page)}"></iframe>'
        for name, page in pages.items()
    )
    return f"<!doctype html><title>none</title>{MEASURE}{''.join(frames)}"
