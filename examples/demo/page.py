"""A web page's form, as a browser would send it, and what the page says."""

from __future__ import annotations

from html.parser import HTMLParser
from urllib.parse import urljoin

__all__ = ["Form"]


class Form(HTMLParser):
    """The first form of a page: hidden fields, what is ticked, and the button to press."""

    def __init__(self, page: str, *, url: str) -> None:
        super().__init__()
        self.target = url
        self.fields: dict[str, list[str]] = {}
        self.found = False
        self._open: list[str] = []
        self._said: dict[str, str] = {}
        self.feed(page)

    def says(self, tag: str) -> str:
        """The text of the first element of that name."""
        return self._said.get(tag, "")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self._open.append(tag)
        if tag == "form":
            self.found = True
            self.target = urljoin(self.target, values.get("action", ""))
        elif tag == "input" and "name" in values:
            choice = values.get("type") in ("radio", "checkbox")
            if not choice or "checked" in values:
                self.fields.setdefault(values["name"], []).append(values.get("value", "on"))

    def handle_data(self, data: str) -> None:
        if self._open:
            self._said.setdefault(self._open[-1], data.strip())

    def pressed(self, name: str, value: str) -> dict[str, list[str]]:
        """What is sent when the button of that name and value is pressed."""
        return {**self.fields, name: [value]}
