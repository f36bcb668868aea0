"""What a pasted text is, in English, for the commands."""

import time

from app.accounts.management import Checked
from app.upstreams.account import duration, when


def describe_checked(checked: Checked) -> str:
    """What a pasted text is, and what follows from that."""
    now = time.time()
    whose = f" of the Kimi user …{checked.user_hint}" if checked.user_hint else ""
    if checked.kind == "access":
        ends = checked.access_expires_at
        lives = f"it expires in {duration(ends - now)} and " if ends is not None and ends > now else ""
        lives = f"it expired at {when(ends)} and " if ends is not None and ends <= now else lives
        said = f"an access token{whose}: {lives}nothing renews it; better: a refresh token (README, 'Get a token')"
    else:
        ends = checked.login_ends_at
        until = f"; unused, the login ends at {when(ends)}" if ends is not None else ""
        said = f"a refresh token{whose}: the gateway renews it{until}"
    if checked.refused:
        said += "; Kimi refuses it: it was used or ended elsewhere, or the login has ended. Log in again"
    if checked.same_token:
        said += f"; it is the token that '{checked.known_as}' has already"
    elif checked.known_as:
        said += f"; it replaces the token of '{checked.known_as}'"
    if not checked.sealed:
        said += "; the database stores it unencrypted, because GATEWAY_SECRET is not set"
    return f"{checked.site}; {said}"
