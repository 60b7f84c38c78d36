#!/usr/bin/env python3
"""Checks that graft and huggingface_hub share one cache, both ways. Not part of the tests: it needs the Python library.

Usage: check_hub.py PATH/TO/graft. Last run with huggingface_hub 2.4.0, Python 3.11. A server on the loopback interface plays
the Hub: graft downloads and huggingface_hub finds, then the other way round."""
import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {"config.json": b'{"model_type": "llama"}', "tokenizer.json": b"{}", "model.safetensors": os.urandom(100000)}


class Hub(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        headers = {}
        if self.path.startswith("/api/models/org/tiny/revision/"):
            body = json.dumps({"id": "org/tiny", "sha": COMMIT, "siblings": [{"rfilename": f} for f in FILES]}).encode()
        elif "/resolve/" not in self.path:
            self.send_error(404)
            return
        else:
            body = FILES[self.path.rsplit("/", 1)[1]]
            headers = {"ETag": f'"{hashlib.sha256(body).hexdigest()}"', "X-Repo-Commit": COMMIT}
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


def graft(program, **variables):
    done = subprocess.run([program, "download", "org/tiny"], capture_output=True, text=True, env={**os.environ, **variables})
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def main():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    home = tempfile.mkdtemp()
    os.environ.update(HF_HOME=home, HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}")
    import huggingface_hub as hub  # reads the environment when it is imported

    path = graft(sys.argv[1])
    assert hub.snapshot_download("org/tiny", local_files_only=True) == path
    for name, content in FILES.items():
        found = hub.try_to_load_from_cache("org/tiny", name)
        assert found == os.path.join(path, name), found
        assert open(found, "rb").read() == content
    info = hub.scan_cache_dir()
    assert not info.warnings and [r.repo_id for r in info.repos] == ["org/tiny"], info

    shutil.rmtree(home)
    for name in FILES:
        hub.hf_hub_download("org/tiny", name)
    assert graft(sys.argv[1], HF_HUB_OFFLINE="1") == path
    shutil.rmtree(home)
    print("one cache, both ways")


main()
