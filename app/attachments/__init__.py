"""Images and documents: from what a client sends to what an upstream can be sent."""

from app.attachments.content import decoded_to_disk
from app.attachments.fetching import Fetcher
from app.attachments.files import AboutFile, FileLimits, Files
from app.attachments.folder import Folder, free_bytes_at
from app.attachments.resolving import AttachmentLimits, Attachments

__all__ = [
    "AboutFile",
    "AttachmentLimits",
    "Attachments",
    "Fetcher",
    "FileLimits",
    "Files",
    "Folder",
    "decoded_to_disk",
    "free_bytes_at",
]
