"""``python -m tests.image``: builds deploy/Dockerfile with buildah, runs the image without Docker, and asks it.

Needs root and buildah (``make image`` installs it from Debian). If the base image cannot be fetched, a Debian with
the same version of Python takes its place; debootstrap makes it. The container is a chroot with the network of this
machine, so that it also runs where namespaces are forbidden. Images are kept in .image/ for the next run. Exits with
1 if something was not as it must be, and with 75 if this machine cannot build an image.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests

from tests.hosts.site import free_port
from tests.running import ROOT, Running, Simulator, mint, wait_until

_KEY = "sk-of-this-run"
_IMAGE = "localhost/kimi-gateway"
# As the Dockerfile names it.
_UID = 10001
# The releases of Debian by the version of Python that they have.
_RELEASES = {"3.11": "bookworm", "3.13": "trixie"}
_DEBIAN = "http://deb.debian.org/debian"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_STORE = ROOT / ".image"
_BUILDAH = ["buildah", "--root", str(_STORE / "images"), "--runroot", str(_STORE / "run"), "--storage-driver", "vfs"]
_ENV = {**os.environ, "BUILDAH_ISOLATION": "chroot"}
# Inside, pip trusts what this machine trusts, for example the certificate of a company's proxy.
_CERTIFICATES = "/etc/ssl/certs:/etc/ssl/certs:ro"
# A download that takes longer comes from a place that this machine does not reach. Seconds.
_DOWNLOAD_S = 240


class CannotBuild(Exception):
    """What an image needs cannot be had on this machine. Says what."""


class BuildahFailed(Exception):
    """With what it has printed."""


def main() -> int:
    (base,) = re.findall(r"^FROM (\S+)$", (ROOT / "deploy/Dockerfile").read_text(), re.M)
    with tempfile.TemporaryDirectory(prefix="image-") as name:
        folder = Path(name)
        try:
            base = _base(base, folder)
            _check_index(base)
        except (CannotBuild, BuildahFailed) as e:
            print(f"No image can be built here: {e}", flush=True)
            return os.EX_TEMPFAIL
        print(f"base: {base}", flush=True)
        _buildah(
            *("build", "--pull-never", "--network", "host", "--format", "docker", "--volume", _CERTIFICATES),
            *("--from", base, "--file", "deploy/Dockerfile", "--tag", _IMAGE, "."),
        )
        config = json.loads(_buildah("inspect", "--type", "image", _IMAGE))["Docker"]["config"]
        print(f"built: user {config['User']}, command {config['Cmd']}", flush=True)
        with Running(folder, folder).simulator() as simulator:
            _try(folder, simulator, config)
    print("The image works.")
    return 0


def _buildah(*arguments: str) -> str:
    done = subprocess.run([*_BUILDAH, *arguments], cwd=ROOT, env=_ENV, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildahFailed(f"buildah {arguments[0]} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout.strip()


def _has(image: str) -> bool:
    return subprocess.run([*_BUILDAH, "inspect", "--type", "image", image], capture_output=True).returncode == 0


def _base(image: str, folder: Path) -> str:
    """The name of an image like this one that buildah has. Raises CannotBuild."""
    if shutil.which("buildah") is None:
        raise CannotBuild("buildah cannot be found")
    if os.geteuid() != 0:
        raise CannotBuild("only root can")
    registry = f"docker.io/library/{image}"
    with contextlib.suppress(subprocess.TimeoutExpired):
        pulled = subprocess.run(
            [*_BUILDAH, "pull", "--quiet", registry], env=_ENV, capture_output=True, timeout=_DOWNLOAD_S
        )
        if pulled.returncode == 0:
            return registry
    version = image.rpartition(":")[2].removesuffix("-slim")
    release, tree = _RELEASES[version], folder / "debian"
    name = f"localhost/{release}-python:{version}"
    if _has(name):
        return name
    if shutil.which("debootstrap") is None:
        raise CannotBuild(f"{image} cannot be fetched, and debootstrap cannot be found")
    include = "--include=python3-venv,ca-certificates"
    debootstrap = ["debootstrap", "--variant=minbase", include, release, str(tree), _DEBIAN]
    try:
        done = subprocess.run(debootstrap, capture_output=True, text=True, timeout=_DOWNLOAD_S, check=False)
    except subprocess.TimeoutExpired:
        raise CannotBuild(f"debootstrap has not ended within {_DOWNLOAD_S} seconds") from None
    if done.returncode != 0:
        raise CannotBuild(f"debootstrap failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    container = _buildah("from", "scratch")
    _buildah("add", "--quiet", container, str(tree), "/")
    shutil.rmtree(tree)
    _buildah("config", "--env", f"PATH={_PATH}", container)
    # The place where the other image has its Python.
    _buildah("run", container, "--", "python3", "-m", "venv", "/usr/local")
    _buildah("commit", "--quiet", "--rm", container, name)
    return name


def _check_index(base: str) -> None:
    """Raises CannotBuild: if pip cannot download inside of a container."""
    container = _buildah("from", "--pull-never", base)
    options = ["--network", "host", "--volume", _CERTIFICATES]
    download = ["python3", "-m", "pip", "download", "--quiet", "--no-deps", "--dest", "/tmp/index", "flask"]
    run = [*_BUILDAH, "run", *options, container, "--", *download]
    try:
        done = subprocess.run(run, env=_ENV, capture_output=True, text=True, timeout=_DOWNLOAD_S, check=False)
    except subprocess.TimeoutExpired:
        raise CannotBuild(f"pip has not downloaded anything in a container within {_DOWNLOAD_S} seconds") from None
    _buildah("rm", container)
    if done.returncode != 0:
        raise CannotBuild(f"pip cannot download in a container:\n{done.stdout[-1000:]}{done.stderr[-1000:]}")


class _Container:
    """One that runs. ``env``: as for ``docker run``."""

    def __init__(self, config: dict[str, Any], volume: Path, log: Path, env: dict[str, str]) -> None:
        self.name = _buildah("from", "--pull-never", _IMAGE)
        self.log = log
        options = ["--network", "host", "--volume", f"{volume}:/srv/gateway/data"]
        for key, value in env.items():
            options += ["--env", f"{key}={value}"]
        self._run = [*_BUILDAH, "run", *options, self.name, "--"]
        with log.open("ab") as out:
            self._popen = subprocess.Popen(
                [*self._run, *config["Cmd"]], env=_ENV, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command inside, as ``docker exec`` runs it."""
        return subprocess.run([*self._run, *command], env=_ENV, capture_output=True, text=True, timeout=120)

    @property
    def gunicorns(self) -> list[int]:
        """The pids of gunicorn's processes, its master first."""
        found, below = [], [self._popen.pid]
        while below:
            pid = below.pop(0)
            with contextlib.suppress(FileNotFoundError):
                for children in Path(f"/proc/{pid}/task").glob("*/children"):
                    below += map(int, children.read_text().split())
                if Path(f"/proc/{pid}/exe").readlink().name.startswith("python"):
                    found.append(pid)
        return found

    def is_up(self, url: str) -> bool:
        assert self._popen.poll() is None, f"it has ended with status {self._popen.returncode}"
        with contextlib.suppress(requests.ConnectionError):
            return requests.get(f"{url}/readyz", timeout=10).ok
        return False

    def stop(self) -> int:
        """As ``docker stop``. The status of the first process."""
        os.kill(self.gunicorns[0], signal.SIGTERM)
        return self._popen.wait(75)

    def remove(self) -> None:
        for pid in self.gunicorns:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._popen.kill()
        self._popen.wait(10)
        _buildah("rm", self.name)


