"""What the sandbox plays for tests/ui: a shop's release, one plan per verdict, and a hostile service."""

from __future__ import annotations

from typing import Any

Case = dict[str, Any]

_BANKS_PAGE = (
    "I signed in as anna@northwind.example, put the blue kettle into the basket and went to the checkout. I chose "
    "“Credit card”, entered the test card 4242 4242 4242 4242 and pressed “Pay 42.00 EUR”. The button "
    "turned grey for about twelve seconds, then the page said “Something went wrong, please try again”. I tried "
    "it twice more with the same outcome. The order does not appear in the order history."
)
_SPINNER = (
    "I entered the code WELCOME10 and pressed “Apply”. The spinner kept turning for 30 seconds and the total stayed at "
    "42.00 EUR, where 37.80 EUR was expected."
)

SIGN_IN: Case = {"name": "Sign in with a password", "duration_seconds": 25}
SEARCH: Case = {"name": "Search finds a product by its name", "duration_seconds": 35}
BASKET: Case = {"name": "The basket shows the total with shipping", "duration_seconds": 30}
ADDRESS: Case = {"name": "Change the delivery address", "duration_seconds": 40, "depends_on": [SIGN_IN["name"]]}
VOUCHER: Case = {
    "name": "Apply a voucher",
    "duration_seconds": 35,
    "outcomes": [
        {"outcome": "failed", "title": "The total did not change after the voucher was applied", "thought": _SPINNER},
        "passed",
    ],
}
PAY: Case = {
    "name": "Pay with a credit card",
    "duration_seconds": 45,
    "outcomes": {"outcome": "failed", "title": "The payment was refused with an error page", "thought": _BANKS_PAGE},
}
INVOICE: Case = {"name": "Download the invoice", "duration_seconds": 20, "depends_on": [PAY["name"]]}
MAIL: Case = {
    "name": "The order confirmation arrives by e-mail",
    "duration_seconds": 30,
    "outcomes": {
        "outcome": "platform_error",
        "title": "The test mailbox could not be opened",
        "thought": "I waited for the message, but the mailbox itself did not answer, so I cannot say whether it came.",
    },
}
NEWSLETTER: Case = {"name": "Subscribe to the newsletter", "duration_seconds": 20}


def shop(nightly: str = "good") -> dict[str, Any]:
    """The project of a shop.

    Args:
        nightly: What comes of the plan `pln_nightly` on this day: good, flaky or broken.
    """
    extra = {"good": [], "flaky": [VOUCHER["name"]], "broken": [VOUCHER["name"], PAY["name"]]}[nightly]
    always = [SIGN_IN["name"], SEARCH["name"], BASKET["name"], ADDRESS["name"], NEWSLETTER["name"]]
    return {
        "test_cases": [SIGN_IN, SEARCH, BASKET, ADDRESS, VOUCHER, PAY, INVOICE, MAIL, NEWSLETTER],
        "plans": [
            {"short_id": "pln_smoke", "name": "Smoke tests of the shop", "test_cases": [*always, VOUCHER["name"]]},
            {
                "short_id": "pln_release",
                "name": "Release tests of the shop",
                "test_cases": [*always, VOUCHER["name"], PAY["name"], INVOICE["name"]],
            },
            {"short_id": "pln_orders", "name": "Order tests of the shop", "test_cases": [*always, MAIL["name"]]},
            {"short_id": "pln_nightly", "name": "Nightly tests of the shop", "test_cases": [*always, *extra]},
        ],
    }


