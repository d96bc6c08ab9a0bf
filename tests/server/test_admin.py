"""The admin API: who may do what, what it does, and what it never shows."""

import asyncio
import re
import time
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from structlog.testing import capture_logs

from legato.core.errors import ApiError
from legato.mock.server import MockServer
from legato.policy.keys import digest
from legato.server.admin import origin_of
from legato.store import keys as store
from legato.store.audit import entries
from tests.conftest import Running, serving, settings_for, until
from tests.support.admin import Admin, key_of
from tests.support.postgres import POSTGRES, Postgres
from tests.support.wire import ask, chat

#: Every operation: (method, path, a body that is valid).
OPERATIONS: list[tuple[str, str, Any]] = [
    ("GET", "keys", None),
    ("POST", "keys", {"name": "app"}),
    ("GET", "keys/{id}", None),
    ("PATCH", "keys/{id}", {"tier": "free"}),
    ("POST", "keys/{id}/rotate", {}),
    ("POST", "keys/{id}/revoke", None),
    ("GET", "audit", None),
    ("GET", "openapi.json", None),
    # What there is not is no secret, but is none of their business either.
    ("GET", "nothing", None),
    ("DELETE", "keys/{id}", None),
    ("POST", "../v1/keys/", {}),
]


def code(answer: httpx.Response) -> str:
    return answer.json()["error"]["code"]


# Who may do what


@pytest.mark.parametrize(
    ("who", "status", "wanted"),
    [
        ("nobody", 401, "missing_api_key"),
        ("unknown", 401, "invalid_api_key"),
        ("ordinary", 403, "admin_key_required"),
        ("ordinary, revoked", 401, "key_revoked"),
        ("admin, revoked", 401, "key_revoked"),
        ("admin, disabled", 401, "key_disabled"),
        ("admin, expired", 401, "key_expired"),
    ],
)
async def test_who_may_do_nothing(legato: Running, who: str, status: int, wanted: str) -> None:
    kind, _, state = who.partition(", ")
    columns = {"revoked": 2.0} if state == "revoked" else {}
    columns = {"is_disabled": True} if state == "disabled" else columns
    columns = {"expires": 2.0} if state == "expired" else columns
    key = {"nobody": None, "unknown": "lga-unknown", "ordinary": legato.key}.get(kind)
    if state:
        key = await key_of(legato, "admin" if kind == "admin" else None, **columns)
    before = await entries(legato.app.database)
    for method, path, body in OPERATIONS:
        answer = await Admin(legato, key).ask(method, path.format(id="key_1"), body)
        assert (answer.status_code, code(answer)) == (status, wanted), (method, path)
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert key is None or key not in answer.text
    assert await entries(legato.app.database) == before


async def test_a_viewer_reads_and_does_not_write(legato: Running) -> None:
    viewer = await Admin.of(legato, "viewer")
    (identity,) = [each["id"] for each in (await viewer.get("keys"))["data"]]
    before = await entries(legato.app.database)
    for method, path, body in OPERATIONS:
        answer = await viewer.ask(method, path.format(id=identity), body)
        if method == "GET":
            assert answer.status_code == (404 if path == "nothing" else 200)
        else:
            assert (answer.status_code, code(answer)) == (403, "admin_role_required")
    assert await entries(legato.app.database) == before


@pytest.mark.parametrize("role", ["admin", "viewer"])
async def test_an_admin_key_makes_no_calls(legato: Running, role: Any) -> None:
    key = await key_of(legato, role)
    answer = await ask(legato.port, key, chat("happy"))
    assert answer.error is not None
    assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
    async with httpx.AsyncClient(base_url=legato.url, headers={"x-api-key": key}) as client:
        assert (await client.get("/v1/models")).status_code == 401


async def test_it_does_not_reach_admin_keys(legato: Running) -> None:
    """No key can make another more powerful, or lock it out."""
    admin = await Admin.of(legato)
    await key_of(legato, "viewer")
    rows = [each for each in await store.page(legato.app.database) if each["role"]]
    listed = {each["id"] for each in (await admin.get("keys"))["data"]}
    for row in rows:
        assert row["id"] not in listed
        for method, path, body in OPERATIONS:
            if "{id}" in path and method != "DELETE":
                answer = await admin.ask(method, path.format(id=row["id"]), body)
                assert (answer.status_code, code(answer)) == (404, "key_not_found")
    for body in ({"name": "x", "role": "admin"}, {"name": "x", "is_admin": True}):
        assert (await admin.ask("POST", "keys", body)).status_code == 400


