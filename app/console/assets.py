"""The files of the pages: style, scripts, icon. Each has its digest in its address, so browsers keep it for ever."""

import hashlib
from pathlib import Path

from flask import Blueprint, Response, abort, current_app, url_for

blueprint = Blueprint("assets", __name__)

_FOLDER = Path(__file__).parent / "static"
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


class Assets:
    """The files, read once."""

    def __init__(self) -> None:
        self.files = {path.name: path.read_bytes() for path in _FOLDER.iterdir() if path.suffix in _TYPES}
        self._digests = {name: hashlib.sha256(content).hexdigest()[:16] for name, content in self.files.items()}

    def url(self, name: str) -> str:
        return url_for("assets.file", digest=self._digests[name], name=name)


@blueprint.get("/static/<digest>/<name>")
def file(digest: str, name: str) -> Response:  # noqa: ARG001  # the digest is for the browser
    content = current_app.extensions["console"].assets.files.get(name)
    if content is None:
        abort(404)
    headers = {"Cache-Control": "public, max-age=31536000, immutable"}
    return Response(content, content_type=f"{_TYPES[Path(name).suffix]}; charset=utf-8", headers=headers)