def hostile_texts(beacon: str) -> dict[str, str]:
    """Texts that would do something if a page took them for more than text.

    Each holds a word of its own (`victim-<kind>`), by which it is found in a page: text that is swallowed is no better
    than text that acts.

    Args:
        beacon: An address that must not be asked for.
    """
    return {
        "script": f"victim-script <script>alert('script'); fetch('{beacon}/script')</script> after-script",
        "image": f"victim-image <img src={beacon}/image onerror=alert('image')> after-image",
        "markdown": f"victim-markdown ![picture]({beacon}/markdown) ![again][ref] after-markdown",
        "reference": f"victim-reference\n\n[ref]: {beacon}/reference\n\n![ref] ![x][ref] after-reference",
        "link": "victim-link [press me](javascript:alert('link')) <a href='javascript:alert(1)'>or me</a> after-link",
        "data": "victim-data [data](data:text/html,<script>alert('data')</script>) after-data",
        "autolink": f"victim-autolink {beacon}/auto <{beacon}/angle> www.evil.example me@evil.example after-autolink",
        "pipes": "victim-pipes | a | b \\| c || ![x](" + beacon + "/pipes) | after-pipes",
        "newlines": "victim-newlines\n\n# heading-of-evil\n\n- item\n\n---\n\n    code\r\n> quote\n\nafter-newlines",
        "backticks": "victim-backticks `code` ```\n<b>bold</b>\n``` ``x` after-backticks",
        "details": f"victim-details </details></li></ul></div><h1>evil</h1><img src={beacon}/details> after-details",
        "entities": "victim-entities &lt;img src=x&gt; &#60;b&#62;x&#60;/b&#62; &amp;lt; &copy; after-entities",
        "direction": "victim-direction \u202egnp.exe\u202c \u2066hidden\u2069 \u200f after-direction",
        "control": "victim-control \x00\x07\x1b[31mred\x1b[0m \x7f\x9b \ufffe after-control",
        "emphasis": "victim-emphasis **bold** _it_ ~~gone~~ $x$ <b>B</b> <svg onload=alert(1)> after-emphasis",
        "mermaid": f'victim-mermaid\n```mermaid\ngraph TD; A-->B; click A href "{beacon}/mermaid"\n``` after-mermaid',
        "style": f"victim-style <style>body{{background:url({beacon}/style)}}</style><iframe src={beacon}/frame>"
        f"</iframe><video poster={beacon}/poster></video><link rel=stylesheet href={beacon}/css> after-style",
        "template": "victim-template {{ constructor.constructor('alert(1)')() }} ${alert(1)} {% raw %} after-template",
    }


def hostile(beacon: str) -> dict[str, Any]:
    """A project whose every free text is hostile; the first words of each name are those that a page must show.

    Args:
        beacon: An address that must not be asked for.
    """
    texts = hostile_texts(beacon)
    everything = "  ".join(texts.values())
    cases: list[Case] = []
    for number, (kind, text) in enumerate(texts.items()):
        # A third of them are flaky, so that their stories are told too; one ends without a verdict.
        words = {"title": f"title-of {text}", "thought": f"thought-of {text}"}
        failed = {"outcome": "failed", **words}
        outcomes: Any = [failed, "passed"] if number % 3 == 1 else [failed]
        if kind == "template":
            outcomes = [{"outcome": "platform_error", **words}]
        cases.append({"key": kind, "name": text, "duration_seconds": 1, "outcomes": outcomes})
    long = {"outcome": "failed", "title": everything, "thought": (everything + " ") * (100_000 // len(everything) + 1)}
    cases.append({"key": "long", "name": "victim-long " + everything * 5, "duration_seconds": 1, "outcomes": long})
    strange = {"status": texts["image"], "result": texts["script"], "error_code": texts["markdown"]}
    cases.append({"key": "words", "name": "victim-words", "duration_seconds": 1, "outcomes": strange})
    return {
        "project": {"name": texts["script"]},
        "parallel": 50,
        "test_cases": cases,
        "plans": [
            {
                "short_id": "pln_hostile",
                "name": "victim-plan " + everything,
                "test_cases": [*texts, "long"],
                "parallel": 50,
            },
            {
                "short_id": "pln_words",
                "name": texts["details"],
                "test_cases": ["script", "words"],
                "run": {"status": texts["image"], "after_seconds": 4},
            },
        ],
    }
