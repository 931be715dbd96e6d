"""What somebody could try with the addresses of an authorization, at a provider that Aura's authors
did not write: each ends at a page that says why, and with nothing connected. Where the provider
need not be asked to know, it is not asked."""

from __future__ import annotations

from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

from tests.e2e.browser import Browser
from tests.e2e.openid_provider import User


def replaced(url: str, **parameters: str) -> str:
    """The address with other values in its query."""
    parts = urlsplit(url)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    return urlunsplit(parts._replace(query=urlencode(query | parameters)))


def test_a_state_is_good_once(user: User, browser: Browser) -> None:
    address = user.callback(browser)
    assert browser.get(address).status == 200
    before, exchanges = user.connection(), user.exchanges()

    page = browser.get(address)

    assert page.status == 422, page
    assert "finished already" in page.text
    assert user.connection() == before
    assert user.exchanges() == exchanges


def test_an_authorization_is_not_finished_in_another_browser(
    user: User, browser: Browser, other_browser: Browser
) -> None:
    exchanges = user.exchanges()
    address = user.callback(browser)

    page = other_browser.get(address)
    assert page.status == 422, page
    assert "another browser" in page.text
    # It leaked, so it is of no use to the user's own browser either.
    assert browser.get(address).status == 422
    assert user.exchanges() == exchanges
    assert user.connection() is None


def test_a_link_is_taken_up_in_one_browser(
    user: User, browser: Browser, other_browser: Browser
) -> None:
    link = user.link()
    question, other_question = browser.get(link), other_browser.get(link)
    assert user.origin in question.url
    assert browser.submit(question).url.startswith(user.provider.issuer)

    page = other_browser.submit(other_question)

    assert page.status == 422, page
    assert "used already" in page.text
    assert "used already" in browser.get(link).text


def test_a_link_that_was_sent_to_somebody_says_whose_account_it_is_for(
    user: User, browser: Browser
) -> None:
    calls = len(user.provider.calls())

    question = browser.get(user.link())

    assert question.url.startswith(user.origin)
    assert f"{user.account}@aura.test" in question.text
    assert "Example identity" in question.text
    assert "If somebody sent you this link, close the page" in question.text
    assert len(user.provider.calls()) == calls


def test_a_page_elsewhere_cannot_go_on_for_the_user(user: User, browser: Browser) -> None:
    """Cross-site request forgery: a form that was not on Aura's own page in this browser."""
    link = user.link()
    ticket = parse_qs(urlsplit(link).query)["ticket"][0]
    question = browser.get(link)

    page = browser.submit(question, ticket=ticket, proof="A" * 43)

    assert page.status == 422, page
    assert "not opened in this browser" in page.text
    assert browser.submit(question).url.startswith(user.provider.issuer)  # the link is not spent


def test_refusing_consent_connects_nothing(user: User, browser: Browser) -> None:
    exchanges = user.exchanges()

    page = browser.follow(user.consent_page(browser), "[ Cancel ]")

    assert page.status == 422, page
    assert "You did not allow the access" in page.text
    assert user.exchanges() == exchanges
    assert user.connection() is None


def test_an_answer_of_another_provider_is_refused(user: User, browser: Browser) -> None:
    exchanges = user.exchanges()

    page = browser.get(replaced(user.callback(browser), iss="https://other.example"))

    assert page.status == 422, page
    assert "another provider" in page.text
    assert user.exchanges() == exchanges
    assert user.connection() is None


def test_a_code_from_another_authorization_is_refused_by_its_verifier(
    user: User, browser: Browser, other_browser: Browser
) -> None:
    """Code injection (RFC 9700 §4.5): the stolen code is genuine, but it belongs to a verifier
    that this authorization does not know."""
    exchanges = user.exchanges()
    stolen = parse_qs(urlsplit(user.callback(other_browser)).query)["code"][0]

    page = browser.get(replaced(user.callback(browser), code=stolen))

    assert page.status == 422, page
    assert "did not accept" in page.text
    assert user.exchanges() == [*exchanges, 400]
    assert user.connection() is None


def test_what_the_address_says_is_not_shown(user: User, browser: Browser) -> None:
    address = replaced(
        user.callback(browser), error="<b>odd</b>", error_description="call this number"
    )

    page = browser.get(address)

    assert page.status == 422, page
    assert "call this number" not in page.html
    assert "<b>odd" not in page.html
