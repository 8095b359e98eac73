"""What is valid in a URL goes out as it is, and only the rest is quoted."""

from __future__ import annotations

import pytest

from gristmill.pipelines.download.urls import BadUrl, parse_url, redirect_target

AS_GIVEN = (
    "/a%27b.jpg?k=x%40y%2Fz&Sig=q%3A",
    "/%7Eme/%c3%a9.jpg",
    "/a+b/c%20d?e=f+g&h=%2B",
    "/x.jpg?",
    "/x.jpg??&&=",
    "/a//b/../c/./d.jpg",
    "/a(b)!*';,@$&=:.jpg",
    "/x?sig=AbC%2bdEf%3D%3D&a[]=1",
    "/%E4.jpg",
)


@pytest.mark.parametrize("asked", AS_GIVEN)
def test_what_is_valid_is_sent_as_given(asked: str) -> None:
    assert parse_url(f"http://pictures.test{asked}").raw_path_qs == asked
    start = parse_url("http://other.test/list?x=1")
    for location in (f"https://pictures.test:8443{asked}", f"//pictures.test{asked}"):
        assert redirect_target(start, location).raw_path_qs == asked


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("http://h/a b.jpg", "http://h/a%20b.jpg"),
        ("http://h/é.jpg?q=ü", "http://h/%C3%A9.jpg?q=%C3%BC"),
        ("http://h/100%.jpg", "http://h/100%25.jpg"),
        ("http://h/%zz%41", "http://h/%25zz%41"),
        ('http://h/a"b<c>d|e.jpg', "http://h/a%22b%3Cc%3Ed%7Ce.jpg"),
        ("http://h/a\r\nX-Evil: 1", "http://h/a%0D%0AX-Evil:%201"),
        ("http://h/\udce9.jpg", "http://h/%E9.jpg"),
        ("http://h", "http://h/"),
        ("http://h?x=1", "http://h/?x=1"),
        ("HTTP://user:secret@H:80/A#part", "http://h/A"),
        ("http://bücher.test/a", "http://xn--bcher-kva.test/a"),
        ("http://[::1]:81/a", "http://[::1]:81/a"),
        ("http://①②⑦.0.0.1/a", "http://127.0.0.1/a"),
        ("  http://h/a  ", "http://h/a"),
    ],
)
def test_only_what_is_not_is_quoted(given: str, sent: str) -> None:
    assert str(parse_url(given)) == sent


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/b%2Fc", "http://h:8080/b%2Fc"),
        ("b?x=%40", "http://h:8080/d/b?x=%40"),
        ("../b%20c", "http://h:8080/b%20c"),
        ("?k=%2F", "http://h:8080/d/a?k=%2F"),
        ("//o/%7E", "http://o/%7E"),
        ("https://o/a b", "https://o/a%20b"),
        # As RFC 3986 joins, and no byte less.
        ("b?", "http://h:8080/d/b?"),
        ("/b?", "http://h:8080/b?"),
        ("?", "http://h:8080/d/a?"),
        ("b//c", "http://h:8080/d/b//c"),
        ("/b;?c;", "http://h:8080/b;?c;"),
        ("b;", "http://h:8080/d/b;"),
        ("", "http://h:8080/d/a?k=1"),
        ("#top", "http://h:8080/d/a?k=1"),
        ("b#top", "http://h:8080/d/b"),
        (".", "http://h:8080/d/"),
        ("../..", "http://h:8080/"),
        ("/x/./../y/..", "http://h:8080/"),
        ("c?x=../y", "http://h:8080/d/c?x=../y"),
        ("//o", "http://o/"),
    ],
)
def test_a_redirect_is_followed_as_it_is_given(location: str, target: str) -> None:
    assert str(redirect_target(parse_url("http://h:8080/d/a?k=1"), location)) == target


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ftp://h/x", "scheme not allowed"),
        ("h/x.jpg", "invalid url"),
        ("", "invalid url"),
        ("http:/h/x", "invalid url"),
        ("http://", "invalid url"),
        ("http://h:99999/", "invalid url"),
        ("http://h/\ud800", "invalid url"),
        ("http://[::1/x", "invalid url"),
    ],
)
def test_what_is_no_url_says_so(text: str, reason: str) -> None:
    with pytest.raises(BadUrl, match=f"^{reason}$"):
        parse_url(text)