async def test_both_headers_are_taken(legato: Running) -> None:
    key = await key_of(legato, "viewer")
    async with httpx.AsyncClient(base_url=legato.url) as client:
        for headers in ({"x-api-key": key}, {"authorization": f"bearer {key}"}):
            assert (await client.get("/admin/v1/keys", headers=headers)).status_code == 200
        assert (await client.head("/admin/v1/keys", headers={"x-api-key": key})).content == b""


# What it does

NEW = {
    "name": "app",
    "owner": "alice",
    "tier": "free",
    "limits": {"requests_per_minute": 5.0},
    "budget": {"amount": 10, "unit": "usd", "period": "month"},
    "routes": ["happy"],
    "expires": 2_000_000_000,
    "tags": ["team=a"],
}


async def test_the_life_of_a_key(legato: Running) -> None:
    admin = await Admin.of(legato)
    made = await admin.post("keys", NEW)
    secret, identity = made.pop("key"), made["id"]
    assert re.fullmatch(r"lg-[\w-]{43}", secret)
    assert (made["status"], made["role"], made["owner"]) == ("active", None, "alice")
    assert made["limits"]["requests_per_minute"] == 5
    assert made["budget"]["action"] == "block"
    assert await admin.get(f"keys/{identity}") == made
    # In force at once, on the server that was asked.
    assert (await ask(legato.port, secret, chat("happy", stream=True))).done
    async with httpx.AsyncClient(base_url=legato.url, headers={"x-api-key": secret}) as client:
        models = (await client.get("/v1/models")).json()["data"]
        assert [each["id"] for each in models] == ["happy"]
    changed = await admin.patch(
        f"keys/{identity}",
        {"tier": None, "limits": {"concurrent": 2}, "routes": [], "disabled": True},
    )
    assert (changed["tier"], changed["routes"], changed["status"]) == (None, [], "disabled")
    limits = {name: value for name, value in changed["limits"].items() if value is not None}
    assert limits == {"requests_per_minute": 5, "concurrent": 2}
    assert (await ask(legato.port, secret, chat("happy"))).status == 401
    await admin.patch(f"keys/{identity}", {"disabled": False})
    rotated = await admin.post(f"keys/{identity}/rotate", {"overlap_seconds": 60})
    assert time.time() < rotated["previous_until"] <= time.time() + 60
    for each in (secret, rotated["key"]):
        assert (await ask(legato.port, each, chat("happy", stream=True))).done
    last = (await admin.post(f"keys/{identity}/rotate", {}))["key"]
    for each in (secret, rotated["key"]):
        assert (await ask(legato.port, each, chat("happy"))).status == 401
    assert (await admin.post(f"keys/{identity}/revoke"))["status"] == "revoked"
    assert (await ask(legato.port, last, chat("happy"))).status == 401
    for path, body in (("rotate", {}), ("revoke", None)):
        answer = await admin.ask("POST", f"keys/{identity}/{path}", body)
        assert (answer.status_code, code(answer)) == (409, "key_revoked")
    log = (await admin.get("audit", subject=identity))["data"]
    acts = ["create", "update", "update", "rotate", "rotate", "revoke"]
    assert [each["action"] for each in reversed(log)] == acts
    assert {each["origin"] for each in log} == {"127.0.0.1"}
    (actor,) = {each["actor"] for each in log}
    keys = {f"key:{row['id']}" for row in await store.page(legato.app.database) if row["role"]}
    assert actor in keys


async def test_limits_and_routes_are_in_force(legato: Running) -> None:
    admin = await Admin.of(legato)
    limits = {"requests_per_minute": 1, "max_tokens": 10}
    made = await admin.post("keys", {"name": "a", "limits": limits, "routes": ["hap*"]})

    async def call(model: str = "happy", **more: Any) -> tuple[int, Any]:
        answer = await ask(legato.port, made["key"], chat(model, **more))
        return answer.status, answer.error and answer.error["code"]

    assert await call("cut") == (404, "model_not_found")
    assert await call(max_tokens=11) == (400, "max_tokens_over_limit")
    assert await call() == (200, None)
    assert await call() == (429, "rate_limit_exceeded")
    await admin.patch(
        f"keys/{made['id']}", {"limits": {"requests_per_minute": None, "max_tokens": None}}
    )
    assert await call(max_tokens=11) == (200, None)
    await admin.patch(f"keys/{made['id']}", {"routes": ["cut"]})
    assert await call() == (404, "model_not_found")


