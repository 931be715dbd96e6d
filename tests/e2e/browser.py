"""A person at a browser: cookies, redirects, forms and links, without a script engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from types import TracebackType
from typing import Self
from urllib.parse import urljoin

import httpx

__all__ = ["Browser", "Page"]

_HOPS = 20


@dataclass(kw_only=True)
class Form:
    """A form as it would be sent if nobody typed anything."""

    action: str
    method: str = "get"
    fields: dict[str, str] = field(default_factory=dict)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self.links: dict[str, str] = {}
        self.texts: list[str] = []
        self._link: str | None = None
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag in ("script", "style"):
            self._hidden += 1
        elif tag == "a":
            self._link = given.get("href")
        elif tag == "form":
            action, method = given.get("action", ""), given.get("method", "get").lower()
            self.forms.append(Form(action=action, method=method))
        elif tag == "input" and self.forms and "name" in given:
            self.forms[-1].fields[given["name"]] = given.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._hidden -= 1
        elif tag == "a":
            self._link = None

    def handle_data(self, data: str) -> None:
        if self._hidden or not data.strip():
            return
        self.texts.append(data.strip())
        if self._link is not None:
            self.links[data.strip()] = self._link


@dataclass(frozen=True, kw_only=True)
class Page:
    """What the browser shows, and the addresses that led to it (the last one is its own)."""

    status: int
    trail: tuple[str, ...]
    text: str
    html: str = field(repr=False)
    forms: tuple[Form, ...] = ()
    links: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return self.trail[-1]


class Browser:
    """One profile with its own cookies.

    With ``stops_before`` a redirect to an address that begins like this is not followed: the page
    is then the redirect, and its ``url`` the address that it leads to.
    """

    def __init__(self) -> None:
        self._http = httpx.Client(timeout=60, follow_redirects=False, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def get(self, url: str, *, stops_before: str | None = None) -> Page:
        """Types an address."""
        return self._go(self._http.build_request("GET", url), stops_before)

    def submit(self, page: Page, *, stops_before: str | None = None, **typed: str) -> Page:
        """Fills in the page's form and sends it."""
        form = page.forms[0]
        url, fields = urljoin(page.url, form.action), {**form.fields, **typed}
        if form.method == "post":
            return self._go(self._http.build_request("POST", url, data=fields), stops_before)
        return self._go(self._http.build_request("GET", url, params=fields), stops_before)

    def follow(self, page: Page, label: str, *, stops_before: str | None = None) -> Page:
        """Clicks the link that reads ``label``."""
        return self.get(urljoin(page.url, page.links[label]), stops_before=stops_before)

    def _go(self, request: httpx.Request, stops_before: str | None) -> Page:
        trail = [str(request.url)]
        for _ in range(_HOPS):
            response = self._http.send(request)
            if response.next_request is None:
                return _page(response, trail)
            request = response.next_request
            trail.append(str(request.url))
            if stops_before is not None and trail[-1].startswith(stops_before):
                return Page(status=response.status_code, trail=tuple(trail), text="", html="")
        raise AssertionError(f"redirected without end: {trail}")


def _page(response: httpx.Response, trail: list[str]) -> Page:
    reader = _Reader()
    reader.feed(response.text)
    return Page(
        status=response.status_code,
        trail=tuple(trail),
        text=" ".join(reader.texts),
        html=response.text,
        forms=tuple(reader.forms),
        links=reader.links,
    )
