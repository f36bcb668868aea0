"""The gateway with one more upstream and one more public API: a line for each."""

import os

from app.factory import PUBLIC_APIS, UPSTREAMS, create_app
from app.settings.config import Config
from tests.upstreams.toy import dialect
from tests.upstreams.toy.upstream import build

app = create_app(Config.from_env(os.environ), (*PUBLIC_APIS, dialect), (*UPSTREAMS, build))
