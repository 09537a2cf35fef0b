import http.client
import io
import json
import os
import random
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import zipfile

import pytest
from collect_fakes import Browser, page_answer, served, study
from micro_run import call
from tunewell.pipelines.collect import schema
from tunewell.pipelines.collect.store import Store


def test_a_round_by_requests(tmp_path):
    store, _, _ = study(tmp_path)
    with served(store) as browser:
        assert browser.ask("GET", "/")[1].count(b"Who is labelling?") == 1
        assert browser.post("/api/next")[0] == 401
        browser.join("Ada")
        assert b"Ada" in browser.ask("GET", "/")[1]
        status, found = browser.post("/api/next")
        seen = []
        while found["item"]:
            item = found["item"]
            seen.append(item["item"])
            message = {"assignment": item["assignment"], "key": f"answer-{len(seen)}-{item['item']}", "seconds": 1.5}
            status, found = browser.post("/api/answer", message | {"body": page_answer(item)})
            assert status == 200
        assert seen == [1, 2, 3, 4]
        assert found["progress"]["answered"] == 4
        status, found = browser.post("/api/undo", {"answer": found["progress"]["last"]})
        assert status == 200 and found["item"]["item"] == 4 and found["item"]["earlier"]["ratings"] == [4]


def test_a_double_click_is_one_answer_and_a_stale_page_changes_nothing(tmp_path):
    store, _, _ = study(tmp_path)
    with served(store) as first:
        second = first.join("Ada").another().join("Ada")
        item = first.post("/api/next")[1]["item"]
        assert second.post("/api/next")[1]["item"]["assignment"] == item["assignment"]
        message = {"assignment": item["assignment"], "key": "double-click", "body": page_answer(item)}
        answers: list[object] = []
        clicks = [threading.Thread(target=lambda: answers.append(first.post("/api/answer", message))) for _ in range(4)]
        for click in clicks:
            click.start()
        for click in clicks:
            click.join()
        assert {answer[0] for answer in answers} == {200}
        assert len({answer[1]["answer"] for answer in answers}) == 1
        status, found = second.post("/api/answer", message | {"key": "other browser"})
        assert (status, found["reason"]) == (409, "conflict") and "answered already" in found["error"]
        status, found = second.post("/api/answer", message | {"key": "other study!", "assignment": 999})
        assert (status, found["reason"]) == (409, "conflict")
    assert store.count("answers") == 1


def test_a_half_written_answer_is_refused_with_what_it_lacks(tmp_path):
    store, _, _ = study(tmp_path)
    with served(store) as browser:
        item = browser.join("Ada").post("/api/next")[1]["item"]
        message = {"assignment": item["assignment"], "key": "half-answer"}
        for body in ({}, {"completion": ""}, None, [1]):
            status, found = browser.post("/api/answer", message | {"body": body})
            assert (status, found["reason"]) == (422, "incomplete")
        for wrong in ({"key": "x"}, {"key": None}, {"assignment": "1"}, {"assignment": 2**70}, {"assignment": True}):
            assert browser.post("/api/answer", message | {"body": page_answer(item)} | wrong)[0] == 422
        for raw in (b"{", b"", b'"text"', b"\xff", b'{"a": "\\ud800"}'):
            assert browser.post("/api/answer", raw=raw)[0] == 422
        sent = message | {"body": page_answer(item), "seconds": "soon"}
        assert browser.post("/api/answer", sent)[0] == 200  # a wrong time is no time, and no reason to refuse
    with store.read() as base:
        assert base.execute("SELECT seconds FROM answers").fetchone()[0] is None


def test_a_locked_database_is_busy_for_the_page_and_then_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(schema, "BUSY_SECONDS", 0.05)
    store, _, _ = study(tmp_path)
    with served(store) as browser:
        item = browser.join("Ada").post("/api/next")[1]["item"]
        message = {"assignment": item["assignment"], "key": "while-locked", "body": page_answer(item)}
        other = sqlite3.connect(store.path)
        other.execute("BEGIN IMMEDIATE")
        store.close()
        status, found = browser.post("/api/answer", message)
        assert (status, found["reason"]) == (503, "busy") and "locked by another program" in found["error"]
        other.rollback()
        other.close()
        assert browser.post("/api/answer", message)[0] == 200