@POSTGRES
async def test_a_change_on_one_server_is_in_force_on_another(
    tmp_path: Path, scripted: MockServer, postgres: Postgres
) -> None:
    address, base = await postgres.create(), await scripted.start()
    one, two = (
        settings_for(tmp_path, base, ["happy"], database=address, data=str(tmp_path / name))
        for name in ("one", "two")
    )
    async with serving(one) as here, serving(two, key=here.key) as there:
        admin = await Admin.of(here)
        made = await admin.post("keys", {"name": "app"})
        ring = there.app.services.keyring

        def known() -> str:
            try:
                return ring.find(digest(made["key"].encode())).name
            except ApiError as error:
                return error.code

        await until(lambda: known() == "app", seconds=1.0)
        assert (await ask(there.port, made["key"], chat("happy", stream=True))).done
        await admin.post(f"keys/{made['id']}/revoke")
        await until(lambda: known() == "key_revoked", seconds=1.0)
        # The other server's API has the same keys, admin keys and audit log.
        assert (await Admin(there, admin.key).get("audit"))["data"][0]["action"] == "revoke"


async def test_lists_have_pages(legato: Running) -> None:
    admin = await Admin.of(legato)
    for name in "abc":
        await admin.post("keys", {"name": name, "owner": "o" if name == "b" else None})
    first = await admin.get("keys", limit=2)
    assert ([each["name"] for each in first["data"]], first["has_more"]) == (["first", "a"], True)
    rest = await admin.get("keys", limit=2, after=first["data"][-1]["id"])
    assert ([each["name"] for each in rest["data"]], rest["has_more"]) == (["b", "c"], False)
    assert [each["name"] for each in (await admin.get("keys", owner="o"))["data"]] == ["b"]
    log = await admin.get("audit", limit=3)
    assert ([each["name"] for each in log["data"]], log["has_more"]) == (["c", "b", "a"], True)
    older = await admin.get("audit", before=log["data"][-1]["id"])
    assert (len(older["data"]), older["has_more"]) == (2, False)
    assert (await admin.get("audit", since=time.time() + 60))["data"] == []


WRONG: dict[str, tuple[str, str, Any, int, str | None]] = {
    "no name": ("POST", "keys", {}, 400, None),
    "unknown field": ("POST", "keys", {"name": "a", "tiers": "free"}, 400, None),
    "unknown tier": ("POST", "keys", {"name": "a", "tier": "gold"}, 400, "tier"),
    "limit of 0": ("POST", "keys", {"name": "a", "limits": {"concurrent": 0}}, 400, "limits"),
    "budget that only warns and yet cuts": (
        "POST",
        "keys",
        {"name": "a", "budget": {"amount": 1, "unit": "usd", "action": "warn", "hard": True}},
        400,
        "budget",
    ),
    "no list": ("POST", "keys", [], 400, None),
    "limit": ("GET", "keys?limit=0", None, 400, "limit"),
    "limit that is none": ("GET", "keys?limit=x", None, 400, "limit"),
    "parameter twice": ("GET", "keys?limit=1&limit=2", None, 400, "limit"),
    "unknown parameter": ("GET", "keys?offset=1", None, 400, None),
    "unknown key": ("GET", "keys/key_x", None, 404, None),
    "unknown page": ("GET", "keys?after=key_x", None, 404, None),
    "overlap": ("POST", "keys/key_x/rotate", {"overlap_seconds": -1}, 400, "overlap_seconds"),
}


@pytest.mark.parametrize("name", WRONG)
async def test_what_is_wrong(legato: Running, name: str) -> None:
    method, path, body, status, param = WRONG[name]
    answer = await (await Admin.of(legato)).ask(method, path, body)
    error = answer.json()["error"]
    assert answer.status_code == status
    assert (error["param"] or "").partition(".")[0] == (param or "")


@pytest.mark.parametrize(
    ("content", "kind", "status", "wanted"),
    [
        (b"", None, 400, "invalid_json"),
        (b"{", "application/json", 400, "invalid_json"),
        (b'{"name": "\xff"}', "application/json", 400, "invalid_json"),
        (b"[" * 100_000, "application/json", 400, "invalid_json"),
        (b'{"name": "a"}', "text/plain", 415, "unsupported_media_type"),
        (b'{"name": "a"}', "application/json; charset=utf-8", 201, None),
    ],
)
async def test_bodies(
    legato: Running, content: bytes, kind: str | None, status: int, wanted: str | None
) -> None:
    admin = await Admin.of(legato)
    headers = {} if kind is None else {"content-type": kind}
    answer = await admin.ask("POST", "keys", content=content, headers=headers)
    assert answer.status_code == status
    assert wanted is None or code(answer) == wanted


