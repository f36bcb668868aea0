"""The files of the pages: style, scripts, icon. Each has its digest in its address, so browsers keep it for ever."""

import gzip
import hashlib
from pathlib import Path

from flask import Blueprint, Response, abort, current_app, request, url_for

blueprint = Blueprint("assets", __name__)

_FOLDER = Path(__file__).parent / "static"
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


class Assets:
    """The files, read once."""

    def __init__(self) -> None:
        self.files = {path.name: path.read_bytes() for path in _FOLDER.iterdir() if path.suffix in _TYPES}
        self.packed = {name: gzip.compress(content, mtime=0) for name, content in self.files.items()}
        self._digests = {name: hashlib.sha256(content).hexdigest()[:16] for name, content in self.files.items()}

    def url(self, name: str) -> str:
        return url_for("assets.file", digest=self._digests[name], name=name)


@blueprint.get("/static/<digest>/<name>")
def file(digest: str, name: str) -> Response:  # noqa: ARG001  # the digest is for the browser
    assets = current_app.extensions["console"].assets
    if name not in assets.files:
        abort(404)
    headers = {"Cache-Control": "public, max-age=31536000, immutable", "Vary": "Accept-Encoding"}
    content = assets.files[name]
    if request.accept_encodings.quality("gzip") > 0:
        content, headers["Content-Encoding"] = assets.packed[name], "gzip"
    return Response(content, content_type=f"{_TYPES[Path(name).suffix]}; charset=utf-8", headers=headers)