def test_labelers_see_only_their_own_work(tmp_path):
    store, _, _ = study(tmp_path)
    with served(store) as ada:
        ben = ada.another().join("Ben")
        item = ada.join("Ada").post("/api/next")[1]["item"]
        message = {"assignment": item["assignment"], "body": page_answer(item)}
        answer = ada.post("/api/answer", message | {"key": "from-ada-1"})
        for path, body in (
            ("/api/undo", {"answer": answer[1]["answer"]}),
            ("/api/renew", {"assignment": item["assignment"]}),
            ("/api/answer", message | {"key": "from-ben-1"}),
        ):
            status, found = ben.post(path, body)
            assert status == 409 and "Rain taps" not in json.dumps(found)
        for path in ("/results", "/api/results", "/export.zip", "/results?key=wrong"):
            status, content, _ = ben.ask("GET", path)
            assert status == 403 and "Ada" not in str(content)
        assert ben.post("/api/next")[1]["progress"]["answered"] == 0


def test_the_owner_sees_results_and_exports_at_any_time(tmp_path):
    store, _, _ = study(tmp_path)
    with served(store) as owner:
        status, _, headers = owner.ask("GET", owner.page.owner_path())
        assert (status, headers["location"]) == (303, "/results")  # the key leaves the address bar
        assert owner.ask("GET", "/results")[0] == 200
        assert owner.ask("GET", "/api/results")[1]["items"] == 4
        archive = zipfile.ZipFile(io.BytesIO(owner.ask("GET", "/export.zip")[1]))
        assert "export/comparisons.jsonl" in archive.namelist()
        ada = owner.another().join("Ada")
        for n in range(2):
            item = ada.post("/api/next")[1]["item"]
            ada.post("/api/answer", {"assignment": item["assignment"], "key": f"answer-{n}", "body": page_answer(item)})
        assert owner.ask("GET", "/api/results")[1]["answers"] == 2
        archive = zipfile.ZipFile(io.BytesIO(owner.ask("GET", "/export.zip")[1]))
        assert archive.read("export/demonstrations.jsonl").count(b"\n") == 1


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"host": "evil.example"}, 400),
        ({"content-length": "9000000"}, 413),
    ],
)
def test_other_sites_cannot_write(tmp_path, headers, status):
    store, _, _ = study(tmp_path)
    with served(store) as browser:
        assert browser.ask("POST", "/api/join", {"name": "Eve"}, headers)[0] == status
    assert store.count("labelers") == 0


def test_a_foreign_name_that_leads_here_reads_nothing(tmp_path):
    store, _, _ = study(tmp_path)
    with served(store) as browser:
        assert browser.ask("GET", "/", headers={"host": "evil.example"})[0] == 400
        assert browser.ask("GET", "/", headers={"host": f"localhost:{browser.port}"})[0] == 200


def test_every_answer_carries_a_strict_policy_and_text_is_escaped(tmp_path):
    name = "<script>alert(1)</script>"
    store, _, _ = study(tmp_path, [{"prompt": "</script><script>alert(2)</script>", "completions": ["<b>", "c"]}])
    with served(store) as browser:
        browser.join(name)
        for path in (
            "/",
            "/static/work.js",
            "/results",
            "/nowhere",
            "/static/../app.py",
            "/static/%2e%2e/work.html.j2",
        ):
            status, _, headers = browser.ask("GET", path)
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy and "unsafe" not in policy
            assert headers["x-content-type-options"] == "nosniff"
            if path.startswith("/static/") and path != "/static/work.js":
                assert status == 404
        page = browser.ask("GET", "/")[1].decode()
        assert name not in page and "&lt;script&gt;alert(1)" in page
        assert not re.search(r"<script(?! (type=\"module\" )?src=\"/static/| id=\"flags\")", page)
        assert not re.search(r"(https?:)?//(?!127\.0\.0\.1)[a-z]", page)  # nothing comes from elsewhere


def test_beyond_this_machine_a_key_is_needed_and_names_belong_to_those_who_took_them(tmp_path):
    store, _, _ = study(tmp_path)
    with served(store, ("127.0.0.1",)) as stranger:
        assert stranger.ask("GET", "/")[0] == 403
        assert stranger.ask("GET", "/?token=wrong")[0] == 403
        assert stranger.post("/api/join", {"name": "Eve"})[0] == 403
        ada = stranger.another()
        status, _, headers = ada.ask("GET", ada.page.labelers_path())
        assert (status, headers["location"]) == (303, "/") and "HttpOnly" in headers["set-cookie"]
        ada.join("Ada")
        eve = stranger.another()
        eve.ask("GET", eve.page.labelers_path())
        status, found = eve.post("/api/join", {"name": "Ada"})
        assert status == 403 and "this name is taken" in found["error"]
        link = re.search(r'value="[^"]*(/join/[\w-]+)"', ada.ask("GET", "/")[1].decode())[1]
        again = stranger.another()
        assert again.ask("GET", link)[0] == 303
        assert b"Ada" in again.ask("GET", "/")[1]
        assert stranger.ask("GET", "/join/wrong")[0] == 403


