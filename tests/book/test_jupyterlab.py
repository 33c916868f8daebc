"""A chapter run in a real JupyterLab server, through its API, as a reader at the browser would run it."""

import json
import re
import urllib.request
import uuid

import pytest
import websocket
from labserver import TOKEN, jupyterlab

from lfmlib.provenance import ROOT

CHAPTER = "notebooks/01_are_the_weights_gaussian.ipynb"


@pytest.fixture
def server(tmp_path):
    """Address of a JupyterLab server, started as the README says."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^\.venv/bin/jupyter lab (.+)$", readme, re.MULTILINE)
    with jupyterlab(tmp_path, line.split(), ROOT) as address:
        yield address


def call(address: str, path: str, body: dict | None = None) -> dict | str:
    request = urllib.request.Request(
        address + path, data=json.dumps(body).encode() if body else None, headers={"Authorization": f"token {TOKEN}"}
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        content = reply.read().decode()
    return json.loads(content) if path.startswith("/api") else content


def run_cell(channel, source: str) -> list[dict]:
    """Execute one cell over the kernel's websocket; every output message until it is idle again."""
    id_ = uuid.uuid4().hex
    header = {"msg_id": id_, "msg_type": "execute_request", "username": "", "session": "s", "version": "5.3"}
    content = {"code": source, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
    message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
    channel.send(json.dumps(message))
    outputs = []
    while True:
        reply = json.loads(channel.recv())
        if reply["parent_header"].get("msg_id") != id_:
            continue
        kind = reply["msg_type"]
        if kind in ("display_data", "update_display_data", "execute_result", "stream", "error"):
            outputs.append({"kind": kind} | reply["content"])
        if kind == "status" and reply["content"]["execution_state"] == "idle":
            return outputs


@pytest.mark.slow
def test_chapter_runs_in_jupyterlab_and_its_claim_box_is_filled_in_place(server, tmp_path):
    assert "JupyterLab" in call(server, f"/lab/tree/{CHAPTER}?token={TOKEN}")
    notebook = call(server, f"/api/contents/{CHAPTER}")["content"]
    assert call(server, "/api/contents/book/methods.md?content=0")["path"] == "book/methods.md"  # where links lead
    where = {"path": CHAPTER, "name": "chapter", "type": "notebook", "kernel": {"name": "python3"}}
    session = call(server, "/api/sessions", where)
    channel = websocket.create_connection(
        server.replace("http", "ws") + f"/api/kernels/{session['kernel']['id']}/channels",
        header=[f"Authorization: token {TOKEN}"],
        timeout=180,
    )
    outputs = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            outputs[cell["id"]] = run_cell(channel, cell["source"])
            if "parameters" in cell["metadata"].get("tags", []):  # as a reader would, edit below the defaults
                outputs["edit"] = run_cell(channel, f"results = {str(tmp_path)!r}\nprofile = 'quick'")
    channel.close()

    said = [output for group in outputs.values() for output in group]
    assert not [output for output in said if output["kind"] == "error"]
    assert not [output for output in said if output["kind"] == "stream" and output["name"] == "stderr"]
    answer, box = outputs["claim"][0], outputs["box010000"][0]
    updates = [output for output in said if output["kind"] == "update_display_data"]
    for shown, last in ((box, updates[-2]), (answer, updates[-1])):
        assert last["transient"]["display_id"] == shown["transient"]["display_id"]
    assert re.search(
        "<th>MiniLM</th>.*<b class='lfm-partly'>partly</b>|MiniLM</b>: <b class='lfm-verdict'>partly</b>",
        updates[-2]["data"]["text/html"],
    )
    assert "Of the weights of MiniLM, 59.7" in updates[-1]["data"]["text/html"]
    figures = [output for output in said if "image/svg+xml" in output.get("data", {})]
    drawn = [cell for cell in notebook["cells"] if "figure" in cell["metadata"].get("mystnb", {})]
    assert len(figures) == len(drawn) >= 5
    assert json.loads((tmp_path / "F1-minilm.json").read_text(encoding="utf-8"))["verdict"] == "partly"