def _in_the_image(*command: str) -> str:
    container = _buildah("from", "--pull-never", _IMAGE)
    try:
        return _buildah("run", container, "--", *command)
    finally:
        _buildah("rm", container)


@contextlib.contextmanager
def _container(config: dict[str, Any], volume: Path, log: Path, env: dict[str, str]) -> Iterator[_Container]:
    container = _Container(config, volume, log, env)
    try:
        yield container
    except BaseException:
        print(log.read_text()[-4000:], file=sys.stderr)
        raise
    finally:
        container.remove()


def _try(folder: Path, simulator: Simulator, config: dict[str, Any]) -> None:
    volume = folder / "volume"
    volume.mkdir()
    # A new volume gets the owner that its folder has in the image.
    owner = int(_in_the_image("stat", "--format", "%u", "/srv/gateway/data"))
    os.chown(volume, owner, owner)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    env = {
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "GATEWAY_API_KEYS": _KEY,
        "KIMI_TOKENS": f"alice={mint('alice')}",
        "KIMI_BASE_URL": simulator.url,
        "KIMI_AUTH_URL": simulator.url,
    }
    with _container(config, volume, folder / "first.log", env) as container:
        wait_until("the gateway answers", lambda: container.is_up(url))
        owner = Path(f"/proc/{container.gunicorns[0]}").stat().st_uid
        assert owner == _UID, f"gunicorn runs as user {owner}"
        _, *check = config["Healthcheck"]["Test"]
        assert container.run(*check).returncode == 0, "the health check fails"
        assert _answer(url, "Hello from a container.") == "Hello from a container."
        accounts = container.run("flask", "--app", "wsgi", "accounts", "list")
        assert "alice" in accounts.stdout, accounts.stdout + accounts.stderr
        print(f"runs: as user {owner}; health check, a whole answer, flask accounts list", flush=True)
        lines = _ask(url, '[[sim say="one two three four five six" delay_s=0.3]]', stream=True).iter_lines(1)
        next(line for line in lines if b'"content":"' in line)
        status = container.stop()
        assert b"data: [DONE]" in list(lines), "an answer that ran during the stop did not come to its end"
        assert status == 0, f"the first process ended with status {status}"
    chats = set(simulator.state()["chats"])
    print("stops: the running answer came to its end, status 0", flush=True)
    with _container(config, volume, folder / "second.log", env) as container:
        wait_until("the gateway answers again", lambda: container.is_up(url))
        assert _answer(url, "Once more.") == "Once more."
        assert set(simulator.state()["chats"]) == chats, "the conversation goes on in another chat"
    print("starts again: the conversation goes on in its chat", flush=True)


def _ask(url: str, prompt: str, **fields: Any) -> requests.Response:
    body = {"model": "k2", "messages": [{"role": "user", "content": prompt}], **fields}
    headers = {"Authorization": f"Bearer {_KEY}"}
    stream = bool(fields.get("stream"))
    response = requests.post(f"{url}/v1/chat/completions", json=body, headers=headers, stream=stream, timeout=60)
    assert response.ok, response.text
    return response


def _answer(url: str, text: str) -> str:
    """The next one of a conversation."""
    reply = _ask(url, f"[[sim say={json.dumps(text)}]]", conversation_id="kept").json()
    said: str = reply["choices"][0]["message"]["content"]
    return said


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BuildahFailed as failure:
        sys.exit(str(failure))
