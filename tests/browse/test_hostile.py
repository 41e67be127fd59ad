"""Words that mean harm, in every place that a page shows, and askers that mean harm."""

from __future__ import annotations

import re
from urllib.parse import quote, urlencode

import pytest
from starlette.testclient import TestClient

from kar.browse.app import application
from kar.browse.guard import HEADERS, Hosts
from kar.store import Home
from tests.browse import planted
from tests.browse.planted import HOSTILE
from tests.browse.read import page

OUR_TAGS = {
    "html", "head", "meta", "title", "link", "body", "a", "div", "header", "p", "b", "bdi", "form", "label", "input", "button", "nav", "main", "footer", "h1",
    "h2", "h3", "h4", "ul", "ol", "li", "span", "section", "article", "dl", "dt", "dd", "table", "thead", "tbody", "tr", "th", "td", "details", "summary",
    "blockquote", "pre", "code", "br", "svg", "rect", "time", "colgroup", "col",
}  # fmt: skip
ITEMS = [f"i{n} {word}" for n, word in enumerate(HOSTILE)]
USERS = [f"u{n} {word}" for n, word in enumerate(HOSTILE[:6])]
EVERYWHERE = [
    "/", "/releases", *(f"/item?{urlencode({'id': i})}" for i in ITEMS), *(f"/user?{urlencode({'id': u})}" for u in USERS),
    *(f"/search?{urlencode({'q': word})}" for word in HOSTILE),
]  # fmt: skip
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@pytest.mark.parametrize("path", EVERYWHERE)
def test_hostile_words_make_no_element_no_attribute_and_nothing_invisible(hostile: TestClient, path: str) -> None:
    answer = hostile.get(path)
    assert answer.status_code == 200, answer.text
    shown = page(answer.text)  # fails for an element that somebody else's words opened or closed
    assert {e.tag for e in shown.all()} <= OUR_TAGS
    named = {name for e in shown.all() for name in e.attributes}
    assert not {name for name in named if name.startswith("on")} | (named & {"style", "src", "srcdoc", "formaction", "action "})
    assert not _UNSEEN.search(answer.text)
    assert "49" not in [e.words for e in shown.all("bdi")]  # {{ 7*7 }} was never calculated
    links = [e.attributes["href"] for e in shown.all("a")]
    assert all(
        re.fullmatch(r"/|#[a-z-]+|/(user|item|search)\?[A-Za-z0-9%+.=&_~-]+(#near)?|/releases(/[0-9a-f-]+)?", link) for link in links
    ), links


@pytest.mark.parametrize("place", range(len(HOSTILE)))
def test_every_hostile_id_can_be_found_and_followed_to_its_own_page(hostile: TestClient, place: int) -> None:
    hits = page(hostile.get(f"/search?{urlencode({'q': f'i{place}', 'side': 'item'})}").text).one("ul", class_="hits").all("a")
    opened = page(hostile.get(hits[0].attributes["href"]).text)
    assert opened.one("p", class_="eyebrow").words.startswith(f"Item i{place} ")
    assert opened.one("section", id="did").words


def test_a_hostile_text_is_shown_in_full_words_with_what_hides_made_visible(hostile: TestClient) -> None:
    answer = hostile.get(f"/item?{urlencode({'id': ITEMS[2]})}").text
    assert "⟨U+202E⟩gnp.exe⟨U+202C⟩" in page(answer).one("h1").words
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in answer
    assert "<script" not in answer


def test_every_answer_says_what_the_browser_may_do_the_errors_too(client: TestClient) -> None:
    for path in ("/", "/user?id=1", "/nothing", "/icon.svg", "/user?id=1&date=x"):
        headers = client.get(path).headers
        assert {name: headers[name] for name in HEADERS} == HEADERS
    policy = HEADERS["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "script-src" not in policy
    assert "unsafe" not in policy


def test_pages_name_no_address_but_their_own(client: TestClient) -> None:
    for path in ("/", "/user?id=1", "/item?id=20", "/releases", "/search?q=1"):
        shown = page(client.get(path).text)
        named = [value for e in shown.all() for name, value in e.attributes.items() if name in ("href", "src", "action")]
        assert named
        assert all(value.startswith(("/", "#")) and not value.startswith("//") for value in named)
        assert not shown.all("script")
        assert not shown.all("style")
    style = client.get(page(client.get("/").text).one("link", rel="stylesheet").attributes["href"])
    assert style.headers["content-type"].startswith("text/css")
    assert "url(" not in style.text
    assert "@import" not in style.text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", ["/", "/user?id=1", "/nothing"])
def test_nothing_but_reading_is_answered(client: TestClient, method: str, path: str) -> None:
    answer = client.request(method, path)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD"


def test_head_is_get_without_the_page(client: TestClient) -> None:
    answer = client.head("/user?id=1")
    assert answer.status_code == 200
    assert answer.text == ""


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "10.0.0.5",
        "",
        "localhost:80:80",
        "a b",
        "[::1",
        "evil.example:8765",
    ],
)
def test_a_host_that_is_not_this_machine_is_refused(client: TestClient, host: str) -> None:
    answer = client.get("/user?id=1", headers={"Host": host})
    assert answer.status_code == 421
    assert "preference" not in answer.text


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8765", "127.0.0.1:1", "127.8.9.1", "[::1]:8765"])
def test_a_host_that_is_this_machine_is_answered(client: TestClient, host: str) -> None:
    assert client.get("/user?id=1", headers={"Host": host}).status_code == 200


def test_on_another_host_addresses_are_answered_and_names_only_if_they_were_told(home: Home) -> None:
    hosts = Hosts("0.0.0.0", ("films.example",))
    client = TestClient(application(planted.settings(planted.World(), home.root), home, hosts), base_url="http://127.0.0.1")
    answers = {
        host: client.get("/", headers={"Host": host}).status_code
        for host in ("192.0.2.7:8765", "films.example", "evil.example", "[2001:db8::1]")
    }
    assert answers == {"192.0.2.7:8765": 200, "films.example": 200, "evil.example": 421, "[2001:db8::1]": 200}


@pytest.mark.parametrize(
    "path",
    [
        "/releases/..%2f..%2fplanted", "/releases/%2e%2e", "/releases/%2e%2e%2fCURRENT", "/releases/..", "/releases/%00", "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd", "/style-x.css", "/releases//etc/passwd", f"/user?date={quote('../../x')}&id=1", f"/item?id=20&release={quote('../..')}",
        f"/user?id={quote('../../etc/passwd')}", "/releases/.",
    ],
)  # fmt: skip
def test_no_path_leads_out_of_the_home(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code in (200, 400, 404)
    assert "root:" not in answer.text
    if answer.status_code == 200:
        assert page(answer.text).one("h1").words in ("Releases", planted.TITLES[1], "What is known of whom, and why")


def test_the_tables_reader_can_open_no_file_outside_the_home(home: Home) -> None:
    from kar.browse.tables import Tables
    from kar.errors import TableError

    tables = Tables(home)
    for sql in (
        "SELECT * FROM read_text('/etc/hostname')",
        "COPY (SELECT 1) TO '/tmp/kar-browse-was-here'",
        "SET enable_external_access = true",
    ):
        with pytest.raises(TableError):
            tables.query(sql, {})