async def test_a_database_that_is_away(legato: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    admin = await Admin.of(legato)

    def away(*_: Any, **__: Any) -> Any:
        raise ConnectionRefusedError("postgresql://user:secret@host")

    monkeypatch.setattr(legato.app.database, "begin", away)
    answer = await admin.ask("GET", "keys")
    assert (answer.status_code, code(answer)) == (503, "database_unavailable")
    assert "secret" not in answer.text


# What it never shows


async def test_no_secret_is_ever_shown_again(
    legato: Running, capfd: pytest.CaptureFixture[str]
) -> None:
    admin = await Admin.of(legato)
    seen: list[str] = []
    with capture_logs() as logs:
        made = await admin.post("keys", {"name": "app"})
        rotated = await admin.post(f"keys/{made['id']}/rotate", {"overlap_seconds": 60})
        for method, path, body in OPERATIONS:
            answer = await admin.ask(method, path.format(id=made["id"]), body)
            assert answer.headers.get("cache-control") == "no-store" or answer.status_code >= 400
            if (method, path) not in (("POST", "keys"), ("POST", "keys/{id}/rotate")):
                seen.append(f"{answer.headers} {answer.text}")
        # A secret in the wrong place comes back in no answer that is shown to others.
        for wrong in (f"keys/{rotated['key']}", f"keys?after={rotated['key']}"):
            await admin.ask("GET", wrong)
    rows = await store.page(legato.app.database)
    seen += [str(logs), str(capfd.readouterr()), msgspec.json.encode(await acts(legato)).decode()]
    for secret in (admin.key, made["key"], rotated["key"]):
        assert secret
        assert not [each for each in seen if secret in each]
    digests = [row[name] for row in rows for name in ("digest", "previous") if row[name]]
    for each in digests:
        shown = (each.hex(), msgspec.json.encode(each).decode().strip('"'), str(each))
        assert not [text for text in seen for form in shown if form in text]


async def acts(legato: Running) -> Any:
    return await entries(legato.app.database)


HOSTILE = [
    "'; DROP TABLE keys; --",
    "x' OR '1'='1",
    "%25",
    "a%0d%0ax-injected:%201",
    "..%2f..%2fv1%2fmodels",
    "%00",
    "%ff%fe",
    "key_\U0001f600",
    "x" * 5_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
async def test_no_text_is_sql_or_a_header(legato: Running, text: str) -> None:
    admin = await Admin.of(legato)
    answers = [
        await admin.ask("GET", f"keys/{text}"),
        await admin.ask("POST", f"keys/{text}/rotate", {}),
        await admin.ask("GET", f"keys?after={text}"),
        await admin.ask("GET", f"audit?subject={text}"),
        await admin.ask("GET", "keys", params={"owner": text}),
    ]
    for answer in answers:
        assert answer.status_code in (200, 400, 404)
        assert "x-injected" not in answer.headers
        assert len(answer.text) < 1_000
        if answer.status_code == 200:
            assert answer.json()["data"] == []
    assert len(await store.page(legato.app.database)) == 2


@pytest.mark.parametrize(
    ("peer", "forwarded", "origin"),
    [
        ("10.0.0.9", None, "10.0.0.9"),
        ("10.0.0.9", "1.2.3.4", "10.0.0.9"),
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", "1.2.3.4", "1.2.3.4"),
        ("10.0.0.1", "6.6.6.6, 1.2.3.4", "1.2.3.4"),
        ("10.0.0.1", "1.2.3.4, 10.0.0.2", "1.2.3.4"),
        ("10.0.0.1", "::1", "::1"),
        ("10.0.0.1", "1.2.3.4, \x1b[31mroot", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.2", "10.0.0.1"),
    ],
)
def test_where_an_act_comes_from(peer: str, forwarded: str | None, origin: str) -> None:
    headers = [] if forwarded is None else [(b"x-forwarded-for", forwarded.encode())]
    scope = {"client": (peer, 1), "headers": headers}
    assert origin_of(scope, frozenset({"10.0.0.1", "10.0.0.2"})) == origin


async def test_many_at_once(legato: Running) -> None:
    admin = await Admin.of(legato)
    made = await asyncio.gather(*(admin.post("keys", {"name": f"n{n}"}) for n in range(20)))
    assert len({each["key"] for each in made}) == 20
    assert len(legato.app.services.keyring) == 21
