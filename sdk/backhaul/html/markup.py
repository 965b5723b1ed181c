"""HTML that cannot be broken out of: text is escaped where it enters, and only markup is not.

One style for everything, scoped to `.backhaul`. It follows the page: the system's setting, and the
themes of JupyterLab and VS Code. A colour is never the only sign: each state has a word and a mark.
"""

from __future__ import annotations

import html
from datetime import datetime

from backhaul.display import render_age
from backhaul.wire.printing import render_printable

LIGHT = {
    "good": "#146c2e",
    "bad": "#b3261e",
    "warn": "#8a5300",
    "busy": "#0b57d0",
    "mute": "#5a5f66",
    "text": "#1f2328",
    "line": "#d0d7de",
    "back": "#ffffff",
    "bar": "#e4e8ec",
}
DARK = {
    "good": "#7bd88f",
    "bad": "#ff9d94",
    "warn": "#ffcc66",
    "busy": "#9cc4ff",
    "mute": "#b4bac2",
    "text": "#e6e9ee",
    "line": "#4a5058",
    "back": "#1b1f24",
    "bar": "#363c44",
}
TEXT_COLOURS = ("good", "bad", "warn", "busy", "mute", "text")


class Markup(str):
    """HTML that this package wrote itself."""

    __slots__ = ()


def tag(name: str, *content: str, **attributes: str) -> Markup:
    """Build an element. Text is escaped, Markup is not; `class_` stands for class."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(value)}"'
        for key, value in attributes.items()
    )
    return Markup(f"<{name}{written}>{''.join(map(escape, content))}</{name}>")


def escape(text: str) -> Markup:
    """Escape what is text; signs that hide or turn the direction are shown as what they are."""
    return text if isinstance(text, Markup) else Markup(html.escape(render_printable(text)))


def join(*parts: str) -> Markup:
    return Markup("".join(map(escape, parts)))


def mark(kind: str, glyph: str, word: str) -> Markup:
    """A state: its mark, its word, its colour."""
    sign = tag("span", glyph, aria_hidden="true")
    return tag("span", sign, " ", word, class_=f"bh-{kind}")


def age(at: datetime | None, now: datetime, *, absent: str = "never") -> Markup:
    """A moment as its age, with the moment itself on hover."""
    if at is None:
        return tag("span", absent, class_="bh-mute")
    stamp = at.isoformat(timespec="seconds")
    return tag("time", render_age(at, now), datetime=stamp, title=stamp)


def page(*content: str, label: str) -> str:
    """The outermost element of a display, with its style."""
    section = tag("div", *content, class_="backhaul", role="group", aria_label=label)
    return f"<style>{STYLE}</style>{section}"


def _variables(colours: dict[str, str]) -> str:
    return "".join(f"--bh-{name}:{value};" for name, value in colours.items())


_RULES = """
.backhaul{color:var(--bh-text);background:var(--bh-back);font:13px/1.5 system-ui,sans-serif;
border:1px solid var(--bh-line);border-radius:6px;padding:10px 14px;max-width:72rem;
overflow-x:auto;display:inline-block;text-align:left}
.backhaul .bh-title{font-size:15px;font-weight:600;margin:0 0 6px}
.backhaul table+.bh-title{margin-top:14px}
.backhaul table{font:inherit;
border-collapse:collapse;margin:0;border:0;color:inherit;background:none;
font-variant-numeric:tabular-nums}
.backhaul th,.backhaul td{text-align:left!important;padding:3px 14px 3px 0;border:0;
vertical-align:top;background:none;color:inherit;white-space:pre-wrap;max-width:40ch;
overflow-wrap:break-word;font-size:13px}
.backhaul thead th{border-bottom:1px solid var(--bh-line);font-weight:600;white-space:nowrap}
.backhaul tbody tr{background:none!important}
.backhaul tbody th{font-weight:500;white-space:nowrap}
.backhaul tbody+tbody,.backhaul tbody tr+tr td,.backhaul tbody tr+tr th{
border-top:1px solid var(--bh-line)}
.backhaul .bh-card td,.backhaul .bh-card th{border:0!important}
.backhaul .bh-card th{color:var(--bh-mute);font-weight:400}
.backhaul td>span[class],.backhaul time{white-space:nowrap}
.backhaul .bh-note{color:var(--bh-mute);margin:6px 0 0}
.backhaul .bh-bar{background:var(--bh-bar);border-radius:4px;height:10px;margin:6px 0;
min-width:24rem;overflow:hidden}
.backhaul .bh-bar>div{background:var(--bh-busy);height:100%}
.backhaul pre{margin:6px 0 0;padding:0;color:var(--bh-mute);background:none;
white-space:pre-wrap;font-size:12px}
.backhaul .bh-label{border:1px solid var(--bh-line);border-radius:4px;padding:0 5px;
margin-right:4px;white-space:nowrap}
"""
_DARK_PLACES = "[data-jp-theme-light=false] .backhaul,.vscode-dark .backhaul,.backhaul.bh-dark"
_LIGHT_PLACES = "[data-jp-theme-light=true] .backhaul,.vscode-light .backhaul,.backhaul.bh-light"
STYLE = (
    f".backhaul{{{_variables(LIGHT)}}}"
    f"@media(prefers-color-scheme:dark){{.backhaul{{{_variables(DARK)}}}}}"
    f"{_LIGHT_PLACES}{{{_variables(LIGHT)}}}{_DARK_PLACES}{{{_variables(DARK)}}}"
    + _RULES.replace("\n", "")
    + "".join(f".backhaul .bh-{name}{{color:var(--bh-{name})}}" for name in TEXT_COLOURS)
)
