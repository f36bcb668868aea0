"""How each host is started and reloaded, with the examples of the page."""

import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

import requests

from tests.hosts.page import examples
from tests.hosts.site import Site


@dataclass(frozen=True)
class Host:
    """``title``: its section of the page. ``program``: what must be installed. ``version``: the command that says
    its version. ``reload`` loads new code. ``refusals``: what is wrong where the gateway refuses to start; called
    before ``start``."""

    name: str
    title: str
    program: str
    version: tuple[str, ...]
    start: Callable[[Site], None]
    reload: Callable[[Site], None]
    refusals: Callable[[Site], list[str]] = lambda _: []


def _gunicorn(site: Site) -> None:
    site.gateway_port = site.port
    _env(site)
    site.run(shlex.split(site.example(examples()["gunicorn"])))


def _env(site: Site) -> None:
    """The port of gunicorn is a setting."""
    file = site.kimi / ".env"
    lines = [line for line in file.read_text().splitlines() if not line.startswith("PORT=")]
    file.write_text("\n".join([*lines, f"PORT={site.gateway_port}", ""]))


def _behind(site: Site) -> None:
    """gunicorn, for a server that stands before it."""
    site.run([str(site.kimi / ".venv/bin/gunicorn")], site.kimi)
    site.wait_until_listening(site.gateway_port)


def _reload_gunicorn(site: Site) -> None:
    site.processes[0].send_signal(signal.SIGHUP)


def _nginx(site: Site) -> None:
    _behind(site)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "".join(f"{kind}_temp_path {site.folder}/{kind};" for kind in kinds)
    server = f"server {{ listen 127.0.0.1:{site.port}; {site.before_gunicorn(examples()['nginx'])} }}"
    text = f"pid {site.folder}/pid; events {{}} http {{ access_log off; {places} {server} }}"
    (site.folder / "nginx.conf").write_text(text)
    site.run(["nginx", "-p", str(site.folder), "-c", str(site.folder / "nginx.conf"), "-g", "daemon off;"])


def _caddy(site: Site) -> None:
    _behind(site)
    text = site.before_gunicorn(examples()["caddy"]).replace("kimi.example.com", f"http://127.0.0.1:{site.port}")
    (site.folder / "Caddyfile").write_text("{\n    admin off\n}\n" + text)
    site.run(["caddy", "run", "--adapter", "caddyfile", "--config", str(site.folder / "Caddyfile")])


def _haproxy(site: Site) -> None:
    _behind(site)
    text = site.before_gunicorn(examples()["haproxy"]).replace("bind :80", f"bind 127.0.0.1:{site.port}")
    (site.folder / "haproxy.cfg").write_text(text)
    site.run(["haproxy", "-db", "-f", str(site.folder / "haproxy.cfg")])


def _apache(site: Site, modules: list[str], text: str) -> None:
    """Apache with its event MPM and little else."""
    folder = site.folder / "apache"
    folder.mkdir(exist_ok=True)
    loaded = ["mpm_event", "authz_core", *modules]
    names = {"passenger": "mod_passenger"}
    places = [f"LoadModule {m}_module /usr/lib/apache2/modules/{names.get(m, f'mod_{m}')}.so" for m in loaded]
    lines = [
        f"ServerRoot {folder}",
        f"PidFile {folder}/pid",
        f"DefaultRuntimeDir {folder}",
        "ServerName localhost",
        "User www-data",
        "Group www-data",
        f"Listen 127.0.0.1:{site.port}",
        f"ErrorLog {folder}/error.log",
        *places,
        text,
    ]
    (folder / "apache.conf").write_text("\n".join(lines))
    site.run(["apache2", "-DFOREGROUND", "-f", str(folder / "apache.conf")])


def _mod_proxy(site: Site) -> None:
    _behind(site)
    _apache(site, ["proxy", "proxy_http"], site.before_gunicorn(examples()["mod_proxy"]))


def _mod_wsgi(site: Site) -> None:
    place = f"WSGISocketPrefix {site.folder}/apache/wsgi\n"
    _apache(site, ["wsgi"], place + site.example(examples()["mod_wsgi"]))