SERVE = """
import sys
from pathlib import Path
from tunewell.pipelines.collect.serve import serve
from tunewell.pipelines.collect.store import Store
serve(Store(Path(sys.argv[1])), "127.0.0.1", 0, lambda text: print(text, flush=True))
"""


def start(path):
    server = subprocess.Popen([sys.executable, "-c", SERVE, str(path)], stdout=subprocess.PIPE, text=True)
    return server, int(re.search(r":(\d+)/", server.stdout.readline())[1])


@pytest.mark.slow
def test_a_killed_server_loses_no_submitted_answer(tmp_path):
    rows = [{"prompt": f"Prompt {n}"} for n in range(4000)]
    store, _, _ = study(tmp_path, rows)
    path = store.path
    store.close()
    confirmed: dict[str, str] = {}
    rng = random.Random(5)
    for life in range(4):
        server, port = start(path)
        killer = threading.Timer(rng.uniform(0.3, 0.9), lambda server=server: server.send_signal(signal.SIGKILL))
        killer.start()

        def work(name, port=port, life=life):
            browser = Browser(port)
            try:
                browser.join(name)
                found = browser.post("/api/next")[1]
                while True:
                    key, text = f"answer-{name}-{life}-{found['item']['item']}", f"{name} {os.urandom(4).hex()}"
                    message = {"assignment": found["item"]["assignment"], "key": key, "body": {"completion": text}}
                    status, found = browser.post("/api/answer", message)
                    assert status == 200
                    confirmed[key] = text
            except (OSError, json.JSONDecodeError, http.client.HTTPException):
                pass  # the server is gone: what it had not confirmed may be lost

        threads = [threading.Thread(target=work, args=(name,)) for name in ("Ada", "Ben", "Cy")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        server.wait()
        server.stdout.close()
    with Store(path).read() as base:
        kept = dict(base.execute("SELECT key, json_extract(body, '$.completion') FROM answers").fetchall())
        query = "SELECT a.item FROM standing s JOIN assignments a ON a.id = s.assignment WHERE NOT s.is_surplus"
        items = [row[0] for row in base.execute(query)]
        assert base.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    assert len(confirmed) > 20
    assert {key: kept.get(key) for key in confirmed} == confirmed
    assert len(items) == len(set(items))  # and no item was answered twice


def test_the_command_says_what_is_wrong(tmp_path, monkeypatch, capsys):
    missing = call(monkeypatch, capsys, "collect", "export", tmp_path / "no.sqlite", "--out", tmp_path / "out")
    assert missing.code == 2 and "wanted the database of a study" in missing.err
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a"}\n')
    wrong = call(monkeypatch, capsys, "collect", "serve", tmp_path / "s.sqlite", rows)
    assert wrong.code == 2 and "has no 'prompt'" in wrong.err
    for option in ("--overlap", "--skips", "--lease"):
        refused = call(monkeypatch, capsys, "collect", "serve", tmp_path / "s.sqlite", option, "0")
        assert refused.code == 2 and f"{option}: got 0, wanted at least 1" in refused.err
    rows.write_text('{"prompt": "a"}\n')
    task = call(monkeypatch, capsys, "collect", "serve", tmp_path / "s.sqlite", rows, "--task", "vote")
    assert task.code == 2 and "wanted one of auto, demonstrate" in task.err
    host = call(monkeypatch, capsys, "collect", "serve", tmp_path / "s.sqlite", rows, "--host", "127.0.0.300")
    assert host.code == 2 and "wanted an address of this machine" in host.err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        busy = call(monkeypatch, capsys, "collect", "serve", tmp_path / "s.sqlite", "--port", port)
    assert busy.code == 2 and f"cannot listen at 127.0.0.1 port {port}" in busy.err
    status = call(monkeypatch, capsys, "collect", "status", tmp_path / "s.sqlite", "--json")
    assert json.loads(status.out)["items"] == 1
