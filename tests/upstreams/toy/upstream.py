"""An upstream that repeats what it is sent, with pictures as their types and sizes."""

from collections.abc import Generator, Iterator, Sequence

from app.chat import Attachment, ChatRequest, Event, Finished, Message, Model, Options, Started, TextDelta
from app.concurrency.background import Cancellation
from app.concurrency.watchdog import Watchdog
from app.settings.config import Config
from app.text.prompt import Prompt
from app.upstreams import ListedChat, PreparedTurn, Renew, Resume, Supports, Tap, UpstreamGroup
from app.upstreams.account import Account

_MODEL = Model("parrot-1", "Parrot")


class Parrot:
    name = "parrot"
    supports = Supports(images=True)

    def models(self) -> Sequence[Model]:
        return [_MODEL]

    def rank(self, model_id: str) -> int | None:
        return 0 if model_id == _MODEL.id else None

    def sites(self, model_id: str) -> None:
        return None

    def unmet(self, _model_id: str, options: Options) -> list[str]:
        return ["thinking-unavailable"] if options.thinking else []

    def prepare(self, request: ChatRequest, messages: Sequence[Message]) -> PreparedTurn:
        parts = [part for message in messages for part in message.parts]
        texts = [
            f"<{part.media_type}:{part.size}>" if isinstance(part, Attachment) else getattr(part, "text", "")
            for part in parts
        ]
        return PreparedTurn(request, Prompt(" ".join(texts)))

    def open(
        self,
        turn: PreparedTurn,
        account: Account,
        resume: Resume | None,
        cancellation: Cancellation,
        renew: Renew | None = None,
    ) -> Generator[Event, None, None]:
        yield Started(resume.chat_id if resume else f"chat of {account.label}", "answer-1")
        for word in turn.text.split(" "):
            cancellation.check()
            yield TextDelta(f"{word} ")
        yield Finished("stop")

    def delete_chat(self, account: Account, chat_id: str) -> None:
        pass

    def asks(self, turn: PreparedTurn) -> Sequence[str]:
        return [turn.text]

    def latest_chats(self, account: Account) -> Iterator[ListedChat]:
        return iter(())

    def questions(self, account: Account, chat_id: str) -> Sequence[str]:
        return []


def build(_config: Config, _watchdog: Watchdog, _tap: Tap | None) -> UpstreamGroup:
    return UpstreamGroup([Parrot()])