def _touch_wsgi(site: Site) -> None:
    (site.kimi / "wsgi.py").touch()
    # It looks at the file when a request comes.
    requests.get(f"{site.url}/healthz", timeout=30)


def _passenger(site: Site) -> None:
    file = site.kimi / "passenger_wsgi.py"
    file.write_text(examples()["passenger_wsgi.py"])
    site.give(file)
    root = "PassengerRoot /usr/lib/ruby/vendor_ruby/phusion_passenger/locations.ini\n"
    _apache(site, ["passenger"], root + site.example(examples()["passenger"]))


def _restart_passenger(site: Site) -> None:
    (site.kimi / "tmp" / "restart.txt").touch()


def _uwsgi(site: Site) -> None:
    (site.kimi / "reload").touch()
    (site.folder / "uwsgi.ini").write_text(site.example(examples()["uwsgi"]))
    site.run(["uwsgi", "--ini", str(site.folder / "uwsgi.ini")])


def _uwsgi_refusals(site: Site) -> list[str]:
    """What is wrong where the gateway cannot start: uWSGI must end, with one line of ours."""
    faults = []
    (site.kimi / "reload").touch()
    late, env = "gevent-monkey-patch = true", site.kimi / ".env"
    for option, setting in ((late, ""), ("", "HEARTBEAT_S='x'\n")):
        settings = env.read_text()
        env.write_text(settings + setting)
        (site.folder / "uwsgi.ini").write_text(f"{site.example(examples()['uwsgi'])}\n{option}\n")
        site.run(["uwsgi", "--ini", str(site.folder / "uwsgi.ini")])
        refused = site.processes.pop()
        try:
            refused.wait(30)
        except subprocess.TimeoutExpired:
            faults.append(f"it does not end with {option or setting}")
            refused.kill()
        lines = [line for line in site.log.read_text(errors="replace").splitlines() if "kimi-gateway:" in line]
        if len(lines) != 1:
            faults.append(f"{len(lines)} lines of ours with {option or setting}: {lines[:3]}")
        site.log.unlink()
        env.write_text(settings)
    return faults


def _reload_uwsgi(site: Site) -> None:
    (site.kimi / "reload").touch()


def _waitress(site: Site) -> None:
    site.run(shlex.split(site.example(examples()["waitress"])), site.kimi)


def _restart_waitress(site: Site) -> None:
    """It has no reload."""
    site.processes.pop().terminate()
    _waitress(site)


def _package(name: str) -> tuple[str, ...]:
    """The command that says the version of a Debian package."""
    return ("dpkg-query", "-W", "-f", "${Version}", name)


HOSTS = (
    Host("gunicorn", "gunicorn", "gunicorn", ("gunicorn", "--version"), _gunicorn, _reload_gunicorn),
    Host("nginx", "nginx", "nginx", ("nginx", "-v"), _nginx, _reload_gunicorn),
    Host("caddy", "Caddy", "caddy", ("caddy", "version"), _caddy, _reload_gunicorn),
    Host("haproxy", "HAProxy", "haproxy", ("haproxy", "-v"), _haproxy, _reload_gunicorn),
    Host("mod_proxy", "Apache mod_proxy", "apache2", ("apache2", "-v"), _mod_proxy, _reload_gunicorn),
    Host("mod_wsgi", "Apache mod_wsgi", "apache2", _package("libapache2-mod-wsgi-py3"), _mod_wsgi, _touch_wsgi),
    Host("passenger", "Passenger", "apache2", _package("libapache2-mod-passenger"), _passenger, _restart_passenger),
    Host("uwsgi", "uWSGI", "uwsgi", ("uwsgi", "--version"), _uwsgi, _reload_uwsgi, _uwsgi_refusals),
    Host(
        "waitress",
        "waitress",
        "waitress-serve",
        ("python", "-c", "from importlib import metadata; print(metadata.version('waitress'))"),
        _waitress,
        _restart_waitress,
    ),
)


def is_installed(host: Host, path: str) -> bool:
    return shutil.which(host.program, path=path) is not None
